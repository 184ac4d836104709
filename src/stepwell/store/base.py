"""What a store is: a journal, jobs, waits and events, changed one *transition* at a time.

A transition is one decision's worth of change and is applied whole or not at all. It states what must
still be true (the run's sequence number, the claims it relies on); whoever is late gets a `Refusal` and
decides again. A store may put many transitions into one transaction (group commit); each stands or
falls alone, and `commit` returns only once the change would survive a kill of the process.

Nothing here knows what a run means: rules are in `stepwell.engine`. One suite (`tests/store`) runs over
every store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

from stepwell.model.errors import InvalidInput, StepwellError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from stepwell.model.credential import Credential
    from stepwell.model.event import Event
    from stepwell.model.function import Service
    from stepwell.model.ids import EventKey, Instant, JobId, RunId, StepId
    from stepwell.model.job import Claim, Job, RunRow, RunStatus, Wait
    from stepwell.model.journal import Entry
    from stepwell.model.payload import Blob
    from stepwell.store.meters import Histogram


class RunWrite(msgspec.Struct, frozen=True):
    """New entries of one run and its row as it is after them.

    `expected_seq` is the number of entries the run had when it was decided on: 0 creates it. Entries get the
    numbers after it, in order; the first write of a run has at least one. Environment, shard, function, service, event,
    parent and creation time of the row never change after it, and neither does a final status.
    """

    row: RunRow
    expected_seq: int
    entries: tuple[Entry, ...]


class Unique(msgspec.Struct, frozen=True):
    """A key that may be taken once until it expires. `value` says who has it.

    With `replaces` it may be taken only from whoever has it with that value, expired or not; the new value is another.
    """

    env: str
    key: str
    value: str
    until: Instant
    replaces: str | None = None


class Transition(msgspec.Struct, frozen=True):
    """One decision. Everything in it is stored together, or nothing is.

    Whether it still fits is judged in this order: `ends`, `holds`, `run`, `unique`. Then the removals are made, then
    the additions. The slots of jobs that go are taken, in the same transaction, by those that come first of the jobs
    that wait for them and the new ones; who gets in is due at once, and nodes are given a hint.
    """

    run: RunWrite | None = None
    holds: tuple[Claim, ...] = ()
    """Claims that must be current; they stay, unless the job is among `enter` and has to be parked."""
    ends: tuple[Claim, ...] = ()
    """Claims that must be current; their jobs are removed."""
    jobs: tuple[Job, ...] = ()
    """New jobs; one with an owner is born claimed (fence 1) and needs no search."""
    enter: tuple[Job, ...] = ()
    """Claimed jobs, made `later`, that ask for their slots now. Their claims are among `holds`."""
    drop_jobs: tuple[JobId, ...] = ()
    """Jobs removed whoever has them; missing ones are fine."""
    waits: tuple[Wait, ...] = ()
    drop_waits: tuple[tuple[RunId, StepId], ...] = ()
    drop_all_of: RunId | None = None
    """Removes every job and wait of that run (not those in `jobs`)."""
    events: tuple[Event, ...] = ()
    unique: tuple[Unique, ...] = ()
    """Keys taken by this transition; one that somebody has (and that has not expired at `now`) refuses it."""
    now: Instant = 0
    blobs: tuple[tuple[Blob, bytes], ...] = ()
    """Texts that this transition refers to; storing one twice is fine."""


class Committed(msgspec.Struct, frozen=True):
    """The transition is durable. `parked` are those of its jobs that lack a slot: they are nobody's, and to be done
    by whoever claims them once they have it."""

    parked: tuple[JobId, ...] = ()


class RunMoved(msgspec.Struct, frozen=True):
    """The run has another sequence number than expected, or exists already, or is unknown."""

    run: RunId


class ClaimLost(msgspec.Struct, frozen=True):
    """Somebody else has that job now, or it is done."""

    job: JobId


class Duplicate(msgspec.Struct, frozen=True):
    """A unique key is taken, by `value`."""

    key: str
    value: str


Outcome: TypeAlias = Committed | RunMoved | ClaimLost | Duplicate
COMMITTED = Committed()


class StoredRun(msgspec.Struct, frozen=True):
    """A run's row and the entries after the sequence number that was asked for."""

    row: RunRow
    entries: tuple[Entry, ...]


