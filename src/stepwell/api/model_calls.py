"""What models were asked in a run and what they answered, as lines for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell.model.offload import INFER
from stepwell.model.payload import decode
from stepwell.node.reads.payloads import text_of
from stepwell.node.reads.trace_text import Line, Piece, Role
from stepwell.wire.inngest.text import shortened
from stepwell.wire.models import dialect_for
from stepwell.wire.models.dialect import Prompt
from stepwell.wire.offload import InvalidRequest, read_request

if TYPE_CHECKING:
    from stepwell.node.node import Node
    from stepwell.node.reads.runs import Span, Trace

MOST_CALLS = 20
MOST_MESSAGES = 10
_LETTERS = 300


async def model_lines(node: Node, trace: Trace) -> list[Line]:
    """A section with the calls of models; nothing if there were none."""
    asked = [span for span in trace.root.children if span.step_kind == INFER]
    found: list[Line] = []
    for span in asked[:MOST_CALLS]:
        found += await _call(node, span)
    if len(asked) > MOST_CALLS:
        found.append((Piece(Role.DETAIL, f"  and {len(asked) - MOST_CALLS} more"),))
    return [(), (Piece(Role.HEADING, "Models"),), *found] if found else []


async def _call(node: Node, span: Span) -> list[Line]:
    request, output = await text_of(node.store, span.input), await text_of(node.store, span.output)
    prompt, answer = _prompt(request), _answer(request, output)
    model = (span.exchange.model if span.exchange is not None else "") or prompt.model
    found: list[Line] = [(Piece(Role.NAME, f"  {span.name}"), Piece(Role.DETAIL, f"  {model}"))]
    left_out = len(prompt.messages) - MOST_MESSAGES
    if left_out > 0:
        found.append((Piece(Role.DETAIL, f"    {left_out} earlier messages"),))
    for message in prompt.messages[-MOST_MESSAGES:]:
        calls = [f"calls {call.name}({shortened(call.arguments, 100)})" for call in message.tool_calls]
        found.append(_said(message.role, " ".join(filter(None, [message.text, *calls]))))
    if prompt.tools:
        found.append((Piece(Role.DETAIL, f"    offered    {', '.join(prompt.tools)}"),))
    if answer is not None:
        found.append(_said("answer", answer))
    return found


def _said(who: str, what: str) -> Line:
    return (Piece(Role.DETAIL, f"    {who:<10} "), Piece(Role.PLAIN, shortened(what, _LETTERS)))


def _prompt(request: bytes | None) -> Prompt:
    if request is None:
        return Prompt()
    try:
        read = read_request(request)
    except InvalidRequest:
        return Prompt()
    return dialect_for(read.format, read.url).prompt(read.url, read.body or b"{}")


def _answer(request: bytes | None, output: bytes | None) -> str | None:
    """The words of an answer, and the tools that it calls."""
    if request is None or output is None:
        return None
    value: Any = decode(output)
    if not isinstance(value, dict):
        return str(value)
    if "response" in value and "text" in value:  # read by the gateway already
        calls = [(str(call["name"]), str(call["arguments"])) for call in value.get("tool_calls", ())]
        text = str(value["text"])
    else:
        read = read_request(request)
        answer = dialect_for(read.format, read.url).answer(value)
        calls, text = [(call.name, call.arguments) for call in answer.tool_calls], answer.text
    return " ".join(filter(None, [text, *(f"calls {name}({shortened(given, 100)})" for name, given in calls)]))
