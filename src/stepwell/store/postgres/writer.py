"""Transitions are committed in groups, each by one call of one function in the database: one round trip, one sync.

    callers ──▶ queue ──▶ take all that wait ──▶ merge ──▶ write_group_2(expected, rows) ──▶ wake every caller
                             (bounded)             ▲             │ something was not as expected
                                                   └── look ◀────┘ (nothing was written)

A group is merged on the assumption that what its transitions expect is true; the function checks that while it writes,
and raises if it was not. Then the current state is read, the group is merged again, and whoever is late is refused. So
there are no locks between round trips, and servers that want the same run cannot stop each other: one of them gets on.

A **lane** is a connection with a row of its own in `writer`, which holds the number of its last group and changes in
the same transaction. When a connection is lost nobody knows whether the group was committed; it is sent again with the
same number, and the function tells. It also waits for the first attempt if that is still under way: both want that row.
When the database stays away for too long the callers are told. Once it is back the group is either made impossible or,
if it was committed, its jobs that were born claimed are given to anybody: whoever has them does not know.

Several lanes write at the same time. What touches the same run, job or key as a group under way waits for it, so the
order of those who depend on one another stays as they came.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

import asyncpg
from msgspec import json

from stepwell.model.errors import StepwellError
from stepwell.store.base import COMMITTED, Committed, StoreUnavailable
from stepwell.store.batch import (
    RUN_BODY,
    RUN_ENDING,
    RUN_SEQ,
    RUN_STATUS,
    Current,
    asked_body,
    merge,
    relied_on,
)
from stepwell.store.meters import COUNTS, SECONDS, Histogram
from stepwell.store.postgres.database import LONGEST_PAUSE_S, breaks, shut
from stepwell.store.postgres.text import indexed, plain, plainly
from stepwell.store.slots import place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from stepwell.model.job import Job
    from stepwell.store.base import Outcome
    from stepwell.store.batch import Batch, Prepared, Row
    from stepwell.store.clock import Clock
    from stepwell.store.postgres.database import Connection, Database

LANES = 2
GROUP_TRANSITIONS = 512
GROUP_BYTES = 8 << 20
WAITING_TRANSITIONS = 4_096
WAITING_BYTES = 64 << 20
WAITING_FOR_ROOM = 20_000
SILENT_S = 5.0
"""How long a store that is being closed waits for a database that says nothing."""
CHANGED = "SW001"
"""The SQLSTATE of a group that relied on something which is not so."""
UNKNOWN = "SW002"
"""That of a call by a lane whose row is not there, or not where it should be."""

log = logging.getLogger(__name__)

Written: TypeAlias = "Callable[[Sequence[Prepared], Sequence[Outcome], Sequence[str | None]], None]"


class Lane:
    """A connection whose calls are each done exactly once. Not for two callers at a time."""

    def __init__(self, database: Database, name: str) -> None:
        self.id = f"{name}:{uuid4().hex}"
        self._database = database
        self._number = 0
        self._known = False
        self._connection: Connection | None = None

    async def call(self, how: str, sql: str, *values: Any) -> Any:
        """A function that takes the lane's id and the number of this call first.

        After `StoreUnavailable` the next call has the same number, and if this one was done it gets this one's answer.

        Raises:
            StoreUnavailable: For too long nothing was heard. It may have been done, if it was sent.
            asyncpg.PostgresError: It was not done, and would not be if it was asked for again.
        """
        result = await self._database.persist(lambda: self._attempt(how, sql, values))
        self._number += 1
        return result

    async def _attempt(self, how: str, sql: str, values: tuple[Any, ...]) -> Any:
        connection = await self._connected()
        alone = self._database.alone
        try:
            while True:
                if not self._known:
                    await alone(connection, "execute", _REGISTER, self.id)
                    self._known = True
                try:
                    return await alone(connection, how, sql, self.id, self._number + 1, *values)
                except asyncpg.PostgresError as err:
                    if err.sqlstate != UNKNOWN:
                        raise
                    log.warning("the database has forgotten what was written last; was it restored, or failed over?")
                    self.abandon()  # it does not know this call either
        except BaseException as err:
            self._drop(connection, err)
            raise

    async def look(self, runs: list[str], jobs: list[str], keys: list[tuple[str, str]]) -> Current:
        """What is said now of the runs, jobs and keys that a group relies on."""
        return await self._database.persist(lambda: self._look(runs, jobs, keys))

    async def _look(self, runs: list[str], jobs: list[str], keys: list[tuple[str, str]]) -> Current:
        ask, connection = self._database.ask, await self._connected()
        current = Current()
        try:
            current.seqs = dict(await ask(connection, "SELECT id, seq FROM stepwell.run WHERE id = ANY ($1)", runs))
            claims = "SELECT id, fence, run FROM stepwell.job WHERE id = ANY ($1) AND owner IS NOT NULL"
            current.claims = [tuple(row) for row in await ask(connection, claims, jobs)]
            if keys:
                names = {(plain(env), indexed(key)): (env, key) for env, key in keys}
                for env, key, value, until in await ask(connection, _KEYS, *zip(*names, strict=True)):
                    current.keys[names[env, key]] = (plainly(value), until)
        except BaseException as err:
            self._drop(connection, err)
            raise
        return current

    async def _connected(self) -> Connection:
        connection = self._connection
        if connection is None or connection.is_closed():
            connection = self._connection = await self._database.connect()
        return connection

    def _drop(self, connection: Connection, err: BaseException) -> None:
        if breaks(err):
            connection.terminate()
            self._connection = None

    @property
    def next(self) -> tuple[str, int]:
        """By what the database knows the next call."""
        return self.id, self._number + 1

    def abandon(self) -> None:
        """Go on as somebody else, who does not ask how the last call ended."""
        self.id = f"{self.id.partition(':')[0]}:{uuid4().hex}"
        self._number = 0
        self._known = False

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None or connection.is_closed():
            return
        try:
            if self._known:
                await self._database.alone(connection, "execute", _FORGET, self.id, timeout_s=1.0)
        except Exception as err:
            log.debug("a writer stays on the list until it is old: %s", err)
        await shut(connection)


_REGISTER = "INSERT INTO stepwell.writer VALUES ($1, 0, stepwell.clock_ms()) ON CONFLICT DO NOTHING"
_KEYS = """
SELECT dedup.env, dedup.key, value, until FROM unnest($1::text[], $2::text[]) AS n (env, key), stepwell.dedup
WHERE dedup.env = ANY (ARRAY[n.env]) AND dedup.key = n.key
"""
_FORGET = "DELETE FROM stepwell.writer WHERE id = $1"


class _Item:
    __slots__ = ("future", "prepared", "touches")

    def __init__(self, prepared: Prepared, touches: frozenset[Any], future: asyncio.Future[Outcome]) -> None:
        self.prepared = prepared
        self.touches = touches
        self.future = future


class Writer:
    """Takes transitions and hands them to its lanes in groups.

    `written` is called for each group that was committed, with its outcomes and the routes of parked jobs that got
    their slots. `clock` says when a text was stored
    that nothing refers to, in place of the database's.
    """

    def __init__(self, database: Database, written: Written, lanes: int = LANES, clock: Clock | None = None) -> None:
        self.commit_seconds = Histogram(SECONDS)
        self.group_size = Histogram(COUNTS)
        self._clock = clock
        self.groups = 0
        self.transitions = 0
        self.replays = 0
        self._database = database
        self._written = written
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Item] = deque()
        self._queued_bytes = 0
        self._waiting_for_room: deque[asyncio.Future[None]] = deque()
        self._lanes = [Lane(database, "group") for _ in range(lanes)]
        self._idle = deque(self._lanes)
        self._busy: set[asyncio.Task[None]] = set()
        self._doubts: set[asyncio.Task[None]] = set()
        self._under_way: set[Any] = set()
        self._starting = False
        self._closing = False

    async def commit(self, prepare: Callable[[], Prepared]) -> Outcome:
        """Queue what `prepare` makes and wait until it is durable.

        Raises:
            StoreUnavailable: The store is closing, or so many are waiting for room in the queue that more would only
                fill the memory; or the database.
        """
        if len(self._queue) >= WAITING_TRANSITIONS or self._queued_bytes >= WAITING_BYTES or self._waiting_for_room:
            await self._room()
        if self._closing:
            raise StoreUnavailable("the store is closing")
        prepared = prepare()
        item = _Item(prepared, _touches(prepared), self._loop.create_future())
        self._queued_bytes += prepared.size_bytes
        self._queue.append(item)
        self._start_soon()
        return await item.future

    async def _room(self) -> None:
        if len(self._waiting_for_room) >= WAITING_FOR_ROOM:
            raise StoreUnavailable("the store is behind: too many transitions are waiting to be written")
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting_for_room.append(turn)
        try:
            await turn
        except BaseException:
            self._admit()  # had it been its turn, nobody else would be told of the room
            raise

    def _admit(self) -> None:
        room = WAITING_TRANSITIONS - len(self._queue)
        while self._waiting_for_room and room > 0 and self._queued_bytes < WAITING_BYTES:
            turn = self._waiting_for_room.popleft()
            if not turn.done():
                turn.set_result(None)
                room -= 1

    def _start_soon(self) -> None:
        """Once everybody who is about to say something in this pass of the loop has said it."""
        if self._idle and not self._starting:
            self._starting = True
            self._loop.call_soon(self._start)

    def _start(self) -> None:
        self._starting = False
        while self._idle and self._queue:
            lane = self._idle.popleft()
            group = self._take()
            if not group:
                self._idle.appendleft(lane)
                break
            task = self._loop.create_task(self._serve(lane, group))
            self._busy.add(task)
            task.add_done_callback(self._busy.discard)

    def _take(self) -> list[_Item]:
        """The next group: the oldest that wait, without those that depend on a group under way."""
        group: list[_Item] = []
        later: list[_Item] = []
        blocked = self._under_way
        size = 0
        queue = self._queue
        while queue and len(group) < GROUP_TRANSITIONS and size < GROUP_BYTES:
            item = queue.popleft()
            if blocked and not blocked.isdisjoint(item.touches):
                blocked = blocked | item.touches  # who depends on it comes after it
                later.append(item)
                continue
            size += item.prepared.size_bytes
            group.append(item)
        queue.extendleft(reversed(later))
        for item in group:
            self._under_way |= item.touches
        return group

    async def _serve(self, lane: Lane, group: list[_Item]) -> None:
        while group:
            try:
                await self._write(lane, group)
            except asyncio.CancelledError:
                self._fail(group, StoreUnavailable("the store was closed while the database was away"))
                raise
            for item in group:
                self._under_way -= item.touches
                self._queued_bytes -= item.prepared.size_bytes
            self._admit()
            await asyncio.sleep(0)  # those who were woken have something to say
            group = self._take()
        self._idle.append(lane)
        if self._queue:
            self._start_soon()

    async def _write(self, lane: Lane, group: list[_Item]) -> None:
        prepared = [item.prepared for item in group]
        began = time.perf_counter()
        try:
            outcomes, admitted = await self._settle(lane, prepared)
        except StepwellError as err:
            if isinstance(err, StoreUnavailable):
                task = self._loop.create_task(self._resolve(*lane.next, _born_claimed(prepared)))
                self._doubts.add(task)
                task.add_done_callback(self._doubts.discard)
                lane.abandon()  # the next group must not be taken for this one
            self._fail(group, err)
        except Exception as err:
            if len(group) == 1:
                self._fail(group, _bug(err))
                return
            for item in group:  # somebody in it has a bug; the others shall not suffer
                await self._write(lane, [item])
        else:
            self.commit_seconds.add(time.perf_counter() - began)
            self.group_size.add(len(group))
            self.groups += 1
            self.transitions += len(group)
            for item, outcome in zip(group, outcomes, strict=True):
                if not item.future.done():  # else the caller was cancelled; the change stands all the same
                    item.future.set_result(outcome)
            self._written(prepared, outcomes, admitted)

    async def _resolve(self, lane: str, number: int, born: list[str]) -> None:
        """See to it that a call whose end nobody knows is not made any more; or if it was, that its jobs are done."""
        while True:
            connection: Connection | None = None
            try:
                connection = await self._database.connect()
                ask = self._database.ask
                # Two statements: the first may wait for the call itself, the second must see what that has done.
                if not await ask(connection, _VOID, lane, number) and await ask(connection, _MADE, lane, number):
                    await ask(connection, _FREE, born)
                return
            except Exception as err:
                if self._database.failure(err) is None:
                    raise
                await asyncio.sleep(LONGEST_PAUSE_S)
            finally:
                if connection is not None:
                    connection.terminate()

    def _fail(self, group: list[_Item], error: Exception) -> None:
        for item in group:
            if not item.future.done():
                own = type(error)(*error.args)  # an exception collects the stack of whoever raises it
                own.__cause__ = error.__cause__ or error
                item.future.set_exception(own)

    async def _settle(self, lane: Lane, group: Sequence[Prepared]) -> tuple[list[Outcome], list[str | None]]:
        """Outcomes that are true and durable, and the routes of parked jobs that got their slots."""
        batch = merge(group, assumed(group))
        if any(outcome is not COMMITTED for outcome in batch.outcomes):
            # Who is refused for what the others of the group do may be late for another reason as well.
            batch = merge(group, await lane.look(*relied_on(group)))
        collided = False
        while True:
            values = arguments(group, batch)
            if values is None:
                return batch.outcomes, []
            try:
                if batch.uses or batch.blobs:
                    row = await lane.call("fetchval", _WRITE_AND_NOTE, *values, *self._noted(batch))
                else:
                    row = await lane.call("fetchval", _WRITE, *values)
            except asyncpg.UniqueViolationError:
                if collided:
                    raise
                collided = True  # another server may have been faster; else it is a bug of a caller
            except asyncpg.PostgresError as err:
                if err.sqlstate != CHANGED:
                    raise
            else:
                parked, admitted = row
                if parked:
                    batch.park(group, frozenset(parked))
                return batch.outcomes, [route or None for route in admitted or ()]
            self.replays += 1
            batch = merge(group, await lane.look(*relied_on(group)))

    def _noted(self, batch: Batch) -> tuple[Any, ...]:
        """The arguments of `note_uses_1`: holders, hashes and shards; the hashes of what is stored, and the time."""
        rows = sorted(batch.uses.values())
        columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], []]
        now = None if self._clock is None else self._clock.now()
        return (*columns, sorted(blob.hash for blob in batch.blobs), now)

    def refuse(self) -> None:
        """Take no more. What is queued will be written."""
        self._closing = True
        while self._waiting_for_room:
            turn = self._waiting_for_room.popleft()
            if not turn.done():
                turn.set_exception(StoreUnavailable("the store is closing"))

    async def join(self) -> None:
        """Wait until the queue is written, or the database was silent for so long that it is away: nobody was told of
        what is left then."""
        self._start()
        while self._busy:
            written = self.groups
            await asyncio.wait(self._busy, timeout=SILENT_S)
            if self._busy and self.groups == written:
                break
            self._start()
        for task in self._busy:
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)
        self._fail(list(self._queue), StoreUnavailable("the store was closed while the database was away"))
        self._queue.clear()

    async def close(self) -> None:
        for task in self._doubts:
            task.cancel()
        await asyncio.gather(*self._doubts, return_exceptions=True)
        for lane in self._lanes:
            await lane.close()


# What was void is told from what was made by its sign, also by whoever asks twice.
_VOID = "UPDATE stepwell.writer SET last = -$2 WHERE id = $1 AND last = $2::bigint - 1 RETURNING 1"
_MADE = "SELECT 1 FROM stepwell.writer WHERE id = $1 AND last = $2"
_FREE = """
UPDATE stepwell.job SET owner = NULL, epoch = NULL, claim = NULL
WHERE id = ANY ($1) AND fence = 1 AND owner IS NOT NULL
"""


def _born_claimed(group: Sequence[Prepared]) -> list[str]:
    return [job.id for prepared in group for job in prepared.transition.jobs if job.owner is not None]


def _bug(err: Exception) -> Exception:
    if not isinstance(err, asyncpg.UniqueViolationError):
        return err
    bug = AssertionError(f"a row with that id exists already: {err.detail or err}")
    bug.__cause__ = err
    return bug


def _touches(prepared: Prepared) -> frozenset[Any]:
    """What a transition relies on or changes: those with something in common are written in their order."""
    transition = prepared.transition
    touched: list[Any] = [claim.job for claim in transition.ends]
    touched += [claim.job for claim in transition.holds]
    touched += transition.drop_jobs
    for job in transition.jobs:
        touched.append(job.id)
        touched.append(job.run)
    if transition.run is not None:
        touched.append(transition.run.row.id)
    touched += [run for run, _ in transition.drop_waits]
    touched += [wait.run for wait in transition.waits]
    touched += [(key.env, key.key) for key in transition.unique]
    touched.append(transition.drop_all_of)
    return frozenset(one for one in touched if one is not None)


def assumed(group: Sequence[Prepared]) -> Current:
    """The state in which the first to rely on something is right."""
    current = Current()
    seen: set[str] = set()
    made: set[str] = set()
    claimed: set[str] = set()
    for prepared in group:
        transition = prepared.transition
        if (write := transition.run) is not None and write.row.id not in seen:
            seen.add(write.row.id)
            if write.expected_seq:
                current.seqs[write.row.id] = write.expected_seq
        for claim in (*transition.ends, *transition.holds):
            if claim.job not in made and claim.job not in claimed:
                claimed.add(claim.job)
                current.claims.append((claim.job, claim.fence, None))
        for key in transition.unique:
            if key.replaces is not None:
                current.keys.setdefault((key.env, key.key), (key.replaces, 0))
        made.update(job.id for job in transition.jobs)
    return current


def arguments(group: Sequence[Prepared], batch: Batch) -> tuple[Any, ...] | None:
    """Those of `write_group_2`: what the accepted transitions expect of the database, and the rows. None: nothing."""
    seqs: dict[str, int] = {}
    ends: dict[str, tuple[int, int]] = {}
    holds: dict[str, tuple[int, int]] = {}
    key_times: dict[tuple[str, str], int] = {}
    swaps: dict[tuple[str, str], str | None] = {}
    made: set[str] = set()
    gone = 0
    for prepared, outcome in zip(group, batch.outcomes, strict=True):
        if not isinstance(outcome, Committed):
            continue
        transition = prepared.transition
        if transition.run is not None:
            seqs.setdefault(transition.run.row.id, transition.run.expected_seq)
        for claim in transition.holds:
            if claim.job not in made:
                holds.setdefault(claim.job, (claim.fence, gone))
        for claim in transition.ends:
            if claim.job not in made:
                ends[claim.job] = (claim.fence, gone)
                holds.pop(claim.job, None)
        for job in transition.jobs:
            made.add(job.id)
        for key in transition.unique:
            key_times.setdefault((key.env, key.key), transition.now)
            swaps.setdefault((key.env, key.key), key.replaces)
        if transition.drop_all_of is not None:
            gone += 1
    moved = [
        (run, row[2], seqs[run], row[RUN_SEQ], row[RUN_STATUS], row[RUN_ENDING], row[RUN_BODY])
        for run, row in sorted(batch.moved_runs.items())
    ]
    drop_jobs = sorted({job for job in batch.drop_jobs if job not in ends})
    keys = [
        (plain(env), indexed(key), plain(value), until, shard, key_times[env, key])
        for env, key, value, until, shard in sorted(batch.keys.values())
    ]
    values = (
        *_columns(moved, 7),
        *_columns([(job, *claim) for job, claim in sorted(ends.items())], 3),
        *_columns([(job, *claim) for job, claim in sorted(holds.items())], 3),
        drop_jobs or None,
        batch.drop_all_of or None,
        *_columns(batch.drop_waits, 2),
        *_columns(sorted([(blob.hash, text) for blob, text in batch.blobs.items()], key=_FIRST), 2),
        *_columns([_event(row) for row in batch.events], 7),
        *_columns([_run(row) for _, row in sorted(batch.new_runs.items())], 12),
        *_columns(batch.entries, 5),
        *_columns([_job(row) for row in batch.jobs.values()], 10),
        *_columns(keys, 6),
        batch.keys_at if keys else None,
        *_columns([_wait(row) for row in batch.waits.values()], 8),
        *_columns([_entering(job) for job in batch.entering(group)], 11),
        *_columns(
            sorted([(plain(env), indexed(key), plain(old)) for (env, key), old in swaps.items() if old is not None]), 3
        ),
    )
    return values if any(value is not None for value in values) else None


_FIRST = itemgetter(0)


def _columns(rows: Sequence[Row], count: int) -> Iterable[tuple[Any, ...] | None]:
    return zip(*rows, strict=True) if rows else (None,) * count


def _event(row: Row) -> Row:
    key, env, shard, name, internal_id, received_at, body = row
    return (key, env, shard, indexed(name), indexed(internal_id), received_at, body)


def _run(row: Row) -> Row:
    run, env, shard, seq, status, ending, function, service, *rest = row
    return (run, env, shard, seq, status, ending, indexed(function), indexed(service), *rest)


def _job(row: Row) -> Row:
    *first, route, body = row
    return (*first, "" if route is None else indexed(route), body)


def _entering(job: Job) -> Row:
    place = place_of(job)
    limits = {slot.key: slot.limit for slot in job.slots}
    return (
        *(job.id, job.run, job.shard, job.rank, job.due, "" if job.route is None else indexed(job.route)),
        *(job.fence if job.later else 0, asked_body(job, parked=True), asked_body(job, parked=False)),
        *(_json(place.keys), _json([limits[key] for key in place.keys])),
    )


def _json(values: Sequence[object]) -> str:
    return json.encode(values).decode()


def _wait(row: Row) -> Row:
    run, step, env, shard, event, path, value, body = row
    return (run, step, env, shard, indexed(event), path and indexed(path), value and indexed(value), body)


_ARGUMENTS = 84
_WRITE = f"SELECT stepwell.write_group_2({', '.join(f'${number}' for number in range(1, _ARGUMENTS + 1))})"
_WRITE_AND_NOTE = (
    f"{_WRITE} FROM stepwell.note_uses_1({', '.join(f'${number}' for number in range(_ARGUMENTS + 1, _ARGUMENTS + 6))})"
)
