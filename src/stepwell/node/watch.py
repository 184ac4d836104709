"""Who follows a run is told when it has moved on; what happened they read from the journal.

    with watch.follow(run, bell.ring) as follower:
        read the journal after entry N
        await bell                  ◀── Turns.perform, right after a commit
        if follower.take(): read the journal after entry N ...

The journal is the truth and its entries are numbered, so a follower that is slow, or comes back after its connection
broke, misses nothing and sees nothing twice, and nothing is queued here for it. A follower begins to listen before it
reads, so what is committed between the two wakes it.

`Watch.listener` is told of every run that this process moves on, and with which entries; the terminal of
`stepwell dev` is the one who asks for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from stepwell.engine.run import Run
    from stepwell.model.ids import RunId
    from stepwell.model.journal import Entry


Listener: TypeAlias = "Callable[[Run, Sequence[Entry]], None]"
"""Called between commit and effects, so it must be quick; later the run moves on."""


class Watch:
    """The followers of one process. What other nodes commit is told by their hints, and looked for now and then."""

    def __init__(self) -> None:
        self._followers: dict[RunId, set[Follower]] = {}
        self.listener: Listener | None = None
        self.closed = False

    @property
    def followers(self) -> int:
        return sum(map(len, self._followers.values()))

    def moved(self, run: Run, entries: Sequence[Entry]) -> None:
        """These entries of a run, which is as it is after them, were committed by this node."""
        self.moved_elsewhere(run.id)
        if self.listener is not None:
            self.listener(run, entries)

    def moved_elsewhere(self, run: RunId) -> None:
        """Something of this run was committed by another node, which tells its own listener."""
        for follower in self._followers.get(run, ()):
            follower.wake()

    def anything_moved(self) -> None:
        """Any run may have moved."""
        for followers in self._followers.values():
            for follower in followers:
                follower.wake()

    def follow(self, run: RunId, ring: Callable[[], None]) -> Follower:
        """Begin to listen; to be used in a `with` statement. `ring` is called when the run has moved on, or the watch
        was closed; it must be quick."""
        return Follower(self, run, ring)

    def close(self) -> None:
        """Wake everybody, so that they see `closed` and leave."""
        self.closed = True
        self.anything_moved()

    def add(self, follower: Follower) -> None:
        self._followers.setdefault(follower.run, set()).add(follower)

    def remove(self, follower: Follower) -> None:
        followers = self._followers.get(follower.run)
        if followers is not None:
            followers.discard(follower)
            if not followers:
                del self._followers[follower.run]


class Follower:
    """One who follows one run."""

    def __init__(self, watch: Watch, run: RunId, ring: Callable[[], None]) -> None:
        self.run = run
        self._watch = watch
        self._ring = ring
        self._moved = False

    def __enter__(self) -> Self:
        self._watch.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.remove(self)

    def wake(self) -> None:
        self._moved = True
        self._ring()

    def take(self) -> bool:
        """Whether the run has moved on since this was asked last."""
        moved, self._moved = self._moved, False
        return moved
