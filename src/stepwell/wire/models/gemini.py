"""Google's Gemini: `generateContent`, and `streamGenerateContent?alt=sse` for the stream.

Whether it streams is in the path, not in the body. Each event is a whole response with the next parts of each
candidate; the counts in `usageMetadata` are totals, so the last ones count. A plain answer has one part where the
stream has many, so neighbouring texts are joined. The end has no mark but each candidate's `finishReason`, or a
`blockReason` for a prompt that was refused.

`promptTokenCount` has the cached tokens in it, `candidatesTokenCount` has not the thoughts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote, urlsplit

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
    error_message,
    media,
    members,
    number,
    objects,
    parameters,
    text,
    written,
)
from stepwell.wire.models.errors import StreamFailed
from stepwell.wire.models.failure import Failure, duration_ms, failed

_METHOD = re.compile(r":(?:stream)?[gG]enerateContent(?=$|[?#])")
_MODEL = re.compile(r"/(?:models|endpoints|tunedModels)/([^/:?#]+)(?=[:?#]|$)")


class Gemini(Dialect):
    name: ClassVar[str] = "gemini"
    provider: ClassVar[str] = "google"

    def prompt(self, url: str, body: bytes) -> Prompt:
        asked = body_document(body)
        system = asked.get("systemInstruction", asked.get("system_instruction"))
        first = (Message("system", _shown(_parts(members(system)))),) if system else ()
        contents = asked.get("contents")
        listed = objects(contents) or ([contents] if isinstance(contents, dict) else [])
        declared = [tool for each in objects(asked.get("tools")) for tool in _declarations(each)]
        settings = members(asked.get("generationConfig", asked.get("generation_config")))
        return Prompt(
            model=self.model(url, body),
            messages=first + tuple(_message(each) for each in listed),
            tools=tuple(declared),
            parameters=parameters(settings),
        )

    def model(self, url: str, body: bytes) -> str:
        named = _MODEL.search(url)
        return unquote(named[1]) if named else super().model(url, body).removeprefix("models/")

    def assembler(self, budget: Budget) -> Assembler:
        return _Chunks(budget)

    def answer(self, document: Document) -> Answer:
        candidates = objects(document.get("candidates"))
        parts = [part for candidate in candidates for part in _parts(members(candidate.get("content")))]
        blocked = text(members(document.get("promptFeedback")).get("blockReason"))
        reasons = [text(candidate.get("finishReason")) for candidate in candidates] or [blocked]
        return Answer(
            model=text(document.get("modelVersion")),
            response_id=text(document.get("responseId")),
            text="".join(text(part.get("text")) for part in parts if not part.get("thought")),
            reasoning="".join(text(part.get("text")) for part in parts if part.get("thought")),
            tool_calls=tuple(_tool_calls(parts)),
            finish_reasons=tuple(reason for reason in reasons if reason),
            usage=_usage(document.get("usageMetadata")),
        )

    def failure(self, status: int, headers: Mapping[str, str], body: bytes, *, now_ms: Instant) -> Failure:
        return _failure(status, headers, body, now_ms=now_ms)

    def _can_stream(self, url: str, members: Mapping[str, msgspec.Raw]) -> bool:
        # Speech comes whole or not at all.
        return _METHOD.search(url) is not None and b'"speech' not in bytes(members.get("generationConfig", b""))

    def _form(self, url: str, members: dict[str, msgspec.Raw], streamed: bool) -> tuple[str, dict[str, msgspec.Raw]]:
        method = ":streamGenerateContent" if streamed else ":generateContent"
        address, _, query = _METHOD.sub(method, url, count=1).partition("?")
        pieces = [piece for piece in query.split("&") if piece and piece.partition("=")[0] != "alt"]
        pieces = ["alt=sse", *pieces] if streamed else pieces
        return (f"{address}?{'&'.join(pieces)}" if pieces else address), members

    def _authenticated(self, url: str, header_names: set[str]) -> bool:
        query = parse_qsl(urlsplit(url).query)
        return super()._authenticated(url, header_names) or any(name == "key" and value for name, value in query)

    def authentication(self, auth_key: str) -> dict[str, str]:
        return {"x-goog-api-key": auth_key}


def _failure(status: int, headers: Mapping[str, str], body: bytes, *, now_ms: Instant) -> Failure:
    document = body_document(body)
    error = members(document.get("error"))
    details = objects(error.get("details"))
    delays = [found for each in details if (found := duration_ms(text(each.get("retryDelay")))) is not None]
    reasons = [text(each.get("reason")) for each in details]
    code = text(error.get("status"))
    keyed = "API_KEY_INVALID" in reasons  # which is a 400 INVALID_ARGUMENT here
    return failed(
        status or number(error.get("code")),
        headers,
        message=error_message(error or document, body, status),
        codes=("invalid_api_key",) if keyed else (code,),
        now_ms=now_ms,
        delay_ms=max(delays, default=None),
    )


class _Candidate:
    """One candidate, as it grows: its parts, and everything else as it was last told."""

    def __init__(self) -> None:
        self.parts: list[dict[str, Any]] = []
        self.role: str | None = None
        self.has_content = False
        self.other: dict[str, Any] = {}

    def document(self) -> Document:
        parts = [
            {name: str(value) if isinstance(value, Text) else value for name, value in part.items()}
            for part in self.parts
        ]
        content: Document = {"parts": parts} if parts else {}
        if self.role is not None:
            content["role"] = self.role
        ended = {name: self.other[name] for name in ("finishReason",) if name in self.other}
        return {**({"content": content} if self.has_content else {}), **ended, **self.other}


class _Chunks(Assembler):
    def __init__(self, budget: Budget) -> None:
        super().__init__(budget)
        self._candidates: dict[int, _Candidate] = {}
        self._other: dict[str, Any] = {}

    def feed(self, name: str, data: bytes) -> list[Delta]:
        chunk = event_document(data, "an event of the provider's stream")
        if chunk.get("error"):
            raise StreamFailed(_failure(0, {}, data, now_ms=0))
        deltas: list[Delta] = []
        for piece in objects(chunk.get("candidates")):
            self._grow(piece, deltas)
        for member, value in chunk.items():
            if member != "candidates":
                replace(self._other, member, value, self._budget)
        return deltas

    @property
    def ended(self) -> bool:
        return False  # only the end of the bytes is one

    @property
    def complete(self) -> bool:
        if members(self._other.get("promptFeedback")).get("blockReason"):
            return True
        return bool(self._candidates) and all(each.other.get("finishReason") for each in self._candidates.values())

    def document(self) -> Document:
        candidates = [candidate.document() for _, candidate in sorted(self._candidates.items())]
        return {"candidates": candidates, **self._other} if candidates else dict(self._other)

    def _grow(self, piece: Document, deltas: list[Delta]) -> None:
        index = number(piece.get("index"))
        if (candidate := self._candidates.get(index)) is None:
            self._budget.spend(256)
            candidate = self._candidates[index] = _Candidate()
        for name, value in piece.items():
            if name != "content":
                replace(candidate.other, name, value, self._budget)
        if "content" not in piece:
            return
        content = members(piece.get("content"))
        candidate.has_content = True
        candidate.role = text(content.get("role")) or candidate.role
        for part in _parts(content):
            deltas += self._part(candidate, part, index)

    def _part(self, candidate: _Candidate, part: Document, index: int) -> list[Delta]:
        said, thought = part.get("text"), bool(part.get("thought"))
        if isinstance(said, str) and not part.keys() - {"text", "thought", "thoughtSignature"}:
            last = candidate.parts[-1] if candidate.parts else {}
            grown = last.get("text")
            signature = part.get("thoughtSignature")
            if not isinstance(grown, Text) or bool(last.get("thought")) != thought or "thoughtSignature" in last:
                self._budget.spend(64)
                last = {**part, "text": Text(self._budget, said)}
                candidate.parts.append(last)
            else:
                grown.add(said)
                if signature is not None:
                    self._budget.spend(len(text(signature)))
                    last["thoughtSignature"] = signature
            return [Delta(DeltaKind.REASONING if thought else DeltaKind.TEXT, said, index)] if said else []
        self._budget.spend(len(written(part)))
        candidate.parts.append(part)
        call = members(part.get("functionCall"))
        if not call:
            return []
        place = sum("functionCall" in each for each in candidate.parts) - 1
        return [
            Delta(DeltaKind.TOOL_CALL, index=place, name=text(call.get("name"))),
            Delta(DeltaKind.TOOL_ARGUMENTS, written(call.get("args") or {}), place),
        ]


def _usage(value: object) -> Usage | None:
    told = members(value)
    if not told:
        return None
    thoughts = number(told.get("thoughtsTokenCount"))
    return Usage(
        input_tokens=number(told.get("promptTokenCount")) + number(told.get("toolUsePromptTokenCount")),
        output_tokens=number(told.get("candidatesTokenCount")) + thoughts,
        cached_read_tokens=number(told.get("cachedContentTokenCount")),
        reasoning_tokens=thoughts,
        input_audio_tokens=_of_audio(told.get("promptTokensDetails")),
        output_audio_tokens=_of_audio(told.get("candidatesTokensDetails")),
    )


def _of_audio(details: object) -> int:
    return sum(number(each.get("tokenCount")) for each in objects(details) if each.get("modality") == "AUDIO")


def _message(content: Document) -> Message:
    parts = _parts(content)
    answered = next((name for part in parts if (name := _answered(part))), "")
    return Message(text(content.get("role")) or "user", _shown(parts), tuple(_tool_calls(parts)), answered)


def _answered(part: Document) -> str:
    response = members(part.get("functionResponse", part.get("function_response")))
    return text(response.get("id")) or text(response.get("name"))


def _parts(content: Document) -> list[Document]:
    return objects(content.get("parts")) or ([content["parts"]] if isinstance(content.get("parts"), dict) else [])


def _shown(parts: list[Document]) -> str:
    return "".join(_part(part) for part in parts)


def _part(part: Document) -> str:
    if isinstance(said := part.get("text"), str):
        return "" if part.get("thought") else said
    if inline := members(part.get("inlineData", part.get("inline_data"))):
        kind = text(inline.get("mimeType", inline.get("mime_type")))
        return media(kind.partition("/")[0] or "data", kind, text(inline.get("data")))
    if file := members(part.get("fileData", part.get("file_data"))):
        return media("file", text(file.get("mimeType")), "", text(file.get("fileUri")))
    if "functionResponse" in part or "function_response" in part:
        return written(members(part.get("functionResponse", part.get("function_response"))).get("response"))
    if "functionCall" in part or "function_call" in part:
        return ""
    return f"[{next(iter(part), 'part')}]"


def _tool_calls(parts: list[Document]) -> list[ToolCall]:
    found = (members(part.get("functionCall", part.get("function_call"))) for part in parts)
    calls = [call for call in found if call]
    return [ToolCall(text(call.get("id")), text(call.get("name")), written(call.get("args") or {})) for call in calls]


def _declarations(tool: Document) -> list[str]:
    declared = objects(tool.get("functionDeclarations", tool.get("function_declarations")))
    return [text(each.get("name")) for each in declared] or list(tool)[:1]
