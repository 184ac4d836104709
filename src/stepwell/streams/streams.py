"""The logs of one node: what is published goes to those who subscribe, and is kept for those who come later.

Every piece is encoded once, whoever reads it. What is kept is bounded per run (count and bytes), by age, and for all
runs together; the logs that were used longest ago lose their pieces first.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from json.encoder import encode_basestring
from typing import TYPE_CHECKING

from stepwell.streams.log import RESET, Chunk, Log, Reader, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from stepwell.model.ids import RunId, StepId
    from stepwell.model.stream import Piece

_SHARE = 8
"""A window that is full loses this part of its pieces at once."""
_STEPS = 1_000
"""Of one run, of which it is remembered that pieces were shown; more are never made at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """How much of the live streams is kept for those who come late or come back."""

    pieces: int = 10_000
    """Of one run."""
    bytes: int = 4 * 1024 * 1024
    """Of one run."""
    all_bytes: int = 64 * 1024 * 1024
    """Of all runs together."""
    age_s: float = 600.0
    """How long after they came."""


class Streams:
    """Implements `model.stream.Publisher`, and lets others subscribe.

    Args:
        settings: What is kept.
        clock: Seconds, monotonic.
    """

    def __init__(self, settings: StreamSettings | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings or StreamSettings()
        self.clock = clock
        self.size_bytes = 0
        self.published = 0
        """Pieces, since the start."""
        self.on_published: Callable[[RunId], None] | None = None
        """Told of runs of which something was published here."""
        self.on_subscribed: Callable[[RunId], None] | None = None
        """Told of runs that somebody begins to read here."""
        self.patience_s = 0.0
        """How long it may take until pieces are here that are elsewhere."""
        self._life = secrets.token_hex(5)
        self._made = 0
        self._logs: OrderedDict[RunId, Log] = OrderedDict()  # the one that was used last is last

    @property
    def runs(self) -> int:
        """Runs of which pieces are kept, or that somebody subscribes to."""
        return len(self._logs)

    # publishing

    def publish(self, run: RunId, step: StepId, name: str, pieces: Sequence[Piece]) -> None:
        if not pieces:
            return
        log, now = self.log(run), self.clock()
        source = log.steps.get(step)
        if source is None or source.origin != log.origin:
            source = Source(log.origin, step, name)
        for piece in pieces:
            self._own(run, log, source, now, _delta(source, piece))
        self._told(run, log, now)

    def void(self, run: RunId, step: StepId, name: str) -> None:
        log, now = self._logs.get(run), self.clock()
        if log is None or step not in log.steps:
            return
        source = Source(log.origin, step, name)
        self._own(run, log, source, now, reset_event(step, name, "the step is tried again, or has failed"))
        self._told(run, log, now)

    def _told(self, run: RunId, log: Log, now: float) -> None:
        self.settle(run, log, now)
        if self.on_published is not None:
            self.on_published(run)

    def _own(self, run: RunId, log: Log, source: Source, now: float, text: bytes) -> None:
        log.number += 1
        self.published += 1
        self.add(log, Chunk(log.number, source, now, text))

    def add(self, log: Log, chunk: Chunk) -> None:
        """Append a piece, wherever it was published. `settle` has to follow."""
        source = chunk.source
        known = log.steps.get(source.step)
        if chunk.text.startswith(RESET):
            log.steps.pop(source.step, None)
        else:
            if known is not None and known is not source:  # another node was making it
                reset = reset_event(source.step, source.name, "another server makes the step now")
                chunk = chunk._replace(text=reset + chunk.text)
            log.steps[source.step] = source
            if len(log.steps) > _STEPS:
                del log.steps[next(iter(log.steps))]
        before = log.size_bytes
        log.append(chunk)
        self.size_bytes += log.size_bytes - before

    def settle(self, run: RunId, log: Log, now: float) -> None:
        """Keep to the bounds, and wake the readers."""
        self._logs.move_to_end(run)
        settings = self.settings
        self._forget_old(now)
        oldest = log.oldest
        if oldest is not None and oldest.at < now - settings.age_s:
            self._shrink(log, lambda: log.drop_until(now - settings.age_s))
        count = log.end - log.first
        if count > settings.pieces or log.size_bytes > settings.bytes:
            self._shrink(log, lambda: log.drop(max(1, count // _SHARE)))
        while self.size_bytes > settings.all_bytes and log.oldest is not None:
            other = next(one for one in self._logs.values() if one.oldest is not None)
            self._shrink(other, lambda: other.drop((other.end - other.first + 1) // 2))  # noqa: B023 - called at once
        log.wake()

    # subscribing

    def subscribe(self, run: RunId, ring: Callable[[], None]) -> Reader:
        """Begin to read the pieces of a run. `ring` is called when there are more; it must be quick."""
        reader = Reader(self.log(run), ring, partial(self._leave, run))
        if self.on_subscribed is not None:
            self.on_subscribed(run)
        return reader

    def read(self) -> Iterator[RunId]:
        """The runs that somebody reads."""
        return (run for run, log in self._logs.items() if log.readers)

    def known(self, run: RunId) -> Log | None:
        """The log of a run, if there is one."""
        return self._logs.get(run)

    def log(self, run: RunId) -> Log:
        """The log of a run, which is made if there is none."""
        log = self._logs.get(run)
        if log is None:
            self._made += 1
            log = self._logs[run] = Log(f"{self._life}{self._made:x}")
            log.used_at = self.clock()
        return log

    def _leave(self, run: RunId, log: Log, reader: Reader) -> None:
        log.readers.discard(reader)
        if not log.readers and log.unused and self._logs.get(run) is log:
            del self._logs[run]
        self._forget_old(self.clock())

    # keeping

    def _shrink(self, log: Log, how: Callable[[], None]) -> None:
        before = log.size_bytes
        how()
        self.size_bytes -= before - log.size_bytes

    def _forget_old(self, now: float) -> None:
        """Forget the logs that nobody has used for a while; those that somebody reads only lose their pieces."""
        limit = now - self.settings.age_s
        while self._logs:
            run, log = next(iter(self._logs.items()))
            if log.used_at >= limit:
                return
            if log.readers:
                self._shrink(log, lambda: log.drop_until(limit))  # noqa: B023 - called at once
                log.used_at = now
                self._logs.move_to_end(run)
            else:
                del self._logs[run]
                self.size_bytes -= log.size_bytes


def _delta(source: Source, piece: Piece) -> bytes:
    key = (piece.kind, piece.index)
    head = source.heads.get(key)
    if head is None:
        about = {"type": "delta", "step": source.step, "name": source.name, "kind": piece.kind, "index": piece.index}
        head = source.heads[key] = b"event: delta\ndata: %b," % _json(about)[:-1]
    more = b",%b" % _json(piece.more)[1:-1] if piece.more else b""
    text = encode_basestring(piece.text).encode("utf-8", "replace")
    offset = source.count
    source.count += 1
    return b'%b"offset":%d,"text":%b%b}\n\n' % (head, offset, text, more)


def reset_event(step: StepId | None, name: str | None, reason: str) -> bytes:
    """Tells a subscriber to forget the pieces of a step, or of all steps without a result. Without its id."""
    about = {"type": "reset", "step": step, "name": name, "reason": reason}
    return b"%bdata: %b\n\n" % (RESET, _json(about))


def gap_event(missed: int) -> bytes:
    """Tells a subscriber how many pieces they have not seen. Without its id."""
    return b"event: gap\ndata: %b\n\n" % _json({"type": "gap", "missed": missed})


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
