"""What models were asked in a run and what they answered, as lines for a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stepwell.api.masking import NOTHING_HIDDEN
from stepwell.model.offload import FETCH, INFER
from stepwell.model.payload import canonical, decode
from stepwell.node.reads.payloads import text_of
from stepwell.node.reads.trace_text import Line, Piece, Role
from stepwell.wire.inngest.text import shortened
from stepwell.wire.models import dialect_for
from stepwell.wire.models.dialect import Answer, Dialect, Prompt, ToolCall
from stepwell.wire.models.errors import AnswerError
from stepwell.wire.offload import InvalidRequest, read_answer, read_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.api.masking import Redaction
    from stepwell.node.node import Node
    from stepwell.node.reads.runs import Span, Trace

WRAP = "step.ai.wrap"
MOST_CALLS = 20
MOST_MESSAGES = 10
_LETTERS = 300


@dataclass(frozen=True, slots=True)
class ModelCall:
    """What a model was asked and what it said. `answer` is None while it has not; tokens are None if nobody told."""

    prompt: Prompt
    answer: str | None
    model: str
    input_tokens: int | None = None
    output_tokens: int | None = None


async def model_lines(node: Node, trace: Trace, redaction: Redaction = NOTHING_HIDDEN) -> list[Line]:
    """A section with the calls of models; nothing if there were none."""
    asked = [span for span in trace.root.children if asks_model(span)]
    found: list[Line] = []
    for span in asked[:MOST_CALLS]:
        found += _lines(span, await model_call(node, span, redaction))
    if len(asked) > MOST_CALLS:
        found.append((Piece(Role.DETAIL, f"  and {len(asked) - MOST_CALLS} more"),))
    return [(), (Piece(Role.HEADING, "Models"),), *found] if found else []


def asks_model(span: Span) -> bool:
    """Whether it is a step that may have asked a model."""
    return span.step_kind in (INFER, WRAP) or _is_of_library(span)


def _is_of_library(span: Span) -> bool:
    """Whether it is a plain request that asked a model."""
    return span.step_kind == FETCH and span.exchange is not None and span.exchange.provider != ""


async def model_call(node: Node, span: Span, redaction: Redaction = NOTHING_HIDDEN) -> ModelCall | None:
    """The call of a model that a span is; None if it is a call of something else."""
    request = redaction.shown(await text_of(node.store, span.input))
    output = redaction.shown(await text_of(node.store, span.output))
    if span.step_kind == WRAP:
        prompt, wrapped = read_wrapped(request, output)
        if wrapped is None:
            return ModelCall(prompt, None, prompt.model) if prompt.messages else None
        usage = wrapped.usage
        return ModelCall(
            prompt,
            _words(wrapped.text, wrapped.tool_calls),
            wrapped.model or prompt.model,
            usage.input_tokens if usage is not None else None,
            usage.output_tokens if usage is not None else None,
        )
    prompt, exchange = _prompt(request), span.exchange
    answer = _answer(request, output)
    if exchange is None:
        return ModelCall(prompt, answer, prompt.model)
    model = exchange.model or prompt.model
    return ModelCall(prompt, answer, model, exchange.input_tokens, exchange.output_tokens)


def _lines(span: Span, call: ModelCall | None) -> list[Line]:
    if call is None:
        return []
    prompt, answer, used = call.prompt, call.answer, ""
    if span.step_kind == WRAP and call.input_tokens is not None:
        used = f" · {call.input_tokens} → {call.output_tokens} tokens"
    found: list[Line] = [(Piece(Role.NAME, f"  {span.name}"), Piece(Role.DETAIL, f"  {call.model}{used}"))]
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
        calls = [ToolCall("", str(call["name"]), str(call["arguments"])) for call in value.get("tool_calls", ())]
        return _words(str(value["text"]), calls)
    read = read_request(request)
    dialect = dialect_for(read.format, read.url)
    answer = dialect.answer(value) if read.format else fetched(dialect, value)
    return _words(answer.text, answer.tool_calls)


def fetched(dialect: Dialect, value: Any) -> Answer:
    """What a model said whose answer is that of a fetch, plain or as a stream."""
    try:
        told = read_answer(value)
    except InvalidRequest:
        return Answer()
    content_type = {name.lower(): text for name, text in told.headers}.get("content-type", "")
    reader = dialect.reader(content_type, limit_bytes=len(told.body) + 1)
    try:
        reader.feed(told.body)
        return reader.finish().answer
    except AnswerError:  # one that broke off, or an error
        return reader.answer_so_far()


def _words(text: str, calls: Sequence[ToolCall]) -> str:
    return " ".join(filter(None, [text, *(f"calls {call.name}({shortened(call.arguments, 100)})" for call in calls)]))


# calls of a client of the user's own


def read_wrapped(given: bytes | None, result: bytes | None) -> tuple[Prompt, Answer | None]:
    """What a wrapped call asked and got, as far as its arguments and its result are those of a provider that we know.

    Args:
        given: The arguments as they are recorded: an array, with those given by name in an object at its end.
        result: What the call returned; None while it has not.
    """
    arguments = decode(given) if given is not None else None
    asked = arguments[-1] if isinstance(arguments, list) and arguments else arguments
    body: dict[str, Any] = asked if isinstance(asked, dict) else {}
    answer: Any = decode(result) if result is not None else None
    format = _format_of(answer) if isinstance(answer, dict) else None
    if format is None:
        format = "gemini" if "contents" in body else "openai-responses" if "input" in body else "openai-chat"
        return dialect_for(format, "").prompt("", canonical(body)), None
    dialect = dialect_for(format, "")
    return dialect.prompt("", canonical(body)), dialect.answer(answer)


def _format_of(answer: dict[str, Any]) -> str | None:
    """Whose answer has these members."""
    if "choices" in answer:
        return "openai-chat"
    if "content" in answer and "stop_reason" in answer:
        return "anthropic"
    if "output" in answer and answer.get("object") == "response":
        return "openai-responses"
    return "gemini" if "candidates" in answer else None
