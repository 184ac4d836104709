"""PostgreSQL as a store: any number of servers on one database, every acknowledged change synced by it.

    commit ──▶ Writer        group commit on a few lanes         ┐
    claim  ──▶ Lane          exactly once as well                │
    load   ──▶ Connections   short questions                     ├─ one database, schema `stepwell`
    lists  ──▶ Connections   long ones                           │
    hints  ◀─▶ Teller, Listener                                  ┘

Time is the database's clock. A job belongs to a node and its epoch, and its fence rises with every owner: a node that
was given up finds its commits refused, however long it was frozen or cut off.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from functools import partial
from typing import TYPE_CHECKING

from stepwell.model.ids import shard_of
from stepwell.store.base import Committed, Hint, StoreUnavailable, Tidied, can_be_key
from stepwell.store.batch import encode, prepare
from stepwell.store.migrations import migrations
from stepwell.store.postgres import reads
from stepwell.store.postgres.database import (
    PATIENCE_S,
    STATEMENT_S,
    Address,
    Connections,
    Database,
)
from stepwell.store.postgres.hints import Listener, Teller, origin
from stepwell.store.postgres.look import durability_of
from stepwell.store.postgres.schema import migrate
from stepwell.store.postgres.text import indexed, plain
from stepwell.store.postgres.writer import LANES, Lane, Writer
from stepwell.store.slots import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from stepwell.model.credential import Credential
    from stepwell.model.event import Event
    from stepwell.model.function import Service
    from stepwell.model.ids import EventKey, Instant, RunId, StepId
    from stepwell.model.job import Claim, Job, RunRow, Wait
    from stepwell.model.payload import Blob
    from stepwell.store.base import Backlog, EventQuery, Node, Outcome, Record, RunQuery, StoredRun, Transition
    from stepwell.store.batch import Prepared
    from stepwell.store.clock import Clock
    from stepwell.store.meters import Histogram

READERS = 4
LISTERS = 2
FORGET_NODE_MS = 24 * 3_600_000
FORGET_WRITER_MS = 7 * 24 * 3_600_000
REMOVAL_MS = 10
"""How long one call may remove runs; the transaction is to stay below 50 ms."""
ENTRIES_AT_ONCE = 500
KEYS_AT_ONCE = 500
BLOBS_AT_ONCE = 50


class PostgresStore:
    def __init__(
        self,
        url: str,
        clock: Clock | None = None,
        *,
        listen_url: str | None = None,
        patience_s: float = PATIENCE_S,
        statement_s: float = STATEMENT_S,
        lanes: int = LANES,
    ) -> None:
        """
        Args:
            url: `postgresql://user:password@host:5432/database`. `?pooler=1` says that a pooler gives each transaction
                another session; it is noticed by itself as a rule.
            clock: Judges what is due instead of the database's clock, with the times that callers give; for tests.
            listen_url: Where to listen for hints when `url` leads to such a pooler, which cannot pass them on. Without
                it nothing is heard there, and everything is found by looking.
            patience_s: How long a database that cannot be reached is tried again before callers hear of it.
            statement_s: How long a short statement may take until its connection counts as dead.
            lanes: How many groups may be written at the same time.
        """
        self.url = url
        self.address = Address(url)
        self._listen_address = Address(listen_url) if listen_url is not None else None
        self._clock = clock
        self._patience_s = patience_s
        self._statement_s = statement_s
        self._lanes = lanes
        self._epochs: dict[str, int] = {}  # of the nodes that live here
        self._origin = origin()
        self._heard: Callable[[Hint], None] | None = None
        self._database: Database | None = None
        self._writer: Writer | None = None
        self._claims: Lane | None = None
        self._claiming = asyncio.Lock()
        self._asked: Connections | None = None
        self._listed: Connections | None = None
        self._teller: Teller | None = None
        self._listener: Listener | None = None
        self._ahead_ms = 0  # how far the database's clock is ahead of ours

    @property
    def shared(self) -> bool:
        return True

    async def open(self) -> None:
        database = Database(self.address, self._patience_s, self._statement_s)
        connection = await database.probe()
        try:
            await database.persist(partial(migrate, connection, migrations("postgres")))
            await connection.execute(f"DELETE FROM stepwell.writer WHERE at < stepwell.clock_ms() - {FORGET_WRITER_MS}")
        finally:
            connection.terminate()
        self._database = database
        self._asked = Connections(database, READERS, hot=True)
        self._listed = Connections(database, LISTERS, hot=False)
        self._teller = Teller(database, self._origin)
        self._writer = Writer(database, self._written, self._lanes, self._clock)
        self._claims = Lane(database, "claim")
        self._listen()
        await self._ask_time()

    async def close(self) -> None:
        database, writer = self._database, self._writer
        if database is None or writer is None:
            return
        self._database = self._writer = None
        writer.refuse()
        await writer.join()
        if self._listener is not None:
            await self._listener.close()
            self._listener = None
        for part in (self._teller, self._claims, writer, self._asked, self._listed):
            assert part is not None
            await part.close()
        database.closing = True

    @property
    def _open(self) -> Database:
        if self._database is None:
            raise StoreUnavailable("the store is not open")
        return self._database

    @property
    def _ask(self) -> Connections:
        if self._database is None or self._asked is None:
            raise StoreUnavailable("the store is not open")
        return self._asked

    @property
    def _list(self) -> Connections:
        if self._database is None or self._listed is None:
            raise StoreUnavailable("the store is not open")
        return self._listed

    async def now(self) -> Instant:
        if self._clock is not None:
            return self._clock.now()
        return await self._ask_time()

    async def _ask_time(self) -> Instant:
        before = time.time_ns()
        now: Instant = (await self._ask.ask("SELECT stepwell.clock_ms()"))[0][0]
        self._ahead_ms = now - (before + time.time_ns()) // 2_000_000
        return now

    def _judged_at(self, now: Instant) -> Instant | None:
        """The time that claims are judged by; None is the database's."""
        return None if self._clock is None else now

    # the hot path

    async def commit(self, transition: Transition) -> Outcome:
        if self._writer is None:
            raise StoreUnavailable("the store is not open")
        return await self._writer.commit(partial(prepare, transition, self._epochs))

    def _written(self, group: Sequence[Prepared], outcomes: Sequence[Outcome], admitted: Sequence[str | None]) -> None:
        """Tell the others what moved, and what they could do."""
        teller = self._teller
        assert teller is not None
        soon = time.time_ns() // 1_000_000 + self._ahead_ms + 10
        for prepared, outcome in zip(group, outcomes, strict=True):
            if not isinstance(outcome, Committed):
                continue
            transition = prepared.transition
            if transition.run is not None:
                teller.moved(transition.run.row.id)
            for job in transition.jobs:
                if job.owner is None and job.due <= soon and job.id not in outcome.parked:
                    teller.due(job.route)
        if admitted:
            for route in admitted:
                teller.due(route)
            if self._heard is not None:
                self._heard(Hint(routes=tuple(admitted), admitted=True))
        teller.soon()

    async def load_run(self, run: RunId, after_seq: int = 0) -> StoredRun | None:
        return await reads.load_run(self._ask, run, after_seq)

    async def read_blobs(self, blobs: Sequence[Blob]) -> list[bytes]:
        return await reads.read_blobs(self._ask, blobs)

    # jobs and nodes

    async def claim_due(self, node: Node, now: Instant, limit: int, routes: Collection[str] | None = None) -> list[Job]:
        lane = self._claims
        if self._database is None or lane is None:
            raise StoreUnavailable("the store is not open")
        async with self._claiming:
            # If the last search failed and nobody knows whether it was made, this is its answer.
            found = await lane.call(
                "fetch", _CLAIM, node.name, node.epoch, self._judged_at(now), limit, _routes(routes)
            )
        return [reads.read_job(body, node.name, fence) for fence, body in found]

    async def next_due(self, routes: Collection[str] | None = None) -> Instant | None:
        due: Instant | None = (await self._ask.ask("SELECT stepwell.next_due_1($1)", _routes(routes)))[0][0]
        return None if due == NEVER else due

    def listen(self, heard: Callable[[Hint], None]) -> None:
        assert self._heard is None, "somebody listens already"
        self._heard = heard
        if self._database is not None:
            self._listen()

    def _listen(self) -> None:
        if self._heard is None:
            return
        address = self._listen_address
        if address is None and not self._open.pooler:
            address = self.address
        if address is not None:
            self._listener = Listener(address, self._origin, self._heard, self._not_alone)

    def _not_alone(self) -> None:
        if self._teller is not None:
            self._teller.alone = False

    async def heartbeat(self, node: Node) -> bool:
        renewed = await self._ask.ask(_HEARTBEAT, node.name, node.epoch, node.lease_until)
        if not renewed:
            return False
        assert self._teller is not None
        self._teller.alone = not renewed[0][0]
        if self._epochs.get(node.name) != node.epoch:
            self._epochs[node.name] = node.epoch
            self._teller.here()
        return True

    async def release_lost(self, now: Instant) -> int:
        freed = await self._ask.ask(_RELEASE_LOST, self._judged_at(now), FORGET_NODE_MS)
        self._tell_routes([route for (route,) in freed])
        return len(freed)

    async def release(self, claims: Sequence[Claim]) -> None:
        ordered = sorted({(claim.job, claim.fence) for claim in claims})
        if ordered:
            freed = await self._ask.ask(_RELEASE, *zip(*ordered, strict=True))
            self._tell_routes([route for (route,) in freed])

    def _tell_routes(self, routes: Sequence[str]) -> None:
        if self._teller is not None:
            for route in routes:
                self._teller.due(route or None)
            self._teller.soon()

    async def read_keys(self, env: str, keys: Sequence[str]) -> dict[str, tuple[str, Instant]]:
        return await reads.read_keys(self._ask, env, keys)

    # events and waits

    async def read_events(self, keys: Sequence[EventKey]) -> list[Event]:
        return await reads.read_events(self._ask, keys)

    async def events_since(self, env: str, name: str, since: Instant, limit: int) -> list[Event]:
        return await reads.events_since(self._ask, env, name, since, limit)

    async def wait_paths(self, env: str, event: str) -> list[str | None]:
        return await reads.wait_paths(self._ask, env, event)

    async def waits_for(
        self, env: str, event: str, path: str | None, value: str | None, after: tuple[RunId, StepId] | None, limit: int
    ) -> list[Wait]:
        return await reads.waits_for(self._ask, env, event, path, value, after, limit)

    # services

    async def put_service(self, service: Service) -> None:
        env, name = plain(service.env), indexed(service.name)
        await self._ask.ask(_PUT_SERVICE, env, name, shard_of(service.env, ""), encode(service))
        self._tell_services()

    async def remove_service(self, env: str, name: str) -> bool:
        sql = "DELETE FROM stepwell.service WHERE env = $1 AND name = $2 RETURNING 1"
        removed = await self._ask.ask(sql, plain(env), indexed(name))
        self._tell_services()
        return bool(removed)

    def _tell_services(self) -> None:
        if self._teller is not None:
            self._teller.services()
            self._teller.soon()

    async def services(self) -> list[Service]:
        return await reads.services(self._ask)

    # credentials

    async def put_credential(self, credential: Credential, *, over: Credential | None = None) -> bool:
        env, name, body = plain(credential.env), indexed(credential.name), encode(credential)
        if over is None:
            stored = await self._ask.ask(_PUT_CREDENTIAL, env, name, shard_of(credential.env, ""), body)
        else:
            sql = (
                "UPDATE stepwell.credential SET body = $3 WHERE env = $1 AND name = $2 AND body IN ($3, $4) RETURNING 1"
            )
            stored = await self._ask.ask(sql, env, name, body, encode(over))
        self._tell_services()
        return bool(stored)

    async def remove_credential(self, env: str, name: str) -> bool:
        sql = "DELETE FROM stepwell.credential WHERE env = $1 AND name = $2 RETURNING 1"
        removed = await self._ask.ask(sql, plain(env), indexed(name))
        self._tell_services()
        return bool(removed)

    async def credentials(self) -> list[Credential]:
        return await reads.credentials(self._ask)

    # records

    async def put_record(self, record: Record) -> bool:
        record.check()
        values = (record.env, record.kind, record.key, record.revision, record.at, record.value, secrets.token_hex(8))
        if record.revision > 1:
            return bool(await self._ask.ask(_REPLACE_RECORD, plain(values[0]), *values[1:]))
        return bool(await self._ask.ask(_PUT_RECORD, plain(values[0]), *values[1:], shard_of(record.env, "")))

    async def record(self, env: str, kind: str, key: str) -> Record | None:
        if not can_be_key(key):
            return None
        return await reads.record(self._ask, env, kind, key)

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
        return await reads.records(self._ask, env, kind, prefix, after, limit, descending)

    async def remove_record(self, env: str, kind: str, key: str, revision: int | None = None) -> bool:
        if not can_be_key(key):
            return False
        return bool(await self._ask.ask(_REMOVE_RECORD, plain(env), kind, key, revision))

    # lists

    async def run_row(self, run: RunId) -> RunRow | None:
        return await reads.run_row(self._ask, run)

    async def runs(self, query: RunQuery) -> list[RunRow]:
        return await reads.runs(self._list, query)

    async def count_runs(self, query: RunQuery) -> int:
        return await reads.count_runs(self._list, query)

    async def events(self, query: EventQuery) -> list[Event]:
        return await reads.events(self._list, query)

    async def event_by_id(self, env: str, internal_id: str) -> Event | None:
        return await reads.event_by_id(self._ask, env, internal_id)

    async def jobs_of(self, run: RunId) -> list[Job]:
        return await reads.jobs_of(self._ask, run)

    async def waits_of(self, run: RunId) -> list[Wait]:
        return await reads.waits_of(self._ask, run)

    # retention

    async def ended_runs(self, after: RunId | None, until: RunId | None, limit: int) -> list[RunRow]:
        return await reads.ended_runs(self._list, after, until, limit)

    async def ended_run_before(self, newer: int) -> RunId | None:
        return await reads.ended_run_before(self._list, newer)

    async def remove_runs(self, runs: Sequence[RunId], now: Instant) -> tuple[list[RunId], int]:
        sql = "SELECT run_id, removed FROM stepwell.remove_runs_1($1, $2, $3, $4)"
        looked_at = await self._list.ask(sql, list(runs), now, REMOVAL_MS, ENTRIES_AT_ONCE)
        return [run for run, removed in looked_at if removed], len(looked_at)

    async def awaited_events(self) -> tuple[set[EventKey], Instant | None]:
        return await reads.awaited_events(self._list)

    async def remove_events(
        self, after: EventKey | None, until: Instant, kept: Collection[EventKey], limit: int, now: Instant
    ) -> tuple[int, EventKey | None]:
        keys = await reads.old_events(self._list, after, until, limit)
        gone = [key for key in keys if key not in kept]
        count: int = (await self._list.ask("SELECT stepwell.remove_events_1($1, $2)", gone, now))[0][0] if gone else 0
        return count, keys[-1] if len(keys) == limit else None

    async def tidy(self, now: Instant, loose_before: Instant) -> Tidied:
        sql = "SELECT entries, keys, blobs, more FROM stepwell.tidy_1($1, $2, $3, $4, $5)"
        (found,) = await self._list.ask(sql, now, loose_before, ENTRIES_AT_ONCE, KEYS_AT_ONCE, BLOBS_AT_ONCE)
        return Tidied(*found)

    # for the auditor and for operators

    async def known_nodes(self) -> list[Node]:
        return await reads.known_nodes(self._ask)

    async def backlog(self, now: Instant) -> Backlog:
        return await reads.backlog(self._list, self._judged_at(now))

    def meters(self) -> dict[str, Histogram]:
        writer = self._writer
        return {} if writer is None else {"commit_seconds": writer.commit_seconds, "group_size": writer.group_size}

    async def live_runs(self, after: RunId | None, limit: int) -> list[RunRow]:
        return await reads.live_runs(self._list, after, limit)

    async def stray_rows(self, limit: int) -> list[str]:
        return await reads.stray_rows(self._list, limit)

    async def status(self) -> dict[str, object]:
        database, writer = self._open, self._writer
        assert writer is not None
        counted = await reads.counts(self._list)
        settings = {name: counted.pop(name) for name in ("synchronous_commit", "fsync", "full_page_writes")}
        durability, warnings = durability_of(settings)
        return {
            "store": "postgresql",
            "durability": durability,
            "warnings": warnings,
            "postgresql": database.settings["server_version"],
            "database": str(self.address),
            "pooler": database.pooler,
            "hints": self._listener is not None and self._listener.connected.is_set(),
            "clock_ahead_ms": self._ahead_ms,
            "groups": writer.groups,
            "transitions": writer.transitions,
            "replays": writer.replays,
            "retries": database.retries,
            **counted,
        }