class Node(msgspec.Struct, frozen=True):
    """One server process. `epoch` tells two lives of the same name apart."""

    name: str
    epoch: int
    lease_until: Instant


class Hint(msgspec.Struct, frozen=True):
    """What another node committed a moment ago. Hints get lost and come twice: they only make things sooner."""

    runs: tuple[RunId, ...] = ()
    """Runs that moved on."""
    routes: tuple[str | None, ...] = ()
    """Unowned jobs that are due now have these routes."""
    services: bool = False
    """A service or a credential was put or removed."""
    missed: bool = False
    """There was more than fits, or the connection was lost for a while: anything may have happened."""
    admitted: bool = False
    """Jobs of these routes waited for slots and have them now. Whoever made room for them is told, too."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Unowned jobs that were due at a moment: how many, counted up to `MOST_COUNTED`, and when the oldest was due.
    `parked` are those that wait for a slot of a limit, counted likewise; they are not among the others."""

    due: int = 0
    oldest_due: Instant | None = None
    parked: int = 0


MOST_COUNTED = 10_000

LONGEST_KEY = 500
_KEY = re.compile(r"[^\x00-\x1f\ud800-\udfff\U0010ffff]*")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Something small that a surface keeps: a value of its own making under a key, in an environment.

    `kind` tells what the value is. `revision` counts how often the record was written, from 1 on: who changes one
    that he has read puts the next revision, and is told if somebody was quicker. `at` is for whoever keeps it.
    """

    env: str
    kind: str
    key: str
    value: bytes
    revision: int = 1
    at: Instant = 0

    def check(self) -> None:
        """Raise `InvalidInput` for a key that not every store can keep in order, and for a revision below 1."""
        if not self.key or not can_be_key(self.key):
            raise InvalidInput(
                f"key {self.key[:100]!r}: it must have 1 to {LONGEST_KEY} bytes of UTF-8 without control characters",
                field="key",
            )
        if self.revision < 1:
            raise InvalidInput(f"revision {self.revision}: the first is 1", field="revision")


def can_be_key(text: str) -> bool:
    """Whether a record may have this key, or one that begins so."""
    return bool(_KEY.fullmatch(text)) and len(text.encode()) <= LONGEST_KEY


@dataclass(frozen=True, slots=True)
class Tidied:
    """What one piece of tidying removed. `more` says that another piece is waiting."""

    entries: int = 0
    keys: int = 0
    blobs: int = 0
    more: bool = False


@dataclass(frozen=True, slots=True)
class RunQuery:
    """Which runs to list, newest first. Every field narrows; `before` is the id of the last run seen.

    `created_from` is included, `created_until` is not. Counting takes no notice of `before` and `limit`.
    """

    env: str
    functions: tuple[str, ...] | None = None
    services: tuple[str, ...] | None = None
    statuses: tuple[RunStatus, ...] | None = None
    event: EventKey | None = None
    parent: RunId | None = None
    created_from: Instant | None = None
    created_until: Instant | None = None
    before: RunId | None = None
    limit: int = 50
    ascending: bool = False


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which events to list, newest first. `before` is the key of the last event seen.

    `received_from` is included, `received_until` is not.
    """

    env: str
    names: tuple[str, ...] | None = None
    received_from: Instant | None = None
    received_until: Instant | None = None
    internal: bool = True  # also events whose name begins with `inngest/`
    before: EventKey | None = None
    limit: int = 20


