"""OpenAI's chat completions, which most other providers and local servers imitate.

A stream is chunks of `chat.completion.chunk` without names, ended by `data: [DONE]`. Each choice grows by its `delta`:
texts by appending, tool calls by their `index`. The usage comes in a last chunk without choices, if
`stream_options.include_usage` asked for it. Imitators differ in small ways that are read here too: no `[DONE]`,
`choices: null`, tool calls without an index or all with index 0, usage in every chunk or under `x_groq`.
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
    replace,
)
from stepwell.wire.models.document import (
    Document,
    body_document,
    data_address,
    error_message,
    media,
    members,
    number,
    objects,
    parameters,
    text,
    texts,
    written,
)
from stepwell.wire.models.errors import StreamFailed
from stepwell.wire.models.failure import Failure, failed
from stepwell.wire.models.repeated import Repeated

_TRUE = msgspec.Raw(b"true")


class OpenAIChat(Dialect):
    name: ClassVar[str] = "openai-chat"
    provider: ClassVar[str] = "openai"

    def prompt(self, url: str, body: bytes) -> Prompt:
        asked = body_document(body)
        return Prompt(
            model=self.model(url, body),
            messages=tuple(_message(each) for each in objects(asked.get("messages"))),
            tools=tuple(_tool_name(each) for each in objects(asked.get("tools"))),
            parameters=parameters(asked, leave_out=("model", "stream")),
        )

    def assembler(self, budget: Budget) -> Assembler:
        return _Chunks(budget)

    def answer(self, document: Document) -> Answer:
        choices = objects(document.get("choices"))
        messages = [members(choice.get("message")) for choice in choices]
        return Answer(
            model=text(document.get("model")),
            response_id=text(document.get("id")),
            text="".join(_content(message.get("content")) for message in messages),
            reasoning="".join(_reasoning(message) for message in messages),
            refusal="".join(text(message.get("refusal")) for message in messages),
            tool_calls=tuple(call for message in messages for call in _tool_calls(message)),
            finish_reasons=tuple(text(choice.get("finish_reason")) for choice in choices),
            usage=self._usage(document.get("usage")),
            cost_usd=_cost(document.get("stepwell")),
        )

    def failure(self, status: int, headers: Mapping[str, str], body: bytes, *, now_ms: Instant) -> Failure:
        return openai_failure(status, headers, body, now_ms=now_ms)

    def _can_stream(self, url: str, members: Mapping[str, msgspec.Raw]) -> bool:
        # A stream of sound has only one of the formats that a plain answer can have.
        return b'"audio"' not in bytes(members.get("modalities", b""))

    def _form(self, url: str, members: dict[str, msgspec.Raw], streamed: bool) -> tuple[str, dict[str, msgspec.Raw]]:
        members = {name: value for name, value in members.items() if name not in ("stream", "stream_options")} | (
            {"stream": _TRUE, "stream_options": _with_usage(members.get("stream_options"))} if streamed else {}
        )
        return url, members

    def _usage(self, value: object) -> Usage | None:
        told = members(value)
        if not told:
            return None
        prompt, completion = number(told.get("prompt_tokens")), number(told.get("completion_tokens"))
        of_prompt = members(told.get("prompt_tokens_details"))
        of_completion = members(told.get("completion_tokens_details"))
        reasoning = number(of_completion.get("reasoning_tokens"))
        if reasoning and number(told.get("total_tokens")) == prompt + completion + reasoning:
            completion += reasoning  # xAI counts reasoning beside the completion, not in it
        return Usage(
            input_tokens=prompt,
            output_tokens=completion,
            cached_read_tokens=number(of_prompt.get("cached_tokens")) or number(told.get("prompt_cache_hit_tokens")),
            cached_write_tokens=number(of_prompt.get("cache_write_tokens")),
            reasoning_tokens=reasoning,
            input_audio_tokens=number(of_prompt.get("audio_tokens")),
            output_audio_tokens=number(of_completion.get("audio_tokens")),
        )


def _cost(told: object) -> float | None:
    """What one of our own apps cost."""
    cost = members(told).get("cost_usd")
    return cost if isinstance(cost, int | float) and not isinstance(cost, bool) else None


def openai_failure(
    status: int, headers: Mapping[str, str], body: bytes, *, now_ms: Instant, error: Document | None = None
) -> Failure:
    """Read an error in OpenAI's form, `{"error": {"message", "type", "param", "code"}}`.

    Args:
        error: What is in `error`, if the caller has read it already.
    """
    if error is None:
        document = body_document(body)
        error = members(document.get("error")) or document
    code = error.get("code")
    message = error_message(error, body, status)
    # Organisations that may not stream, models that cannot, servers that do not know `stream_options`: each says it in
    # its own words. To ask once more in vain, where the word stood there by chance, does no harm.
    stream_refused = status in (400, 422) and b"stream" in body.lower()
    return failed(
        status,
        headers,
        message=message,
        codes=(code if isinstance(code, str) else "", text(error.get("type"))),
        now_ms=now_ms,
        stream_refused=stream_refused,
    )


_IDENTITIES = frozenset({"role", "id", "type", "name", "object", "format"})
"""Texts that a delta sets; any other text of a delta is appended."""

_NOT_IN_ANSWERS = frozenset({"choices", "object", "usage", "obfuscation", "x_groq", "error"})
_NOTHING = object()
_REASONING = ("reasoning_content", "reasoning")


class _Choice:
    """One choice of a completion, as it grows. `call_indexes` are the `index` members of its tool calls."""

    def __init__(self) -> None:
        self.message: dict[str, Any] = {}
        self.call_indexes: list[object] = []
        self.logprobs: dict[str, Any] | None = None
        self.finish_reason: str | None = None
        self.other: dict[str, Any] = {}

    def place_of(self, piece: Document) -> int | None:
        """Which tool call a piece continues; None if it begins one."""
        calls: list[dict[str, Any]] = self.message.get("tool_calls") or []
        id, index = text(piece.get("id")), piece.get("index")
        for place in range(len(calls) - 1, -1, -1):
            same_id = not id or calls[place].get("id") in (None, "", id)
            if self.call_indexes[place] == index and same_id:
                return place
        return None

    def document(self, index: int) -> Document:
        message = _settled(self.message)
        if message.get("tool_calls") and message.get("content") == "":
            message["content"] = None
        return {
            "index": index,
            "message": message,
            "logprobs": self.logprobs,
            "finish_reason": self.finish_reason,
            **self.other,
        }


class _Chunks(Assembler):
    def __init__(self, budget: Budget) -> None:
        super().__init__(budget)
        self._head: dict[str, Any] = {}
        self._usage: Document | None = None
        self._choices: dict[int, _Choice] = {}
        self._done = False
        self._repeated = Repeated("content")
        self._grown: tuple[Text, int] | None = None  # what grew by the event that is repeated, and its index

    def feed(self, name: str, data: bytes) -> list[Delta]:
        if self._grown is not None and (same := self._repeated.text(data)) is not None:
            grown, index = self._grown
            grown.add(same)
            return [Delta(DeltaKind.TEXT, same, index)] if same else []
        self._grown = None
        if data.strip() == b"[DONE]":
            self._done = True
            return []
        chunk = event_document(data, "an event of the provider's stream")
        if chunk.get("error"):
            raise StreamFailed(openai_failure(0, {}, data, now_ms=0))
        for member, value in chunk.items():
            if member in _NOT_IN_ANSWERS or value == "":  # Azure's first chunk has no id and no model yet
                continue
            if self._head.get(member, _NOTHING) != value:  # most of it is told again with each piece
                replace(self._head, member, value, self._budget)
        usage = chunk.get("usage") or members(chunk.get("x_groq")).get("usage")
        if isinstance(usage, dict):
            self._usage = usage
        deltas: list[Delta] = []
        for piece in objects(chunk.get("choices")):
            self._grow_choice(piece, deltas)
        self._learn(chunk, data)
        return deltas

    def _learn(self, chunk: Document, data: bytes) -> None:
        """Remember an event by which nothing but one text grew: the others of an answer are like it."""
        choices = chunk.get("choices")
        if not isinstance(choices, list) or len(choices) != 1:
            return
        piece = members(choices[0])
        delta = members(piece.get("delta"))
        if piece.get("finish_reason") or piece.get("logprobs") or not isinstance(delta.get("content"), str):
            return
        if any(value is not None and name not in ("content", "role", "obfuscation") for name, value in delta.items()):
            return
        index = number(piece.get("index"))
        grown = self._choices[index].message.get("content")
        if isinstance(grown, Text):
            self._grown = grown, index
            self._repeated.learn(data)

    @property
    def ended(self) -> bool:
        return self._done

    @property
    def complete(self) -> bool:
        finished = bool(self._choices) and all(choice.finish_reason for choice in self._choices.values())
        return finished or (self._done and bool(self._head))

    def document(self) -> Document:
        head = dict(self._head)
        document: Document = {name: head.pop(name) for name in ("id",) if name in head}
        document["object"] = "chat.completion"
        document |= {name: head.pop(name) for name in ("created", "model") if name in head}
        document["choices"] = [choice.document(index) for index, choice in sorted(self._choices.items())]
        if self._usage is not None:
            document["usage"] = self._usage
        return document | head

    def _grow_choice(self, piece: Document, deltas: list[Delta]) -> None:
        index = number(piece.get("index"))
        if (choice := self._choices.get(index)) is None:
            self._budget.spend(256)
            choice = self._choices[index] = _Choice()
        for name, value in piece.items():
            if value is None or name in ("index", "delta"):
                continue
            if name == "finish_reason":
                choice.finish_reason = text(value) or choice.finish_reason
            elif name == "logprobs":
                choice.logprobs = self._joined(choice.logprobs, members(value))
            else:
                replace(choice.other, name, value, self._budget)
        delta = members(piece.get("delta"))
        for name, value in delta.items():
            if name == "tool_calls":
                for call in objects(value):
                    self._grow_call(choice, call, deltas)
            elif name != "obfuscation":
                self._grow(choice.message, name, value)
        deltas += _deltas(delta, index)

    def _grow_call(self, choice: _Choice, piece: Document, deltas: list[Delta]) -> None:
        calls: list[dict[str, Any]] = choice.message.setdefault("tool_calls", [])
        place = choice.place_of(piece)
        function = members(piece.get("function"))
        if place is None:
            self._budget.spend(256)
            place = len(calls)
            calls.append({})
            choice.call_indexes.append(piece.get("index"))
            deltas.append(Delta(DeltaKind.TOOL_CALL, index=place, name=text(function.get("name"))))
        for name, value in piece.items():
            if name != "index":
                self._grow(calls[place], name, value)
        if arguments := text(function.get("arguments")):
            deltas.append(Delta(DeltaKind.TOOL_ARGUMENTS, arguments, place))

    def _grow(self, target: dict[str, Any], name: str, value: object) -> None:
        known = target.get(name)
        if value is None:
            target.setdefault(name, None)
        elif isinstance(value, str) and name not in _IDENTITIES:
            if isinstance(known, Text):
                known.add(value)
            else:
                self._budget.spend(64)
                target[name] = Text(self._budget, value)
        elif isinstance(value, dict):
            inner = target[name] = known if isinstance(known, dict) else {}
            for inner_name, inner_value in value.items():
                self._grow(inner, inner_name, inner_value)
        elif isinstance(value, list):
            self._budget.spend(len(written(value)))
            target[name] = [*known, *value] if isinstance(known, list) else value
        elif value != "" or known is None:
            target[name] = value

    def _joined(self, known: dict[str, Any] | None, piece: Document) -> dict[str, Any] | None:
        if not piece:
            return known
        self._budget.spend(len(written(piece)))
        grown = known if known is not None else {}
        for name, value in piece.items():
            if isinstance(value, list) and isinstance(before := grown.get(name), list):
                before.extend(value)
            elif value is not None or name not in grown:
                grown[name] = value
        return grown


def _deltas(delta: Document, index: int) -> list[Delta]:
    if len(delta) == 1 and isinstance(content := delta.get("content"), str):  # as nearly all of them are
        return [Delta(DeltaKind.TEXT, content, index)] if content else []
    found: list[Delta] = []
    if content := _content(delta.get("content")):
        found.append(Delta(DeltaKind.TEXT, content, index))
    if reasoning := _reasoning(delta):
        found.append(Delta(DeltaKind.REASONING, reasoning, index))
    if refusal := text(delta.get("refusal")):
        found.append(Delta(DeltaKind.REFUSAL, refusal, index))
    return found


def _settled(value: Any) -> Any:
    """What grew, as it is now."""
    if isinstance(value, Text):
        return str(value)
    if isinstance(value, dict):
        return {name: _settled(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_settled(item) for item in value]
    return value


def _message(message: Document) -> Message:
    return Message(
        role=text(message.get("role")),
        text=_content(message.get("content")) or text(message.get("refusal")),
        tool_calls=tuple(_tool_calls(message)),
        tool_call_id=text(message.get("tool_call_id")),
    )


def _content(content: object) -> str:
    """The text of a content, which is text or a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(texts(content)) + "".join(_part(part) for part in objects(content))