def _routes(routes: Collection[str] | None) -> list[str] | None:
    return None if routes is None else ["", *sorted({indexed(route) for route in routes})]


_CLAIM = "SELECT fence, body FROM stepwell.claim_due_1($1, $2, $3, $4, $5, $6, $7)"
_HEARTBEAT = """
INSERT INTO stepwell.node AS known VALUES ($1, $2, $3)
ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch, lease_until = excluded.lease_until
WHERE known.epoch <= excluded.epoch
RETURNING EXISTS (SELECT FROM stepwell.node WHERE name <> $1 AND lease_until > stepwell.clock_ms())
"""
_RELEASE_LOST = "SELECT * FROM stepwell.release_lost_1($1, $2)"
_RELEASE = """
UPDATE stepwell.job SET owner = NULL, epoch = NULL, claim = NULL
FROM unnest($1::text[], $2::bigint[]) AS n (id, fence)
WHERE job.id = ANY (ARRAY[n.id]) AND job.fence = n.fence AND epoch IS NOT NULL RETURNING route
"""
_PUT_SERVICE = """
INSERT INTO stepwell.service VALUES ($1, $2, $3, $4) ON CONFLICT (env, name, shard) DO UPDATE SET body = excluded.body
"""
_PUT_CREDENTIAL = """
INSERT INTO stepwell.credential VALUES ($1, $2, $3, $4)
ON CONFLICT (env, name, shard) DO UPDATE SET body = excluded.body RETURNING 1
"""
_PUT_RECORD = """
INSERT INTO stepwell.record AS known (env, kind, key, revision, at, value, token, shard)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (env, kind, key, shard) DO UPDATE SET token = excluded.token WHERE known.token = excluded.token RETURNING 1
"""
_REPLACE_RECORD = """
UPDATE stepwell.record SET revision = $4, at = $5, value = $6, token = $7
WHERE env = $1 AND kind = $2 AND key = $3 AND (revision = $4 - 1 OR token = $7) RETURNING 1
"""
_REMOVE_RECORD = """
DELETE FROM stepwell.record WHERE env = $1 AND kind = $2 AND key = $3 AND revision = coalesce($4, revision) RETURNING 1
"""
