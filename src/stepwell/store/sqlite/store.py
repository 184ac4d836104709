"""SQLite as a store: one process, one file, every acknowledged change synced to the disk.

    commit, claim, heartbeat ──▶ Writer   one thread, group commit     ┐
    load, lists              ──▶ Readers  threads, read-only           ├─ <data>/stepwell.db
    texts above 256 KiB      ──▶ BlobFiles                             ┘  <data>/blobs/ab/cdef...

The lock in the directory makes this process the only one; so what is in memory here (epochs of nodes) is the truth.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from stepwell.model.errors import ConfigurationError
from stepwell.store.base import Hint, Node, StoreUnavailable, Tidied, can_be_key
from stepwell.store.batch import prepare
from stepwell.store.clock import WallClock
from stepwell.store.sqlite import changes, reads, removal
from stepwell.store.sqlite.backup import last_backup
from stepwell.store.sqlite.directory import BlobFiles, DirectoryLock, check_file_system
from stepwell.store.sqlite.fair import FairShare
from stepwell.store.sqlite.readers import Readers
from stepwell.store.sqlite.schema import migrate, migrations
from stepwell.store.sqlite.statements import Statements, no_point
from stepwell.store.sqlite.writer import WAL_LIMIT_PAGES, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from stepwell.model.credential import Credential
    from stepwell.model.event import Event
    from stepwell.model.function import Service
    from stepwell.model.ids import EventKey, Instant, RunId, StepId
    from stepwell.model.job import Claim, Job, RunRow, Wait
    from stepwell.model.payload import Blob
    from stepwell.store.base import Backlog, EventQuery, Outcome, Record, RunQuery, StoredRun, Transition
    from stepwell.store.batch import Prepared
    from stepwell.store.clock import Clock
    from stepwell.store.meters import Histogram
    from stepwell.store.sqlite.statements import Point

BLOB_IN_TABLE_BYTES = 256 * 1024
PAGE_BYTES = 4096
WRITER_CACHE_KIB = 8 * 1024
READER_CACHE_KIB = 2 * 1024
"""Pages that a connection keeps for itself; the others are in the operating system's memory, a copy away."""
OLDEST_SQLITE = (3, 40, 0)
SYNCHRONOUS = {"FULL": 2, "EXTRA": 3}