class StoreFull(StepwellError):
    """The disk is full. Nothing was stored; try again when there is room."""

    code = "STORE_FULL"
    http_status = 503
    retryable = True


class StoreUnavailable(StepwellError):
    """The store cannot be reached or is closing."""

    code = "STORE_UNAVAILABLE"
    http_status = 503
    retryable = True


class Store(Protocol):
    """Durable state. All methods may be called from one event loop at any time.

    Time in the store is the caller's clock on an embedded store and the primary's clock on a shared one:
    `now` asks it. Reads see everything committed before they were called.
    """

    @property
    def shared(self) -> bool:
        """Whether other processes may have nodes on it."""

    async def open(self) -> None:
        """Prepare, migrate, lock. Raises `StepwellError` with what to do when that is impossible."""

    async def close(self) -> None: ...

    async def now(self) -> Instant: ...

    # the hot path

    async def commit(self, transition: Transition) -> Outcome:
        """Apply the transition. Raises `StoreFull` or `StoreUnavailable`; then nothing was stored, unless a shared
        store was lost after it was asked and stays away: then nobody knows, and who looks when it is back will see.

        An id that is used twice (job, wait, event) and a row that does not count its entries are bugs of the caller:
        `AssertionError`, for that caller alone, and nothing was stored.
        """

    async def load_run(self, run: RunId, after_seq: int = 0) -> StoredRun | None: ...

    async def read_blobs(self, blobs: Sequence[Blob]) -> list[bytes]:
        """The texts, in order. Raises `KeyError` for one that is not there."""

    # jobs and nodes

    async def claim_due(self, node: Node, now: Instant, limit: int, routes: Collection[str] | None = None) -> list[Job]:
        """Claim unowned jobs that are due, oldest first: owner set, fence raised, durable on return.

        Args:
            routes: Those that the node can reach: jobs with another route are left alone. None: every one.
        """

    async def next_due(self, routes: Collection[str] | None = None) -> Instant | None:
        """When the next unowned job is due that a node with these routes may claim."""

    def listen(self, heard: Callable[[Hint], None]) -> None:
        """Have `heard` called, on the event loop, with what other nodes commit, and with the routes of parked jobs that
        got their slots, whoever made room for them.

        May be called once, before `open` or after it.
        """

    async def heartbeat(self, node: Node) -> bool:
        """Renew the lease of this node. False: others have taken its place, it must stop."""

    async def release_lost(self, now: Instant) -> int:
        """Free the jobs of nodes whose lease ran out, of earlier epochs and of nodes that never had a lease.

        Returns how many. A job that was born claimed is of the epoch that its owner had when it was committed.
        """

    async def release(self, claims: Sequence[Claim]) -> None:
        """Give claimed jobs back so that anybody may claim them now; claims that are not current are ignored."""

    async def read_keys(self, env: str, keys: Sequence[str]) -> dict[str, tuple[str, Instant]]:
        """Value and expiry of those of the unique keys that somebody has, or had."""

    # events and waits

    async def read_events(self, keys: Sequence[EventKey]) -> list[Event]:
        """The events that exist, in the order of `keys`."""

    async def events_since(self, env: str, name: str, since: Instant, limit: int) -> list[Event]:
        """Events of that name received at or after `since`, oldest first."""

    async def wait_paths(self, env: str, event: str) -> list[str | None]:
        """The distinct index paths of the waits for an event name (None among them: no index)."""

    async def waits_for(
        self, env: str, event: str, path: str | None, value: str | None, after: tuple[RunId, StepId] | None, limit: int
    ) -> list[Wait]:
        """Waits for an event with exactly that index key, ordered by (run, step), a page at a time."""

    # services

    async def put_service(self, service: Service) -> None: ...

    async def remove_service(self, env: str, name: str) -> bool: ...

    async def services(self) -> list[Service]: ...

    # credentials

    async def put_credential(self, credential: Credential, *, over: Credential | None = None) -> bool:
        """Store a credential in the place of the one with its name; with `over` only in the place of exactly that one.

        Returns whether it was stored, or is there already.
        """

    async def remove_credential(self, env: str, name: str) -> bool: ...

    async def credentials(self) -> list[Credential]:
        """All of them, by environment and name."""

    # records

    async def put_record(self, record: Record) -> bool:
        """Store a record if its revision is one more than that of the one with its key; 1: there must be none.

        Returns whether it was stored; False: somebody was quicker. Raises `InvalidInput` for a key that is not one.
        """

    async def record(self, env: str, kind: str, key: str) -> Record | None: ...

    async def records(
        self,
        env: str,
        kind: str,
        *,
        prefix: str = "",
        after: str | None = None,
        limit: int = 100,
        descending: bool = False,
    ) -> list[Record]:
        """Records of a kind whose keys begin with `prefix`, by key; `after` is the key of the last one seen."""

    async def remove_record(self, env: str, kind: str, key: str, revision: int | None = None) -> bool:
        """Remove a record, with `revision` only if it has that one. Returns whether it was there."""

    # lists

    async def run_row(self, run: RunId) -> RunRow | None: ...

    async def runs(self, query: RunQuery) -> list[RunRow]: ...

    async def count_runs(self, query: RunQuery) -> int: ...

    async def events(self, query: EventQuery) -> list[Event]: ...

    async def event_by_id(self, env: str, internal_id: str) -> Event | None:
        """The newest event with that internal id."""

    async def jobs_of(self, run: RunId) -> list[Job]: ...

    async def waits_of(self, run: RunId) -> list[Wait]: ...

    # retention: each call is one short transaction, and whoever reads sees a run whole or not at all

    async def ended_runs(self, after: RunId | None, until: RunId | None, limit: int) -> list[RunRow]:
        """Runs that have ended with ids between the two, exclusive, by id; None stands for no bound."""

    async def ended_run_before(self, newer: int) -> RunId | None:
        """The id of the ended run that has `newer` ended runs after it; None if there are not so many."""

    async def remove_runs(self, runs: Sequence[RunId], now: Instant) -> tuple[list[RunId], int]:
        """Remove runs that have ended and have no job and no child run; the others stay.

        Returns those that were removed, and how many of `runs` were looked at before the time for one transaction
        was over.
        """

    async def awaited_events(self) -> tuple[set[EventKey], Instant | None]:
        """What jobs have yet to look at: events by key, and the earliest time from which events are looked through."""

    async def remove_events(
        self, after: EventKey | None, until: Instant, kept: Collection[EventKey], limit: int, now: Instant
    ) -> tuple[int, EventKey | None]:
        """Look at `limit` events received before `until`, and remove those that started no run that is still there.

        Args:
            after: Where to begin: what the last call returned.
            kept: These stay.

        Returns:
            How many were removed, and the last key looked at; None when there was nothing left to look at.
        """

    async def tidy(self, now: Instant, loose_before: Instant) -> Tidied:
        """Remove a piece of what nobody can see any more: entries of removed runs, keys that expired at `now`, texts
        that nothing has referred to since `loose_before`, files without a row."""

    # for the auditor and for operators

    async def live_runs(self, after: RunId | None, limit: int) -> list[RunRow]:
        """Runs that have not ended, by id."""

    async def stray_rows(self, limit: int) -> list[str]:
        """Jobs, waits and claims that break a rule the store can check by itself, in words: of ended or unknown
        runs, owned by unknown nodes."""

    async def known_nodes(self) -> list[Node]:
        """The nodes that had a lease in the last day, by name."""

    async def backlog(self, now: Instant) -> Backlog: ...

    def meters(self) -> dict[str, Histogram]:
        """What this process measured of its commits: `commit_seconds` and `group_size`, where there are groups."""

    async def status(self) -> dict[str, object]:
        """Durability mode, sizes and counts, for the status page."""