def _part(part: Document) -> str:
    kind = text(part.get("type"))
    if kind in ("text", "refusal"):
        return text(part.get("text")) or text(part.get("refusal"))
    if kind == "image_url":
        address = text(members(part.get("image_url")).get("url")) or text(part.get("image_url"))
        return data_address("image", address)
    if kind == "input_audio":
        audio = members(part.get("input_audio"))
        return media("audio", text(audio.get("format")), text(audio.get("data")))
    if kind == "file":
        file = members(part.get("file"))
        name = text(file.get("filename")) or text(file.get("file_id"))
        return data_address("file", text(file.get("file_data")), name)
    return "" if kind == "thinking" else f"[{kind or 'part'}]"


def _reasoning(message: Document) -> str:
    """Reasoning as DeepSeek, xAI and vLLM name it, or OpenRouter, or in Mistral's parts of a content."""
    if found := next((value for name in _REASONING if (value := text(message.get(name)))), ""):
        return found
    thinking = [part for part in objects(message.get("content")) if part.get("type") == "thinking"]
    return "".join(_content(part.get("thinking")) for part in thinking)


def _tool_calls(message: Document) -> list[ToolCall]:
    calls: list[ToolCall] = []
    for call in objects(message.get("tool_calls")):
        called = members(call.get("function")) or members(call.get("custom"))
        arguments = called.get("arguments", called.get("input"))
        given = arguments if isinstance(arguments, str) else written(arguments) if arguments else ""
        calls.append(ToolCall(text(call.get("id")), text(called.get("name")), given))
    legacy = members(message.get("function_call"))
    if legacy and not calls:  # some engines write a call in both ways
        calls.append(ToolCall("", text(legacy.get("name")), text(legacy.get("arguments"))))
    return calls


def _tool_name(tool: Document) -> str:
    kind = text(tool.get("type"))
    return text(members(tool.get("function") or tool.get("custom")).get("name")) or kind


def _with_usage(options: msgspec.Raw | None) -> msgspec.Raw:
    """The caller's `stream_options`, and in them that the usage is told."""
    given = body_document(bytes(options)) if options is not None else {}
    return msgspec.Raw(msgspec.json.encode({**given, "include_usage": True}))