class SqliteStore:
    shared = False

    def __init__(
        self,
        directory: Path | str,
        clock: Clock | None = None,
        *,
        synchronous: str = "FULL",
        point: Point | None = None,
        max_pages: int | None = None,
        orphan_age_s: float = 3600.0,
    ) -> None:
        """
        Args:
            directory: The data directory; made if it is not there.
            synchronous: `FULL` or `EXTRA`. Below that an acknowledged change may be lost, and is refused.
            point: Called with a name around every statement that writes, for tests that stop or die there.
            max_pages: A size at which the database counts as full.
            orphan_age_s: How old a file must be that no row names, before it is removed.
        """
        if synchronous.upper() not in SYNCHRONOUS:
            raise ConfigurationError(
                f"SQLite with synchronous={synchronous} can lose acknowledged events when the power fails; "
                "use FULL (the default) or EXTRA"
            )
        self.directory = Path(directory)
        self.file = self.directory / "stepwell.db"
        self._clock: Clock = clock or WallClock()
        self._synchronous = synchronous.upper()
        self._point = point
        self._max_pages = max_pages
        self._orphan_age_s = orphan_age_s
        self._lock = DirectoryLock(self.directory)
        self._files = BlobFiles(self.directory / "blobs", point or no_point)
        self._file_system = "unknown"
        self._nodes: dict[str, Node] = {}
        self._epochs: dict[str, int] = {}  # of those nodes
        self._owners: set[tuple[str, int]] = set()  # name and epoch of whoever may own a job
        self._writing: Counter[str] = Counter()  # texts whose files are being written, until they are committed
        self._sweeping: asyncio.Event | None = None  # set when the files of a sweep are removed
        self._folder = -1  # of blobs, the last that was searched for files without a row
        self._heard: Callable[[Hint], None] | None = None
        self._writer: Writer | None = None
        self._readers: Readers | None = None

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        connection = await loop.run_in_executor(None, self._open)
        fair = FairShare(loop)
        readers = self._readers = Readers(self._connect_reader, fair)
        statements = Statements(connection, self._point)
        self._writer = Writer(
            statements, self.file, loop, fair, self._clock.now, readers.held_back, self._tell_admitted
        )

    def _open(self) -> sqlite3.Connection:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise ConfigurationError(f"SQLite {sqlite3.sqlite_version} is too old: 3.40 or newer is needed")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise ConfigurationError(f"cannot make the data directory {self.directory}: {err.strerror}") from err
        self._file_system = check_file_system(self.directory)
        self._lock.take()
        connection: sqlite3.Connection | None = None
        try:
            self._files.prepare()
            connection = self._connect_writer()
            migrate(connection, migrations(), self._point or no_point)
            self._nodes = {
                row[0]: Node(*row) for row in connection.execute("SELECT name, epoch, lease_until FROM node")
            }
            self._epochs = {node.name: node.epoch for node in self._nodes.values()}
            self._owners = set(connection.execute("SELECT DISTINCT owner, epoch FROM job WHERE owner IS NOT NULL"))
        except BaseException as err:
            if connection is not None:
                connection.close()
            self._lock.drop()
            if isinstance(err, (sqlite3.Error, OSError)):
                raise ConfigurationError(f"the database {self.file} cannot be opened: {err}") from err
            raise
        return connection

    def _connect_writer(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.file, isolation_level=None, check_same_thread=False, cached_statements=256)
        try:
            connection.execute("PRAGMA busy_timeout = 5000")
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise ConfigurationError(
                    f"the file system of {self.directory} ({self._file_system}) does not allow a write-ahead log, "
                    f"which needs shared memory (SQLite offered {mode!r}). Put the data directory on a local disk."
                )
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            (level,) = connection.execute("PRAGMA synchronous").fetchone()
            if level < SYNCHRONOUS["FULL"]:
                raise ConfigurationError(f"SQLite refused synchronous={self._synchronous}; it is at level {level}")
            connection.execute("PRAGMA fullfsync = ON")  # macOS: a plain fsync there does not reach the disk
            connection.execute("PRAGMA checkpoint_fullfsync = ON")
            connection.execute("PRAGMA wal_autocheckpoint = 0")  # the writer does it, after it has answered
            connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_PAGES * PAGE_BYTES}")
            connection.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
            connection.execute("PRAGMA temp_store = MEMORY")
            if self._max_pages is not None:
                connection.execute(f"PRAGMA max_page_count = {self._max_pages}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect_reader(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.file.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB}")
        connection.execute("PRAGMA temp_store = MEMORY")
        return connection

    async def close(self) -> None:
        writer, readers = self._writer, self._readers
        if writer is None or readers is None:
            return
        self._writer = self._readers = None
        writer.refuse()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, writer.join)
        await loop.run_in_executor(None, readers.close)
        await loop.run_in_executor(None, writer.close)
        self._lock.drop()

    @property
    def _write(self) -> Writer:
        if self._writer is None:
            raise StoreUnavailable("the store is not open")
        return self._writer

    @property
    def _read(self) -> Readers:
        if self._readers is None:
            raise StoreUnavailable("the store is not open")
        return self._readers

    async def now(self) -> Instant:
        return self._clock.now()

    # the hot path

    async def commit(self, transition: Transition) -> Outcome:
        if not transition.blobs:
            outcome: Outcome = await self._write.commit(partial(self._prepared, transition))
            return outcome
        large = [blob.hash for blob, text in transition.blobs if len(text) > BLOB_IN_TABLE_BYTES]
        while large and self._sweeping is not None:
            await self._sweeping.wait()
        self._writing.update(large)
        try:
            outcome = await self._write.commit(partial(self._prepared, await self._with_files(transition)))
            return outcome
        finally:
            self._writing.subtract(large)
            self._writing += Counter()  # forgets those at zero

    def _prepared(self, transition: Transition) -> Prepared:
        for job in transition.jobs:
            if job.owner is not None:
                self._owners.add((job.owner, self._epochs.get(job.owner, 0)))
        return prepare(transition, self._epochs)

    async def _with_files(self, transition: Transition) -> Transition:
        """Store its large texts as files, now; an empty text stands for "in a file" from here on."""
        blobs: list[tuple[Blob, bytes]] = []
        for blob, text in transition.blobs:
            if len(text) > BLOB_IN_TABLE_BYTES:
                await self._read.do(self._files.write, blob.hash, text)
                text = b""
            blobs.append((blob, text))
        return msgspec.structs.replace(transition, blobs=tuple(blobs))

    async def load_run(self, run: RunId, after_seq: int = 0) -> StoredRun | None:
        return await self._read.ask(reads.load_run, run, after_seq)

    async def read_blobs(self, blobs: Sequence[Blob]) -> list[bytes]:
        return await self._read.ask(reads.read_blobs, self._files, blobs)

    # jobs and nodes

    async def claim_due(self, node: Node, now: Instant, limit: int, routes: Collection[str] | None = None) -> list[Job]:
        self._owners.add((node.name, node.epoch))
        claimed = await self._write.run(lambda on: changes.claim_due(on, node, now, limit, routes))
        return [reads.read_job(body, node.name, fence) for fence, body in claimed]

    async def next_due(self, routes: Collection[str] | None = None) -> Instant | None:
        return await self._read.ask(reads.next_due, routes)

    def listen(self, heard: Callable[[Hint], None]) -> None:
        self._heard = heard

    def _tell_admitted(self, routes: tuple[str | None, ...]) -> None:
        if self._heard is not None:
            self._heard(Hint(routes=routes, admitted=True))

    async def heartbeat(self, node: Node) -> bool:
        renewed: bool = await self._write.run(lambda on: changes.heartbeat(on, node))
        if renewed:
            self._nodes[node.name] = node
            self._epochs[node.name] = node.epoch
        return renewed

    async def release_lost(self, now: Instant) -> int:
        lost = {(owner, epoch) for owner, epoch in self._owners if not self._is_alive(owner, epoch, now)}
        if not lost:
            return 0  # asked every few seconds, and to look through all jobs takes a while
        self._owners -= lost
        try:
            freed: int = await self._write.run(lambda on: changes.release_lost(on, now))
        except BaseException:
            self._owners |= lost
            raise
        return freed

    def _is_alive(self, owner: str, epoch: int, now: Instant) -> bool:
        node = self._nodes.get(owner)
        return node is not None and node.epoch == epoch and node.lease_until > now

    async def release(self, claims: Sequence[Claim]) -> None:
        await self._write.run(lambda on: changes.release(on, claims))

    async def read_keys(self, env: str, keys: Sequence[str]) -> dict[str, tuple[str, Instant]]:
        return await self._read.ask(reads.read_keys, env, keys)

    # events and waits

    async def read_events(self, keys: Sequence[EventKey]) -> list[Event]:
        return await self._read.ask(reads.read_events, keys)

    async def events_since(self, env: str, name: str, since: Instant, limit: int) -> list[Event]:
        return await self._read.ask(reads.events_since, env, name, since, limit)

    async def wait_paths(self, env: str, event: str) -> list[str | None]:
        return await self._read.ask(reads.wait_paths, env, event)

    async def waits_for(
        self, env: str, event: str, path: str | None, value: str | None, after: tuple[RunId, StepId] | None, limit: int
    ) -> list[Wait]:
        return await self._read.ask(reads.waits_for, env, event, path, value, after, limit)

    # services

    async def put_service(self, service: Service) -> None:
        await self._write.run(lambda on: changes.put_service(on, service))

    async def remove_service(self, env: str, name: str) -> bool:
        removed: bool = await self._write.run(lambda on: changes.remove_service(on, env, name))
        return removed

    async def services(self) -> list[Service]:
        return await self._read.ask(reads.services)

    # credentials

    async def put_credential(self, credential: Credential, *, over: Credential | None = None) -> bool:
        stored: bool = await self._write.run(lambda on: changes.put_credential(on, credential, over))
        return stored

    async def remove_credential(self, env: str, name: str) -> bool:
        removed: bool = await self._write.run(lambda on: changes.remove_credential(on, env, name))
        return removed

    async def credentials(self) -> list[Credential]:
        return await self._read.ask(reads.credentials)

    # records

    async def put_record(self, record: Record) -> bool:
        record.check()
        stored: bool = await self._write.run(lambda on: changes.put_record(on, record))
        return stored

    async def record(self, env: str, kind: str, key: str) -> Record | None:
        if not can_be_key(key):
            return None
        return await self._read.ask(reads.record, env, kind, key)

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
        if not can_be_key(prefix) or not can_be_key(after or ""):
            return []
        return await self._read.ask(reads.records, env, kind, prefix, after, limit, descending)

    async def remove_record(self, env: str, kind: str, key: str, revision: int | None = None) -> bool:
        if not can_be_key(key):
            return False
        removed: bool = await self._write.run(lambda on: changes.remove_record(on, env, kind, key, revision))
        return removed

    # lists

    async def run_row(self, run: RunId) -> RunRow | None:
        return await self._read.ask(reads.run_row, run)

    async def runs(self, query: RunQuery) -> list[RunRow]:
        return await self._read.list(reads.runs, query)

    async def count_runs(self, query: RunQuery) -> int:
        return await self._read.list(reads.count_runs, query)

    async def events(self, query: EventQuery) -> list[Event]:
        return await self._read.list(reads.events, query)

    async def event_by_id(self, env: str, internal_id: str) -> Event | None:
        return await self._read.ask(reads.event_by_id, env, internal_id)

    async def jobs_of(self, run: RunId) -> list[Job]:
        return await self._read.ask(reads.jobs_of, run)

    async def waits_of(self, run: RunId) -> list[Wait]:
        return await self._read.ask(reads.waits_of, run)

    # retention

    async def ended_runs(self, after: RunId | None, until: RunId | None, limit: int) -> list[RunRow]:
        return await self._read.list(reads.ended_runs, after, until, limit)

    async def ended_run_before(self, newer: int) -> RunId | None:
        return await self._read.list(reads.ended_run_before, newer)

    async def remove_runs(self, runs: Sequence[RunId], now: Instant) -> tuple[list[RunId], int]:
        removed: tuple[list[RunId], int] = await self._write.run(lambda on: removal.remove_runs(on, runs, now))
        return removed

    async def awaited_events(self) -> tuple[set[EventKey], Instant | None]:
        return await self._read.list(reads.awaited_events)

    async def remove_events(
        self, after: EventKey | None, until: Instant, kept: Collection[EventKey], limit: int, now: Instant
    ) -> tuple[int, EventKey | None]:
        keys = await self._read.list(reads.old_events, after, until, limit)
        gone = [key for key in keys if key not in kept]
        count: int = await self._write.run(lambda on: removal.remove_events(on, gone, now)) if gone else 0
        return count, keys[-1] if len(keys) == limit else None

    async def tidy(self, now: Instant, loose_before: Instant) -> Tidied:
        # While files are removed nobody begins to write one: the two could be of the same text.
        while self._sweeping is not None:
            await self._sweeping.wait()
        self._sweeping = asyncio.Event()
        busy = frozenset(self._writing)
        done: Tidied
        try:
            done, gone = await self._write.run(lambda on: removal.tidy(on, now, loose_before, busy))
            if not done.more:  # one folder each time; a file without a row is what a crash left, or a refused commit
                self._folder = (self._folder + 1) % 256
                old = await self._read.do(self._files.old_ones, self._folder, self._orphan_age_s)
                orphans = await self._read.list(reads.without_row, [hash for hash in old if hash not in busy])
                gone = [*gone, *orphans]
                done = replace(done, blobs=done.blobs + len(orphans))
            if gone:
                await self._read.do(self._files.remove, gone)
        finally:
            self._sweeping.set()
            self._sweeping = None
        return done

    # for the auditor and for operators

    async def live_runs(self, after: RunId | None, limit: int) -> list[RunRow]:
        return await self._read.list(reads.live_runs, after, limit)

    async def stray_rows(self, limit: int) -> list[str]:
        return await self._read.list(reads.stray_rows, limit)

    async def known_nodes(self) -> list[Node]:
        return await self._read.ask(reads.known_nodes)

    async def backlog(self, now: Instant) -> Backlog:
        return await self._read.list(reads.backlog, now)

    def meters(self) -> dict[str, Histogram]:
        writer = self._write
        return {"commit_seconds": writer.commit_seconds, "group_size": writer.group_size}

    async def status(self) -> dict[str, object]:
        writer = self._write
        wal = self.file.with_name(f"{self.file.name}-wal")
        return {
            "store": "sqlite",
            "durability": f"write-ahead log, synchronous={self._synchronous}",
            "sqlite": sqlite3.sqlite_version,
            "directory": str(self.directory),
            "file_system": self._file_system,
            "database_bytes": self.file.stat().st_size,
            "wal_bytes": wal.stat().st_size if wal.exists() else 0,
            "groups": writer.groups,
            "transitions": writer.transitions,
            "checkpoints": writer.checkpoints,
            "last_backup": last_backup(self.directory),
            **await self._read.list(reads.counts),
        }
