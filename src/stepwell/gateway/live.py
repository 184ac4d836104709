"""What a model says while it says it: the deltas of one answer as pieces for those who follow the run.

    deltas of one read ─▶ joined, credentials taken out ─▶ pieces ─▶ publisher
                                     └─ the end of a text that may be the beginning of a credential waits

An answer that came whole is published whole, so that who follows sees the same words whatever the provider can do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from stepwell.gateway.scrub import Scrubber, Stream
from stepwell.model.dispatch import Errand
from stepwell.model.stream import USAGE, Piece, Publisher
from stepwell.wire.models.dialect import Answer, AnswerReader, Delta, DeltaKind
from stepwell.wire.models.errors import AnswerError

EVERY_S = 0.020
"""How often an answer is read while its deltas are published; the first one is not waited with."""


class Live:
    """The live answer of one request.

    Args:
        errand: For which step.
        publisher: Takes the pieces.
        scrubber: Knows the credentials of the request.
    """

    def __init__(self, errand: Errand, publisher: Publisher, scrubber: Scrubber) -> None:
        self._errand = errand
        self._publisher = publisher
        self._scrubber = scrubber
        self._texts: dict[tuple[DeltaKind, int], Stream] = {}
        self._begun = False
        publisher.void(errand.run, errand.step, errand.name)

    def add(self, deltas: Sequence[Delta]) -> None:
        """Publish what an answer grew by."""
        if deltas:
            self._begun = True
            self._publish([self._piece(delta) for delta in _joined(deltas)])

    def finish(self, answer: Answer, **used: Any) -> None:
        """The answer is whole; `used` is told of it last."""
        if not self._begun:
            self.add(_said(answer))
        held = [
            Piece(kind.value, text, index)
            for (kind, index), stream in self._texts.items()
            if (text := stream.finish().decode("utf-8", "replace"))
        ]
        self._publish([*held, Piece(USAGE, more={name: value for name, value in used.items() if value is not None})])

    def fail(self) -> None:
        """The answer will not be whole: what was published of it is void."""
        self._publisher.void(self._errand.run, self._errand.step, self._errand.name)

    def _publish(self, pieces: Iterable[Piece]) -> None:
        errand = self._errand
        told = [piece for piece in pieces if piece.text or piece.more or piece.kind == USAGE]
        if told:
            self._publisher.publish(errand.run, errand.step, errand.name, told)

    def _piece(self, delta: Delta) -> Piece:
        if delta.kind is DeltaKind.TOOL_CALL:
            return Piece(delta.kind.value, index=delta.index, more={"tool": self._scrubber.clean_text(delta.name)})
        text = delta.text
        if self._scrubber:
            key = (delta.kind, delta.index)
            stream = self._texts.get(key) or self._texts.setdefault(key, self._scrubber.stream())
            text = stream.feed(text.encode("utf-8", "replace")).decode("utf-8", "replace")
        return Piece(delta.kind.value, text, delta.index)


class Overheard:
    """Reads along while an answer is handed on as it comes.

    Args:
        live: Of the same request.
        reader: For that answer. What it cannot read is none of a stream's business.
    """

    def __init__(self, live: Live, reader: AnswerReader) -> None:
        self._live = live
        self._reader: AnswerReader | None = reader

    def feed(self, piece: bytes) -> None:
        if self._reader is not None:
            try:
                self._live.add(self._reader.feed(piece))
            except AnswerError:
                self._reader = None


def _joined(deltas: Sequence[Delta]) -> list[Delta]:
    """Neighbours of one kind as one."""
    first = deltas[0]
    if len(deltas) == 1:
        return [first]
    if first.kind is DeltaKind.TEXT and all(one.kind is DeltaKind.TEXT and one.index == first.index for one in deltas):
        return [Delta(DeltaKind.TEXT, "".join([one.text for one in deltas]), first.index)]
    joined: list[Delta] = []
    texts: list[str] = []
    for delta in deltas:
        last = joined[-1] if joined else None
        if last is not None and last.kind is delta.kind is not DeltaKind.TOOL_CALL and last.index == delta.index:
            texts.append(delta.text)
            continue
        if last is not None and len(texts) > 1:
            joined[-1] = Delta(last.kind, "".join(texts), last.index, last.name)
        joined.append(delta)
        texts = [delta.text]
    if len(texts) > 1:
        last = joined[-1]
        joined[-1] = Delta(last.kind, "".join(texts), last.index, last.name)
    return joined


def _said(answer: Answer) -> list[Delta]:
    """An answer that came whole, as the deltas that it might have come in."""
    said = [
        Delta(DeltaKind.REASONING, answer.reasoning),
        Delta(DeltaKind.TEXT, answer.text),
        Delta(DeltaKind.REFUSAL, answer.refusal),
    ]
    for index, call in enumerate(answer.tool_calls):
        said += [
            Delta(DeltaKind.TOOL_CALL, index=index, name=call.name),
            Delta(DeltaKind.TOOL_ARGUMENTS, call.arguments, index),
        ]
    return [delta for delta in said if delta.text or delta.name]
