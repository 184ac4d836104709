"""Anthropic's messages.

A stream starts with the whole message but for its content (`message_start`), then brings block after block
(`content_block_start`, `content_block_delta` ..., `content_block_stop`), then what changed in the message
(`message_delta`: why it stopped, the counts so far) and `message_stop`; `ping` may come anywhere. The input of a tool
comes as pieces of JSON text, `partial_json`, which mean something only when they are whole. Counts in `message_delta`
are totals: they replace those of the start, and the ones it leaves out stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
    error_message,
    media,
    members,
    number,
    objects,
    parameters,
    text,
    written,
)
from stepwell.wire.models.errors import AnswerMalformed, StreamFailed
from stepwell.wire.models.failure import Failure, failed

_VERSION = "2023-06-01"
_TRUE = msgspec.Raw(b"true")

_APPENDED = {
    "text_delta": ("text", DeltaKind.TEXT),
    "thinking_delta": ("thinking", DeltaKind.REASONING),
}


class Anthropic(Dialect):
    name: ClassVar[str] = "anthropic"
    provider: ClassVar[str] = "anthropic"

    def prompt(self, url: str, body: bytes) -> Prompt:
        asked = body_document(body)
        system = asked.get("system")
        first = (Message("system", _content(system)),) if system else ()
        return Prompt(
            model=self.model(url, body),
            messages=first + tuple(_message(each) for each in objects(asked.get("messages"))),
            tools=tuple(text(each.get("name")) or text(each.get("type")) for each in objects(asked.get("tools"))),
            parameters=parameters(asked, leave_out=("model", "stream", "system")),
        )

    def assembler(self, budget: Budget) -> Assembler:
        return _Events(budget)

    def answer(self, document: Document) -> Answer:
        blocks = objects(document.get("content"))
        return Answer(
            model=text(document.get("model")),
            response_id=text(document.get("id")),
            text="".join(text(block.get("text")) for block in blocks if block.get("type") == "text"),
            reasoning="".join(text(block.get("thinking")) for block in blocks if block.get("type") == "thinking"),
            tool_calls=tuple(_tool_calls(blocks)),
            finish_reasons=tuple(reason for reason in (text(document.get("stop_reason")),) if reason),
            usage=_usage(document.get("usage")),
        )

    def failure(self, status: int, headers: Mapping[str, str], body: bytes, *, now_ms: Instant) -> Failure:
        return _failure(status, headers, body, now_ms=now_ms)

    def _form(self, url: str, members: dict[str, msgspec.Raw], streamed: bool) -> tuple[str, dict[str, msgspec.Raw]]:
        members = {name: value for name, value in members.items() if name != "stream"}
        return url, members | {"stream": _TRUE} if streamed else members

    def authentication(self, auth_key: str) -> dict[str, str]:
        return {"x-api-key": auth_key}

    def _own_headers(self, header_names: set[str]) -> dict[str, str]:
        return {"anthropic-version": _VERSION}


def _failure(status: int, headers: Mapping[str, str], body: bytes, *, now_ms: Instant) -> Failure:
    document = body_document(body)
    error = members(document.get("error"))
    read = failed(
        status,
        headers,
        message=error_message(error or document, body, status),
        codes=(text(error.get("type")),),
        now_ms=now_ms,
    )
    told_id = text(document.get("request_id"))
    return replace(read, request_id=told_id) if told_id and not read.request_id else read


class _Events(Assembler):
    def __init__(self, budget: Budget) -> None:
        super().__init__(budget)
        self._message: dict[str, Any] | None = None
        self._blocks: dict[int, dict[str, Any]] = {}
        self._inputs: dict[int, Text] = {}  # JSON text of tools' inputs
        self._stopped = False

    def feed(self, name: str, data: bytes) -> list[Delta]:
        event = event_document(data, "an event of the provider's stream")
        kind = text(event.get("type")) or name
        if kind == "error" or (event.get("error") and kind not in _KINDS):
            raise StreamFailed(_failure(0, {}, data, now_ms=0))
        if kind not in _KINDS:
            return []  # a ping, or a kind that is newer than we are
        if kind == "message_start":
            self._budget.spend(len(data))
            self._message = dict(members(event.get("message")))
            for index, block in enumerate(objects(self._message.get("content"))):
                self._blocks[index] = dict(block)
            return []
        if self._message is None:
            raise AnswerMalformed(f"the provider's stream begins with {kind!r} instead of 'message_start'")
        match kind:
            case "content_block_start":
                return self._start(number(event.get("index")), members(event.get("content_block")), len(data))
            case "content_block_delta":
                return self._grow(number(event.get("index")), members(event.get("delta")), len(data))
            case "content_block_stop":
                self._settle(number(event.get("index")))
            case "message_delta":
                self._change(event, len(data))
            case _:
                self._stopped = True
        return []

    @property
    def ended(self) -> bool:
        return self._stopped

    @property
    def complete(self) -> bool:
        return self._stopped or (self._message is not None and bool(self._message.get("stop_reason")))

    def document(self) -> Document:
        document = dict(self._message or {})
        content: list[Document] = []
        for index, block in sorted(self._blocks.items()):
            settled = {name: str(value) if isinstance(value, Text) else value for name, value in block.items()}
            if index in self._inputs:  # was cut before its end
                settled["input"] = body_document(str(self._inputs[index]).encode())
            content.append(settled)
        return document | {"content": content} if document else {}

    def _start(self, index: int, block: Document, size: int) -> list[Delta]:
        self._budget.spend(size)
        self._blocks[index] = dict(block)
        if "input" in block:
            return [Delta(DeltaKind.TOOL_CALL, index=index, name=text(block.get("name")))]
        return self._said(index, block)

    def _said(self, index: int, block: Document) -> list[Delta]:
        """A block may begin with some of its text."""
        return [Delta(kind, said, index) for name, kind in _APPENDED.values() if (said := text(block.get(name)))]

    def _grow(self, index: int, delta: Document, size: int) -> list[Delta]:
        if (block := self._blocks.get(index)) is None:
            raise AnswerMalformed(f"the provider's stream continues the block {index}, which it never began")
        kind = text(delta.get("type"))
        if kind in _APPENDED:
            name, shown = _APPENDED[kind]
            piece = text(delta.get(name))
            if not isinstance(grown := block.get(name), Text):
                grown = block[name] = Text(self._budget, text(grown))
            grown.add(piece)
            return [Delta(shown, piece, index)] if piece else []
        if kind == "input_json_delta":
            piece = text(delta.get("partial_json"))
            self._inputs.setdefault(index, Text(self._budget)).add(piece)
            return [Delta(DeltaKind.TOOL_ARGUMENTS, piece, index)] if piece else []
        self._budget.spend(size)
        if kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or []), delta.get("citation")]
        else:  # `signature_delta`, and kinds that are newer than we are: their members are the block's
            block.update({name: value for name, value in delta.items() if name != "type"})
        return []

    def _settle(self, index: int) -> None:
        written_input = self._inputs.pop(index, None)
        if written_input is None or not str(written_input):
            return
        try:
            self._blocks[index]["input"] = msgspec.json.decode(str(written_input))
        except (msgspec.DecodeError, RecursionError):
            # Cut by `max_tokens`, or never valid. The plain form has no place for half a document; this is how
            # Anthropic advises to hand such an input back to the model.
            self._blocks[index]["input"] = {"INVALID_JSON": str(written_input)}

    def _change(self, event: Document, size: int) -> None:
        assert self._message is not None
        self._budget.spend(size)
        for name, value in members(event.get("delta")).items():
            if value is not None or name not in self._message:
                self._message[name] = value
        told = {name: value for name, value in members(event.get("usage")).items() if value is not None}
        self._message["usage"] = {**members(self._message.get("usage")), **told}
        for name, value in event.items():
            if name not in ("type", "delta", "usage"):
                self._message[name] = value


_KINDS = frozenset(
    "message_start content_block_start content_block_delta content_block_stop message_delta message_stop".split()
)


def _usage(value: object) -> Usage | None:
    told = members(value)
    if not told:
        return None
    read, write = number(told.get("cache_read_input_tokens")), number(told.get("cache_creation_input_tokens"))
    return Usage(
        input_tokens=number(told.get("input_tokens")) + read + write,
        output_tokens=number(told.get("output_tokens")),
        cached_read_tokens=read,
        cached_write_tokens=write,
        cached_write_long_tokens=number(members(told.get("cache_creation")).get("ephemeral_1h_input_tokens")),
        reasoning_tokens=number(members(told.get("output_tokens_details")).get("thinking_tokens")),
        web_searches=number(members(told.get("server_tool_use")).get("web_search_requests")),
    )


def _message(message: Document) -> Message:
    content = message.get("content")
    blocks = objects(content)
    answered = next((text(block.get("tool_use_id")) for block in blocks if block.get("tool_use_id")), "")
    return Message(text(message.get("role")), _content(content), tuple(_tool_calls(blocks)), answered)


def _content(content: object) -> str:
    """The text of a content, which is text or a list of blocks."""
    return content if isinstance(content, str) else "".join(_block(block) for block in objects(content))


def _block(block: Document) -> str:
    match text(block.get("type")):
        case "text":
            return text(block.get("text"))
        case "image" | "document" as kind:
            source = members(block.get("source"))
            if source.get("type") == "text":
                return text(source.get("data"))
            where = text(source.get("url")) or text(source.get("file_id")) or text(block.get("title"))
            return media(kind, text(source.get("media_type")), text(source.get("data")), where)
        case "tool_result":
            return _content(block.get("content"))
        case "tool_use" | "server_tool_use" | "thinking" | "redacted_thinking":
            return ""
        case kind:
            return f"[{kind or 'block'}]"


def _tool_calls(blocks: list[Document]) -> list[ToolCall]:
    return [
        ToolCall(text(block.get("id")), text(block.get("name")), written(block.get("input")))
        for block in blocks
        if block.get("type") in ("tool_use", "server_tool_use", "mcp_tool_use")
    ]
