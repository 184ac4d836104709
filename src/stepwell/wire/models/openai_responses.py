"""OpenAI's responses.

The stream's last event (`response.completed`, or `response.incomplete`) holds the whole plain answer, so nothing has
to be put together; the events before it are only for those who watch, and for an answer that is cut.
`response.failed` is an error in the middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from stepwell.model.ids import Instant
from stepwell.wire.models.dialect import (
    Answer,
    Assembler,
    Budget,
    Delta,
    DeltaKind,
    Dialect,
    Message,
    Prompt,
    Text,
    ToolCall,
    Usage,
    event_document,
)
from stepwell.wire.models.document import (
    Document,
    body_document,
    data_address,
    media,
    members,
    number,
    objects,
    parameters,
    text,
    written,
)
from stepwell.wire.models.errors import StreamFailed
from stepwell.wire.models.failure import Failure
from stepwell.wire.models.openai_chat import openai_failure

_TRUE = msgspec.Raw(b"true")

_DELTAS = {
    "response.output_text.delta": DeltaKind.TEXT,
    "response.refusal.delta": DeltaKind.REFUSAL,
    "response.reasoning_summary_text.delta": DeltaKind.REASONING,
    "response.reasoning_text.delta": DeltaKind.REASONING,
    "response.function_call_arguments.delta": DeltaKind.TOOL_ARGUMENTS,
    "response.custom_tool_call_input.delta": DeltaKind.TOOL_ARGUMENTS,
}
_CALLS = ("function_call", "custom_tool_call")


class OpenAIResponses(Dialect):
    name: ClassVar[str] = "openai-responses"
    provider: ClassVar[str] = "openai"

    def prompt(self, url: str, body: bytes) -> Prompt:
        asked = body_document(body)
        given, instructions = asked.get("input"), text(asked.get("instructions"))
        messages = [Message("system", instructions)] if instructions else []
        if isinstance(given, str):
            messages.append(Message("user", given))
        messages += [_message(item) for item in objects(given)]
        return Prompt(
            model=self.model(url, body),
            messages=tuple(messages),
            tools=tuple(text(tool.get("name")) or text(tool.get("type")) for tool in objects(asked.get("tools"))),
            parameters=parameters(asked, leave_out=("model", "stream", "input", "instructions")),
        )

    def assembler(self, budget: Budget) -> Assembler:
        return _Events(budget)

    def answer(self, document: Document) -> Answer:
        items = objects(document.get("output"))
        parts = [part for item in items if item.get("type") == "message" for part in objects(item.get("content"))]
        status = text(document.get("status"))
        reason = text(members(document.get("incomplete_details")).get("reason"))
        return Answer(
            model=text(document.get("model")),
            response_id=text(document.get("id")),
            text="".join(text(part.get("text")) for part in parts if part.get("type") == "output_text"),
            reasoning="".join(_reasoning(item) for item in items if item.get("type") == "reasoning"),
            refusal="".join(text(part.get("refusal")) for part in parts if part.get("type") == "refusal"),
            tool_calls=tuple(_tool_call(item) for item in items if item.get("type") in _CALLS),
            finish_reasons=tuple(word for word in (reason or status,) if word),
            usage=_usage(document.get("usage"), sum(item.get("type") == "web_search_call" for item in items)),
        )

    def failure(self, status: int, headers: Mapping[str, str], body: bytes, *, now_ms: Instant) -> Failure:
        return openai_failure(status, headers, body, now_ms=now_ms)

    def _can_stream(self, url: str, members: Mapping[str, msgspec.Raw]) -> bool:
        # In the background the plain answer comes at once and says `queued`; a stream would wait for the end.
        return bytes(members.get("background", b"")).strip() != b"true"

    def _form(self, url: str, members: dict[str, msgspec.Raw], streamed: bool) -> tuple[str, dict[str, msgspec.Raw]]:
        left_out = ("stream",) if streamed else ("stream", "stream_options")
        members = {name: value for name, value in members.items() if name not in left_out}
        return url, members | {"stream": _TRUE} if streamed else members


class _Events(Assembler):
    def __init__(self, budget: Budget) -> None:
        super().__init__(budget)
        self._response: Document = {}
        self._items: dict[int, Document] = {}
        self._texts: dict[int, Text] = {}  # of the item that is not done
        self._ended = False

    def feed(self, name: str, data: bytes) -> list[Delta]:
        if data.strip() == b"[DONE]":
            return []
        event = event_document(data, "an event of the provider's stream")
        kind = text(event.get("type")) or name
        if kind == "error" or (not kind and event.get("error")):
            raise StreamFailed(openai_failure(0, {}, data, now_ms=0, error=members(event.get("error")) or event))
        response, place = members(event.get("response")), number(event.get("output_index"))
        if kind == "response.failed":
            raise StreamFailed(openai_failure(0, {}, data, now_ms=0, error=members(response.get("error"))))
        if kind in ("response.completed", "response.incomplete", "response.done"):
            # The pieces until here are in it too: their share of the limit is given back.
            self._budget = self._budget.fresh()
            self._budget.spend(len(data))
            self._response, self._ended = response, True
            return []
        if response:
            self._response = response
        elif kind == "response.output_item.added":
            item = members(event.get("item"))
            self._budget.spend(len(data))
            self._items[place] = item
            if item.get("type") in _CALLS:
                return [Delta(DeltaKind.TOOL_CALL, index=place, name=text(item.get("name")))]
        elif kind == "response.output_item.done":
            said = self._texts.pop(place, None)
            self._budget.spend(len(data) - (said.size if said is not None else 0))
            self._items[place] = members(event.get("item"))
        elif (shown := _DELTAS.get(kind)) is not None and (piece := text(event.get("delta"))):
            if shown is DeltaKind.TEXT:
                self._texts.setdefault(place, Text(self._budget)).add(piece)
            return [Delta(shown, piece, place)]
        return []

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def complete(self) -> bool:
        return self._ended

    def document(self) -> Document:
        if self._ended:
            return self._response
        items = {place: {**self._items.get(place, {}), **_said(str(said))} for place, said in self._texts.items()}
        return {**self._response, "output": [item for _, item in sorted({**self._items, **items}.items())]}


def _said(said: str) -> Document:
    return {"type": "message", "content": [{"type": "output_text", "text": said}]}


def _usage(value: object, searches: int) -> Usage | None:
    told = members(value)
    if not told:
        return None
    of_input = members(told.get("input_tokens_details"))
    return Usage(
        input_tokens=number(told.get("input_tokens")),
        output_tokens=number(told.get("output_tokens")),
        cached_read_tokens=number(of_input.get("cached_tokens")),
        cached_write_tokens=number(of_input.get("cache_write_tokens")),
        reasoning_tokens=number(members(told.get("output_tokens_details")).get("reasoning_tokens")),
        web_searches=searches,
    )


def _message(item: Document) -> Message:
    kind = text(item.get("type")) or "message"
    if kind in _CALLS:
        return Message("assistant", "", (_tool_call(item),))
    if kind in ("function_call_output", "custom_tool_call_output"):
        return Message("tool", _content(item.get("output")), (), text(item.get("call_id")))
    if kind == "reasoning":
        return Message("assistant", _reasoning(item))
    if kind != "message":
        return Message(text(item.get("role")), f"[{kind}]")
    return Message(text(item.get("role")), _content(item.get("content")))


def _content(content: object) -> str:
    return content if isinstance(content, str) else "".join(_part(part) for part in objects(content))


def _part(part: Document) -> str:
    match text(part.get("type")):
        case "input_text" | "output_text" | "text" | "summary_text" | "reasoning_text":
            return text(part.get("text"))
        case "refusal":
            return text(part.get("refusal"))
        case "input_image":
            return data_address("image", text(part.get("image_url")) or text(part.get("file_id")))
        case "input_file":
            name = text(part.get("filename")) or text(part.get("file_id")) or text(part.get("file_url"))
            return data_address("file", text(part.get("file_data")), name)
        case "input_audio":
            audio = members(part.get("input_audio"))
            return media("audio", text(audio.get("format")), text(audio.get("data")))
        case kind:
            return f"[{kind or 'part'}]"


def _reasoning(item: Document) -> str:
    return _content(item.get("content")) or _content(item.get("summary"))


def _tool_call(item: Document) -> ToolCall:
    arguments: Any = item.get("arguments", item.get("input"))
    given = arguments if isinstance(arguments, str) else written(arguments) if arguments else ""
    return ToolCall(text(item.get("call_id")) or text(item.get("id")), text(item.get("name")), given)
