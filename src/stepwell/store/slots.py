"""Who gets a slot, and who waits: pure rules over gates, the same for every store that runs Python.

A *gate* is a key with its limit and the number of jobs that hold a slot of it. A job with slots has a *place*: it
passes its gates in the order of their keys and keeps a slot of each that it passed. At the first gate without room it
is parked, in the line of that gate. So a job that is parked is in one line only, and whoever makes room looks at the
heads of the lines that it made room in and at nobody else, however long they are.

    enter ──▶ gate ──▶ gate ──▶ through: may be claimed ──▶ the job goes: room in all its gates
               └ no room: parked ◀── room, and first in line ┘

What is true between two transactions: a gate holds as many as there are places past it, and a gate with a line is full.
PostgreSQL has the same rules in SQL (`0004_slots.sql`).
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stepwell.model.ids import Instant, JobId, RunId
    from stepwell.model.job import Job


NEVER = 1 << 62
"""When a parked job is due, in a database: after everything else."""


class Place(NamedTuple):
    """Where a job with slots is: past the first `passed` of its keys."""

    job: JobId
    run: RunId | None
    shard: int
    keys: tuple[str, ...]
    limits: tuple[int, ...]  # as the job named them; for a gate that nobody holds by then
    passed: int
    rank: Instant
    due: Instant  # when it may be claimed once it is through
    route: str | None

    @property
    def line(self) -> str | None:
        """The key for which it is parked; None when it is through."""
        return self.keys[self.passed] if self.passed < len(self.keys) else None


@dataclass(slots=True)
class Gate:
    """A key: how many may hold a slot of it, and how many do. The limit is the one that was named last."""

    limit: int = 0
    held: int = 0


class Book(Protocol):
    """Where gates and places are kept."""

    def gate(self, key: str) -> Gate:
        """The gate of a key; a new one when there is none."""

    def keep(self, key: str, gate: Gate) -> None:
        """Store a gate; one that nobody holds is forgotten."""

    def put(self, place: Place) -> None:
        """Store a place, new or moved."""

    def first(self, key: str, count: int) -> Sequence[Place]:
        """Those parked for a key that come first, at most `count`, by rank and then by id."""


class Settled(NamedTuple):
    """What became of everybody: those who entered and are parked, and those who were parked and got through."""

    parked: frozenset[JobId]
    admitted: tuple[Place, ...]


def place_of(job: Job) -> Place:
    """The place of a job that is at its first gate."""
    slots = job.slots if len(job.slots) == 1 else sorted(job.slots, key=attrgetter("key", "limit"))
    keys, limits = tuple([slot.key for slot in slots]), tuple([slot.limit for slot in slots])
    return Place(job.id, job.run, job.shard, keys, limits, 0, job.rank, job.due, job.route)


def settle(book: Book, gone: Iterable[Place], entering: Iterable[Job]) -> Settled:
    """Take back the slots of places that are gone, let jobs in, and pass on what is free.

    Args:
        gone: Places that are not in the book any more.
        entering: Jobs with slots, not in the book yet.
    """
    return _Settling(book).settle(gone, list(entering))


class _Settling:
    def __init__(self, book: Book) -> None:
        self._book = book
        self._gates: dict[str, Gate] = {}
        self._open: dict[str, None] = {}  # gates whose lines are to be looked at: nobody passes them before that

    def settle(self, gone: Iterable[Place], entering: Sequence[Job]) -> Settled:
        for place in gone:
            for key in place.keys[: place.passed]:
                self._gate(key).held -= 1
                self._open[key] = None
        for job in entering:
            for slot in job.slots:
                gate = self._gate(slot.key)
                if slot.limit > gate.limit > 0:
                    self._open[slot.key] = None
                gate.limit = slot.limit
        new = {job.id for job in entering}
        parked: set[JobId] = set()
        for job in entering:
            if not self._advance(place_of(job)):
                parked.add(job.id)
        admitted: list[Place] = []
        while self._open:
            key = next(iter(self._open))
            del self._open[key]
            for place in self._from_line(key):
                if place.job in new:
                    parked.discard(place.job)
                else:
                    admitted.append(place)
        for key, gate in self._gates.items():
            self._book.keep(key, gate)
        return Settled(frozenset(parked), tuple(admitted))

    def _from_line(self, key: str) -> list[Place]:
        """Let in as many from the line of a gate as it has room for. Returns those who are through now."""
        gate = self._gate(key)
        through = []
        while (room := gate.limit - gate.held) > 0 and (waiting := self._book.first(key, room)):
            for place in waiting:
                gate.held += 1
                moved = place._replace(passed=place.passed + 1)
                if self._advance(moved):
                    through.append(moved)
        return through

    def _advance(self, place: Place) -> bool:
        """Let a job pass every gate that it can, and keep its place. Whether it is through."""
        passed = place.passed
        while passed < len(place.keys):
            key = place.keys[passed]
            gate = self._gate(key)
            gate.limit = gate.limit or place.limits[passed]
            if key in self._open or gate.held >= gate.limit:
                break
            gate.held += 1
            passed += 1
        self._book.put(place._replace(passed=passed) if passed != place.passed else place)
        return passed == len(place.keys)

    def _gate(self, key: str) -> Gate:
        gate = self._gates.get(key)
        if gate is None:
            gate = self._gates[key] = self._book.gate(key)
        return gate
