"""What the stand-in answers: the words of a test, the same for every dialect.

    say("Hello")                                   a model's answer
    say(tool_calls=[call("weather", {"city": "Oslo"})])
    say(json={"name": "Ada"})                      structured output
    say("Hello", delay_s=0.5, pause_s=0.1)         late, and slow
    say("Hello", cut_after=2)                      the connection breaks after two events
    fail(429, retry_after_s=2)                     an error in the form of the provider that was asked
    raw(b"<html>", status=502)                     anything else
    drop()                                         no answer: the connection is closed
    held(say("Hello"))                             the answer waits for `Provider.release()`

A function of the request that returns one of them is as good as one of them.
"""

from __future__ import annotations

import json as json_text
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from stepwell.testing.provider.asked import Asked
from stepwell.wire.models.dialect import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """When the bytes of an answer come, and where they stop.

    Attributes:
        delay_s: Before the first byte, status and headers included.
        pause_s: Before each further piece: an event of a stream, or an eighth of a plain body.
        chunk_bytes: Send pieces of that many bytes instead, cutting characters and lines.
        cut_after: Break off after that many pieces: the connection is reset, or ends in good order with `cut_cleanly`.
        held: Wait for `Provider.release()` before the first byte.
    """

    delay_s: float = 0.0
    pause_s: float = 0.0
    chunk_bytes: int | None = None
    cut_after: int | None = None
    cut_cleanly: bool = False
    held: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call of the model. `arguments` is JSON text."""

    name: str
    arguments: str
    id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """An answer of the model.

    Attributes:
        pieces: The text as a stream brings it, joined the whole text.
        usage: What the call used; None tells an estimate by length.
        finish_reason: In the dialect's own word; None takes the usual one.
        malformed_after: That many good events, then one that is not JSON.
        error_after: That many good events, then the error `error` as an event.
    """

    pieces: tuple[str, ...]
    reasoning: str = ""
    refusal: str = ""
    calls: tuple[Call, ...] = ()
    usage: Usage | None = None
    finish_reason: str | None = None
    model: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    malformed_after: int | None = None
    error_after: int | None = None
    error: Fail | None = None
    pace: Pace = Pace()

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """An error, written in the form of the dialect that was asked.

    Attributes:
        code: The provider's word for it; None takes the one that goes with the status.
        limits: Name -> (limit, remaining, seconds until it is reset), told in the dialect's headers.
    """

    status: int
    message: str
    code: str | None = None
    retry_after_s: float | None = None
    limits: Mapping[str, tuple[int, int, float]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    pace: Pace = Pace()


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """Bytes as they are."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pace: Pace = Pace()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """The connection is closed without an answer."""

    pace: Pace = Pace()


Reply: TypeAlias = Say | Fail | Raw | Drop
Scripted: TypeAlias = Reply | Callable[[Asked], Reply]


def say(
    text: str | Sequence[str] = "",
    *,
    json: object = None,
    tool_calls: Sequence[Call] = (),
    reasoning: str = "",
    refusal: str = "",
    usage: Usage | None = None,
    finish_reason: str | None = None,
    model: str | None = None,
    headers: Mapping[str, str] | None = None,
    malformed_after: int | None = None,
    error_after: int | None = None,
    error: Fail | None = None,
    delay_s: float = 0.0,
    pause_s: float = 0.0,
    chunk_bytes: int | None = None,
    cut_after: int | None = None,
    cut_cleanly: bool = False,
) -> Say:
    """An answer of the model.

    Args:
        text: The answer; a sequence says how a stream is to cut it, otherwise it is cut into words.
        json: The answer as JSON text, for structured output.
    """
    if json is not None:
        text = json_text.dumps(json, separators=(",", ":"), ensure_ascii=False)
    pieces = tuple(re.findall(r"\s*\S+\s*?(?=\s|$)|\s+$", text)) if isinstance(text, str) else tuple(text)
    return Say(
        pieces=pieces,
        reasoning=reasoning,
        refusal=refusal,
        calls=tuple(tool_calls),
        usage=usage,
        finish_reason=finish_reason,
        model=model,
        headers=dict(headers or {}),
        malformed_after=malformed_after,
        error_after=error_after,
        error=error,
        pace=Pace(
            delay_s=delay_s, pause_s=pause_s, chunk_bytes=chunk_bytes, cut_after=cut_after, cut_cleanly=cut_cleanly
        ),
    )


def call(name: str, arguments: Mapping[str, Any] | str, *, id: str | None = None) -> Call:
    """A tool call; text is sent as it is, so it need not be valid JSON."""
    written = arguments if isinstance(arguments, str) else json_text.dumps(arguments, separators=(",", ":"))
    return Call(name, written, id)


def fail(
    status: int,
    message: str = "scripted failure",
    *,
    code: str | None = None,
    retry_after_s: float | None = None,
    limits: Mapping[str, tuple[int, int, float]] | None = None,
    headers: Mapping[str, str] | None = None,
    delay_s: float = 0.0,
) -> Fail:
    """An error in the form of the provider that is asked."""
    return Fail(
        status=status,
        message=message,
        code=code,
        retry_after_s=retry_after_s,
        limits=dict(limits or {}),
        headers=dict(headers or {}),
        pace=Pace(delay_s=delay_s),
    )


def raw(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None, delay_s: float = 0.0) -> Raw:
    """Bytes as they are, under `application/octet-stream` unless `headers` say otherwise."""
    return Raw(body=body, status=status, headers=dict(headers or {}), pace=Pace(delay_s=delay_s))


def drop(*, delay_s: float = 0.0) -> Drop:
    """Close the connection instead of answering."""
    return Drop(pace=Pace(delay_s=delay_s))


def held(reply: Reply) -> Reply:
    """The same answer, but only after `Provider.release()`."""
    return replace(reply, pace=replace(reply.pace, held=True))
