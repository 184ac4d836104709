"""Answers to read: what the stand-in writes, and what real providers and their imitators were seen to write."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stepwell.testing.provider import Asked, Say, call, say
from stepwell.testing.provider.dialects import WRITERS
from stepwell.wire.models import dialect_for
from stepwell.wire.models.dialect import Answered, Delta, Dialect, Usage

LIMIT_BYTES = 1 << 20
WORDS = "Grüße, 世界 🎉! Wie geht’s?\nGut."
USED = Usage(input_tokens=120, output_tokens=34, cached_read_tokens=64, reasoning_tokens=9)

URLS = {
    "openai-chat": "https://api.openai.com/v1/chat/completions",
    "openai-responses": "https://api.openai.com/v1/responses",
    "anthropic": "https://api.anthropic.com/v1/messages",
    "gemini": "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent",
    "grok": "https://api.x.ai/v1/chat/completions",
    "azure-openai": "https://res.openai.azure.com/openai/deployments/chat/chat/completions?api-version=2024-10-21",
}
MODELS = {
    "openai-chat": "gpt-4o",
    "openai-responses": "gpt-4o",
    "anthropic": "claude-sonnet-4-5",
    "gemini": "gemini-2.5-flash",
    "grok": "grok-4",
    "azure-openai": "gpt-4o",
}
ANSWERS: dict[str, Say] = {
    "text": say(WORDS, usage=USED),
    "text after thoughts": say(WORDS, reasoning="Erst überlegen. Dann reden.", usage=USED),
    "one tool": say(tool_calls=[call("weather", {"city": "Tromsø", "days": 3})], usage=USED),
    "text and two tools": say("Moment.", tool_calls=[call("weather", {"city": "Oslo"}), call("time", {})], usage=USED),
    "structured": say(json={"name": "Ada", "scores": [1, 2.5, None], "quote": '"\\'}, usage=USED),
    "cut by the limit": say(["One", " two"], usage=USED, finish_reason="length"),
    "nothing": say("", usage=USED),
}
FORMATS = sorted(WRITERS)


@dataclass(frozen=True)
class Written:
    """One answer in one dialect: plain, and as the bytes of a stream."""

    dialect: Dialect
    plain: bytes
    stream: bytes


def written(format: str, said: Say) -> Written:
    """An answer as the stand-in writes it."""
    request: dict[str, Any] = {"model": MODELS[format], "stream_options": {"include_usage": True}}
    asked = Asked(7, format, "POST", f"/v1beta/models/{MODELS[format]}:generateContent", "", {}, dumps(request))
    writer = WRITERS[format]
    return Written(
        dialect_for(format, URLS[format]),
        dumps(writer.plain(said, asked)),
        events(writer.events(said, asked)),
    )


def dumps(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def events(pairs: Iterable[tuple[str, str]]) -> bytes:
    return "".join((f"event: {name}\n" if name else "") + f"data: {data}\n\n" for name, data in pairs).encode()


def data_events(*documents: object) -> bytes:
    """Events without a name; text goes in as it is."""
    return events(("", each if isinstance(each, str) else dumps(each).decode()) for each in documents)


def read_stream(
    dialect: Dialect, chunks: Iterable[bytes], *, limit_bytes: int = LIMIT_BYTES
) -> tuple[list[Delta], Answered]:
    reader = dialect.reader("text/event-stream; charset=utf-8", limit_bytes=limit_bytes)
    deltas = [delta for chunk in chunks for delta in reader.feed(chunk)]
    return deltas, reader.finish()


def read_plain(dialect: Dialect, body: bytes) -> Answered:
    reader = dialect.reader("application/json", limit_bytes=LIMIT_BYTES)
    assert reader.feed(body) == []
    return reader.finish()
