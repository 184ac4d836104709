"""The one thread that writes. Whoever waits when it looks up is written in the same transaction: group commit.

    callers ──▶ queue ──▶ take all that wait ──▶ BEGIN, one statement per table, COMMIT ──▶ wake every caller
                             (bounded)                      one fsync for all

A lone transition is written at once; nothing is delayed in the hope of company. While the disk syncs one group the
next one gathers. Nobody is told of success before COMMIT returned.

The rows of a group are worked out before anything is written (`store.batch`), so a refused transition has nothing to
take back, and there are no savepoints. If a group fails for a reason other than the disk, somebody in it has a bug:
it is rolled back and its members are written one by one, so that only the culprit hears of it.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from stepwell.store.base import StoreFull, StoreUnavailable
from stepwell.store.batch import RUN_BODY, RUN_ENDING, RUN_SEQ, RUN_STATUS, Batch, Current, Prepared, merge, relied_on
from stepwell.store.meters import COUNTS, SECONDS, Histogram
from stepwell.store.sqlite.directory import disk_is_full
from stepwell.store.sqlite.removal import mark_loose
from stepwell.store.sqlite.slots import Slots

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from stepwell.store.batch import Row
    from stepwell.store.sqlite.fair import FairShare
    from stepwell.store.sqlite.statements import Statements

GROUP_TRANSITIONS = 512
GROUP_BYTES = 8 << 20
WAITING_TRANSITIONS = 4_096
WAITING_BYTES = 64 << 20
WAITING_FOR_ROOM = 20_000
CHECKPOINT_PAGES = 4_096
"""How long the write-ahead log gets before its pages are copied into the database."""
WAL_LIMIT_PAGES = 16_384
"""When readers have kept it from starting again until here, they are held back for a moment."""
IDLE_S = 2.0

_INSERT_JOBS = "INSERT OR ROLLBACK INTO job (id, env, shard, run, due, owner, epoch, fence, route, body) VALUES $rows"

Operation: TypeAlias = "Callable[[Statements], Any]"
"""Some other change, made inside the transaction."""

log = logging.getLogger(__name__)


class _Item:
    __slots__ = ("future", "operation", "prepared", "result", "size_bytes")

    def __init__(self, prepared: Prepared | None, operation: Operation | None, future: asyncio.Future[Any]) -> None:
        self.prepared = prepared
        self.operation = operation
        self.future = future
        self.size_bytes = 0 if prepared is None else prepared.size_bytes
        self.result: Any = None


class Writer:
    """Owns the writing connection. All methods but those of the thread belong to the event loop.

    `without_readers` is entered, on the thread, while the write-ahead log must have no reader. `admitted` is told the
    routes of parked jobs that got their slots.
    """

    def __init__(
        self,
        statements: Statements,
        file: Path,
        loop: asyncio.AbstractEventLoop,
        fair: FairShare,
        now: Callable[[], int],
        without_readers: Callable[[], AbstractContextManager[None]],
        admitted: Callable[[tuple[str | None, ...]], None],
    ) -> None:
        self.groups = 0
        self.transitions = 0
        self.checkpoints = 0
        self.wal_pages = 0
        self.commit_seconds = Histogram(SECONDS)
        self.group_size = Histogram(COUNTS)
        self._statements = statements
        self._connection = statements.connection
        self._file = file
        self._loop = loop
        self._fair = fair
        self._now = now
        self._without_readers = without_readers
        self._admitted = admitted
        self._slots = Slots(statements)
        self._queue: deque[_Item] = deque()
        self._queued_bytes = 0
        self._waiting_for_room: deque[asyncio.Future[None]] = deque()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._asleep = True
        self._closing = False
        self._written = 0.0  # since the last checkpoint: transitions, and 4 KiB of text count as one
        self._pages_each = 4.0  # what one of those makes the log grow by; measured at each checkpoint
        self._thread = threading.Thread(target=self._serve, name="stepwell-store-writer", daemon=True)
        self._thread.start()

    # on the event loop

    async def commit(self, prepare: Callable[[], Prepared]) -> Any:
        """Queue what `prepare` makes and wait until it is durable.

        Raises:
            StoreUnavailable: The store is closing, or so many are waiting for room in the queue that more would only
                fill the memory.
        """
        if len(self._queue) >= WAITING_TRANSITIONS or self._queued_bytes >= WAITING_BYTES or self._waiting_for_room:
            await self._room()
        return await self._submit(_Item(prepare(), None, self._loop.create_future()))

    async def run(self, operation: Operation) -> Any:
        """Do something else in a transaction of the same kind; its value is returned once it is durable."""
        return await self._submit(_Item(None, operation, self._loop.create_future()))

    def _submit(self, item: _Item) -> asyncio.Future[Any]:
        if self._closing:
            raise StoreUnavailable("the store is closing")
        self._queued_bytes += item.size_bytes
        self._fair.begin()
        self._queue.append(item)
        if self._asleep:
            self._asleep = False
            self._wake.put(None)
        return item.future

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

    def _resolve(self, group: list[_Item], error: Exception | None, admitted: tuple[str | None, ...]) -> None:
        self._fair.end(len(group))
        if admitted:
            self._admitted(admitted)
        for item in group:
            self._queued_bytes -= item.size_bytes
            future = item.future
            if future.done():
                continue  # the caller was cancelled; the change stands all the same
            if error is None:
                future.set_result(item.result)
            elif len(group) == 1:
                future.set_exception(error)
            else:  # an exception collects the stack of whoever raises it: each caller gets one of his own
                own = type(error)(*error.args)
                own.__cause__ = error.__cause__
                future.set_exception(own)
        self._admit()

    def _admit(self) -> None:
        room = WAITING_TRANSITIONS - len(self._queue)
        while self._waiting_for_room and room > 0 and self._queued_bytes < WAITING_BYTES:
            turn = self._waiting_for_room.popleft()
            if not turn.done():
                turn.set_result(None)
                room -= 1

    def refuse(self) -> None:
        """Take no more. What is queued will be written."""
        self._closing = True
        while self._waiting_for_room:
            turn = self._waiting_for_room.popleft()
            if not turn.done():
                turn.set_exception(StoreUnavailable("the store is closing"))

    def join(self) -> None:
        """Wait until the queue is written and the thread has ended. Blocks."""
        self._wake.put(None)
        self._thread.join()

    def close(self) -> None:
        """The last to close copies what is in the log into the database and removes the log."""
        self._connection.close()

    # on the thread

    def _serve(self) -> None:
        queue = self._queue
        while True:
            if not queue:
                self._asleep = True
                if not queue:  # looked again: a caller may have come between the two lines
                    if self._closing:
                        return
                    self._sleep()
                self._asleep = False
                continue
            group: list[_Item] = []
            size = 0
            while queue and len(group) < GROUP_TRANSITIONS and size < GROUP_BYTES:
                item = queue.popleft()
                size += item.size_bytes
                group.append(item)
            self._write(group)
            self._written += len(group) + size / 4096
            if self._written * self._pages_each >= CHECKPOINT_PAGES:
                self._checkpoint()

    def _sleep(self) -> None:
        try:
            self._wake.get(timeout=IDLE_S if self._written else None)
        except Empty:
            self._checkpoint()

    def _write(self, group: list[_Item]) -> None:
        began = time.perf_counter()
        try:
            admitted = self._transaction(group)
        except sqlite3.Error as err:
            self._roll_back()
            if isinstance(err, sqlite3.IntegrityError):
                self._write_apart(group, err)
            else:
                self._answer(group, self._explain(err))
        except Exception as err:
            self._roll_back()
            self._write_apart(group, err)
        else:
            self.commit_seconds.add(time.perf_counter() - began)
            self.group_size.add(len(group))
            self._answer(group, None, admitted)

    def _write_apart(self, group: list[_Item], error: Exception) -> None:
        if len(group) > 1:
            for item in group:
                self._write([item])
            return
        if isinstance(error, sqlite3.IntegrityError):
            bug = AssertionError(f"a row with that id exists already: {error}")
            bug.__cause__ = error
            error = bug
        self._answer(group, error)

    def _answer(self, group: list[_Item], error: Exception | None, admitted: tuple[str | None, ...] = ()) -> None:
        self.groups += 1
        self.transitions += len(group)
        try:
            self._loop.call_soon_threadsafe(self._resolve, group, error, admitted)
        except RuntimeError:
            pass  # the loop is gone, and everybody who waited with it

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            log.exception("a transaction could not be rolled back")

    def _explain(self, err: sqlite3.Error) -> Exception:
        code = getattr(err, "sqlite_errorcode", 0)
        if code == sqlite3.SQLITE_FULL or (code & 0xFF == sqlite3.SQLITE_IOERR and disk_is_full(self._file.parent)):
            error: Exception = StoreFull(f"the disk under {self._file.parent} is full; nothing was stored")
        else:
            error = StoreUnavailable(f"the database {self._file} could not be written: {err}")
            log.error("%s", error)
        error.__cause__ = err
        return error

    def _checkpoint(self) -> None:
        """Copy the log into the database; the next transaction then starts the log again, unless somebody reads."""
        try:
            pages, copied = self._copy_log("PASSIVE")
            if pages >= WAL_LIMIT_PAGES and copied < pages:
                with self._without_readers():
                    # Another process may read for long, a backup; its end is not waited for.
                    self._connection.execute("PRAGMA busy_timeout = 100")
                    pages, copied = self._copy_log("TRUNCATE")
                    self._connection.execute("PRAGMA busy_timeout = 5000")
        except sqlite3.Error as err:
            log.warning("the write-ahead log could not be copied into the database yet: %s", err)
            self._written = 0
            return
        if self._written and pages > self.wal_pages:
            self._pages_each = max(0.5, (pages - self.wal_pages) / self._written)
        self.wal_pages = 0 if copied == pages else pages
        self.checkpoints += 1
        self._written = 0

    def _copy_log(self, how: str) -> tuple[int, int]:
        self._statements.point("before checkpoint")
        _, pages, copied = self._connection.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
        self._statements.point("after checkpoint")
        return pages, copied

    # one transaction

    def _transaction(self, group: list[_Item]) -> tuple[str | None, ...]:
        """Write a group. Returns the routes of parked jobs that got their slots."""
        admitted: tuple[str | None, ...] = ()
        prepared = [item.prepared for item in group if item.prepared is not None]
        self._statements.one("begin", "BEGIN IMMEDIATE")
        if prepared:
            batch = merge(prepared, self._current(prepared))
            self._store(batch)
            admitted = self._slots.settle(prepared, batch)
            outcomes = iter(batch.outcomes)
            for item in group:
                if item.prepared is not None:
                    item.result = next(outcomes)
        for item in group:
            if item.operation is not None:
                item.result = item.operation(self._statements)
        self._fair.syncing = True
        try:
            self._statements.one("commit", "COMMIT")
        finally:
            self._fair.syncing = False
        return admitted

    def _current(self, group: Sequence[Prepared]) -> Current:
        runs, jobs, keys = relied_on(group)
        current = Current()
        if runs or jobs:
            seqs, claims = self._connection.execute(_CURRENT, (_json(runs), _json(jobs))).fetchone()
            current.seqs, current.claims = _read_seqs(seqs), _read_claims(claims)
        if keys:
            for env, key, value, until in self._connection.execute(_KEYS, (_json(keys),)).fetchall():
                current.keys[env, key] = (value, until)
        return current

    def _store(self, batch: Batch) -> None:
        one, many = self._statements.one, self._statements.many
        if batch.drop_jobs:
            one("drop jobs", f"DELETE FROM job WHERE id IN {_LISTED}", (_json(batch.drop_jobs),))
        if batch.drop_all_of:
            ended = (_json(batch.drop_all_of),)
            one("drop jobs of runs", f"DELETE FROM job WHERE run IN {_LISTED}", ended)
            one("drop waits of runs", f"DELETE FROM wait WHERE run IN {_LISTED}", ended)
        many("drop waits", "DELETE FROM wait WHERE (run, step) IN (VALUES $rows)", batch.drop_waits)
        if batch.blobs:
            now = self._now()
            # An empty text is one that is in a file.
            blobs = [(blob.hash, blob.size_bytes, now, text or None) for blob, text in batch.blobs.items()]
            many("insert blobs", "INSERT INTO blob VALUES $rows ON CONFLICT DO NOTHING", blobs)
        if batch.uses:
            many("note uses", "INSERT INTO blob_use VALUES $rows ON CONFLICT DO NOTHING", list(batch.uses.values()))
        if batch.blobs:
            used = {row[1] for row in batch.uses.values()}
            unused = [blob.hash for blob in batch.blobs if blob.hash not in used]
            if unused:  # what was decided made no use of the text
                mark_loose(self._statements, unused, self._now())
        many("insert events", "INSERT OR ROLLBACK INTO event VALUES $rows", batch.events)
        many("insert runs", "INSERT OR ROLLBACK INTO run VALUES $rows", list(batch.new_runs.values()))
        moved: list[Row] = []
        over: list[Row] = []
        for row in batch.moved_runs.values():
            if row[RUN_ENDING] is None:
                moved.append((row[0], row[RUN_SEQ], row[RUN_STATUS], row[RUN_BODY]))
            else:
                over.append((row[0], row[RUN_SEQ], row[RUN_STATUS], row[RUN_BODY], row[RUN_ENDING]))
        many("move runs", _MOVE_RUNS, moved)
        many("end runs", _END_RUNS, over)
        many("insert entries", "INSERT OR ROLLBACK INTO entry VALUES $rows", batch.entries)
        many("insert jobs", _INSERT_JOBS, list(batch.jobs.values()))
        if batch.keys:
            # Twice as many as come in, so that there are never more than have not expired.
            one("drop expired keys", _DROP_KEYS, (batch.keys_at, 2 * len(batch.keys)))
            many("take keys", _TAKE_KEYS, list(batch.keys.values()))
        many("insert waits", "INSERT OR ROLLBACK INTO wait VALUES $rows", list(batch.waits.values()))


# OR ROLLBACK: a conflict makes the writer start again anyway, and SQLite need not prepare to undo one statement.

_LISTED = "(SELECT value FROM json_each(?))"
_CURRENT = """
SELECT (SELECT json_group_object(id, seq) FROM run WHERE id IN (SELECT value FROM json_each(?))),
       (SELECT json_group_array(json_array(id, fence, run)) FROM job
        WHERE owner IS NOT NULL AND id IN (SELECT value FROM json_each(?)))
"""
_MOVE_RUNS = """
UPDATE OR ROLLBACK run SET seq = new.column2, status = new.column3, body = new.column4
FROM (VALUES $rows) AS new WHERE run.id = new.column1
"""
_END_RUNS = """
UPDATE OR ROLLBACK run SET seq = new.column2, status = new.column3, body = new.column4, ending = new.column5
FROM (VALUES $rows) AS new WHERE run.id = new.column1
"""
_KEYS = """
SELECT env, key, value, until FROM dedup
WHERE (env, key) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?))
"""
_DROP_KEYS = """
DELETE FROM dedup WHERE (env, key) IN (
    SELECT env, key FROM dedup INDEXED BY dedup_until WHERE until <= ? ORDER BY until LIMIT ?
)
"""
_TAKE_KEYS = """
INSERT INTO dedup VALUES $rows
ON CONFLICT (env, key) DO UPDATE SET value = excluded.value, until = excluded.until
"""
_read_seqs = msgspec.json.Decoder(dict[str, int]).decode
_read_claims = msgspec.json.Decoder(list[tuple[str, int, str | None]]).decode


def _json(values: object) -> str:
    return msgspec.json.encode(values).decode()
