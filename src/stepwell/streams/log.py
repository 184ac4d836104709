"""The pieces of one run in the order in which subscribers get them, as many as the window holds.

    append ─▶ [ 57 | 58 | 59 | 60 ]          a number for each piece; the oldest are dropped
                     ▲         ▲
                 a reader   another reader     each reads at their own pace; nothing is queued for anybody

A piece is known by its origin and its number there: the log in which it was published first, on whichever node. So a
subscriber who comes back, also to another node, goes on where they were. A reader who is slower than the window finds
its beginning gone, and is told how many pieces they missed.

Pieces of one run seldom come from two nodes. A log that has such is merged: its order is its own, and so are the
places in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from stepwell.model.ids import StepId

OVERHEAD_BYTES = 200
"""What a piece takes in memory beside its text."""
RESET = b"event: reset\n"
"""What the text of a piece begins with that makes those before it void."""

USED = b',"kind":"usage",'
"""What is in the last piece of a step: texts of others have no quotation marks without a backslash."""


class Place(NamedTuple):
    """Where a subscriber is: after piece `number` of `origin`."""

    origin: str
    number: int


class Source:
    """One step that is being made somewhere, as far as pieces of it came."""

    __slots__ = ("count", "done", "heads", "name", "origin", "step")

    def __init__(self, origin: str, step: StepId, name: str) -> None:
        self.origin = origin
        self.step = step
        self.name = name
        self.count = 0
        """How many pieces of it came."""
        self.done = False
        """Its last piece came."""
        self.heads: dict[tuple[str, int], bytes] = {}
        """What the texts of its pieces begin with, by kind and index."""


class Chunk(NamedTuple):
    """One piece: a server-sent event without its id. `at` is in seconds, monotonic."""

    number: int
    source: Source
    at: float
    text: bytes


class Log:
    """The window of one run.

    Args:
        origin: What the pieces are known by that are published here.
    """

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.number = 0
        """Of the newest piece that was published here."""
        self.size_bytes = 0
        self.used_at = 0.0
        self.readers: set[Reader] = set()
        self.steps: dict[StepId, Source] = {}
        """Those of which pieces count that were shown."""
        self.heard: dict[str, int] = {}
        """The numbers of the newest pieces that came from elsewhere, by their origin."""
        self.first = 0
        """The index of the oldest piece that is here."""
        self._chunks: list[Chunk] = []
        self._alone: str | None = None  # the origin of the first pieces
        self._shift = 1  # from their indices to their numbers
        self._merged_from: int | None = None  # the index from which on there are pieces of others

    @property
    def end(self) -> int:
        """The index that the next piece gets."""
        return self.first + len(self._chunks)

    @property
    def oldest(self) -> Chunk | None:
        return self._chunks[0] if self._chunks else None

    @property
    def unused(self) -> bool:
        """Whether there never was a piece."""
        return self._alone is None

    @property
    def complete(self) -> bool:
        """Whether the newest piece is the last one of its step."""
        return bool(self._chunks) and self._chunks[-1].source.done

    def append(self, chunk: Chunk) -> None:
        origin = chunk.source.origin
        if self._alone is None:
            self._alone = origin
            self.first = chunk.number - 1  # what came before was not seen here
        elif origin != self._alone and self._merged_from is None:
            self._merged_from = self.end
        if USED in chunk.text:
            chunk.source.done = True
            chunk.source.heads.clear()
        self._chunks.append(chunk)
        self.size_bytes += len(chunk.text) + OVERHEAD_BYTES
        self.used_at = chunk.at

    def drop(self, count: int) -> None:
        """Forget the oldest pieces."""
        self.size_bytes -= sum(len(one.text) + OVERHEAD_BYTES for one in self._chunks[:count])
        before = len(self._chunks)
        del self._chunks[:count]
        self.first += before - len(self._chunks)

    def drop_until(self, at: float) -> None:
        """Forget the pieces that came before a moment."""
        count = 0
        for chunk in self._chunks:
            if chunk.at >= at:
                break
            count += 1
        self.drop(count)

    def chunk(self, index: int) -> Chunk:
        return self._chunks[index - self.first]

    def own_since(self, number: int) -> list[Chunk]:
        """The pieces that were published here after that number."""
        found = []
        for chunk in reversed(self._chunks):
            if chunk.source.origin == self.origin:
                if chunk.number <= number:
                    break
                found.append(chunk)
        found.reverse()
        return found

    def place(self, index: int) -> Place:
        """Where somebody is who has read the piece with that index."""
        if self._merged_from is None or index < self._merged_from:
            return Place(self._alone or self.origin, index + self._shift)
        return Place(f"{self.origin}m", index)

    def after(self, place: Place) -> int | None:
        """The index of the piece that follows a place, perhaps of one that was dropped. None: the place means nothing
        here."""
        if place.origin == f"{self.origin}m":
            index = place.number + 1
            return index if index <= self.end else None
        if place.origin != (self._alone or self.origin):
            return None
        index = place.number - self._shift + 1
        return index if index <= (self.end if self._merged_from is None else self._merged_from) else None

    def wake(self) -> None:
        """There is something to read."""
        for reader in self.readers:
            reader.ring()


class Reader:
    """One who reads a log; to be used in a `with` statement."""

    def __init__(self, log: Log, ring: Callable[[], None], leave: Callable[[Log, Reader], None]) -> None:
        self.ring = ring
        self._log = log
        self._index = 0
        self._missed = 0
        self._leave = leave

    def __enter__(self) -> Self:
        self._log.readers.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(self._log, self)

    def go_to(self, place: Place) -> bool:
        """Go on after a place. False: nobody knows it; then reading begins with the oldest piece."""
        index = self._log.after(place)
        self._index = 0 if index is None else index
        return index is not None

    def next(self) -> Chunk | None:
        """The piece that comes next, and stays the next until `pass_by`; None if there is none yet."""
        log = self._log
        if self._index < log.first:
            self._missed += log.first - self._index
            self._index = log.first
        return log.chunk(self._index) if self._index < log.end else None

    def pass_by(self) -> Place:
        """Have read that piece. Returns where that is."""
        self._index += 1
        return self._log.place(self._index - 1)

    def lacks(self, step: StepId) -> bool:
        """Whether the last pieces of a step that is streamed, and was not made here, have yet to come."""
        source = self._log.steps.get(step)
        return source is None or (source.origin != self._log.origin and not source.done)

    def missed(self) -> int:
        """How many pieces were gone before they were read, since this was asked last."""
        missed, self._missed = self._missed, 0
        return missed
