"""What is asked: each a statement, or two whose answers cannot contradict each other.

Short questions of the hot path and lists have connections of their own (`asked` and `listed` in `store.py`): four slow
lists do not keep a run from being loaded.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from stepwell.model.ids import ulid
from stepwell.model.job import JobKind
from stepwell.store.base import MOST_COUNTED, Backlog, Node, Record, StoredRun
from stepwell.store.batch import (
    decode_credential,
    decode_entry,
    decode_event,
    decode_job,
    decode_run,
    decode_service,
    decode_wait,
)
from stepwell.store.postgres.text import indexed, is_hashed, plain, plainly

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.model.credential import Credential
    from stepwell.model.event import Event
    from stepwell.model.function import Service
    from stepwell.model.ids import EventKey, Instant, RunId, StepId
    from stepwell.model.job import Job, RunRow, Wait
    from stepwell.model.payload import Blob
    from stepwell.store.base import EventQuery, RunQuery
    from stepwell.store.postgres.database import Connections

MOST_PARTS = 64
_END_OF_TIME = 1 << 62


async def load_run(on: Connections, run: RunId, after_seq: int) -> StoredRun | None:
    found = await on.ask(
        "SELECT body, ARRAY("
        " SELECT body FROM stepwell.entry WHERE entry.run = run.id AND entry.seq > $2 ORDER BY entry.seq"
        ") FROM stepwell.run WHERE id = $1",
        run,
        after_seq,
    )
    if not found:
        return None
    body, entries = found[0]
    return StoredRun(decode_run(body), tuple([decode_entry(entry) for entry in entries]))


async def read_blobs(on: Connections, blobs: Sequence[Blob]) -> list[bytes]:
    hashes = [blob.hash for blob in blobs]
    texts = dict(await on.ask("SELECT hash, body FROM stepwell.blob WHERE hash = ANY ($1)", hashes))
    return [texts[hash_] for hash_ in hashes]


async def read_keys(on: Connections, env: str, keys: Sequence[str]) -> dict[str, tuple[str, Instant]]:
    names = {indexed(key): key for key in keys}
    sql = "SELECT key, value, until FROM stepwell.dedup WHERE env = $1 AND key = ANY ($2)"
    found = await on.ask(sql, plain(env), list(names))
    return {names[key]: (plainly(value), until) for key, value, until in found}


# events and waits


async def read_events(on: Connections, keys: Sequence[EventKey]) -> list[Event]:
    bodies = dict(await on.ask("SELECT key, body FROM stepwell.event WHERE key = ANY ($1)", list(keys)))
    return [decode_event(bodies[key]) for key in keys if key in bodies]


async def events_since(on: Connections, env: str, name: str, since: int, limit: int) -> list[Event]:
    found = await on.ask(
        "SELECT body FROM stepwell.event WHERE env = $1 AND name = $2 AND received_at >= $3"
        " ORDER BY received_at, key LIMIT $4",
        plain(env),
        indexed(name),
        since,
        limit,
    )
    return [decode_event(body) for (body,) in found]


async def wait_paths(on: Connections, env: str, event: str) -> list[str | None]:
    """Goes from one path to the next along the index, whatever the number of waits."""
    found = await on.ask(_WAIT_PATHS, plain(env), indexed(event))
    paths: list[str | None] = []
    for path, body in found:
        paths.append(None if path is None else decode_wait(body).path if is_hashed(path) else plainly(path))
    return sorted(paths, key=lambda path: (path is not None, path or ""))


_WAIT_PATHS = """
WITH RECURSIVE step AS (
    (SELECT path, body FROM stepwell.wait WHERE env = $1 AND event = $2 AND path IS NOT NULL ORDER BY path LIMIT 1)
    UNION ALL
    SELECT next.path, next.body FROM step, LATERAL (
        SELECT path, body FROM stepwell.wait WHERE env = $1 AND event = $2 AND path > step.path ORDER BY path LIMIT 1
    ) AS next
)
(SELECT path, body FROM stepwell.wait WHERE env = $1 AND event = $2 AND path IS NULL LIMIT 1)
UNION ALL SELECT path, body FROM step
"""


async def waits_for(
    on: Connections,
    env: str,
    event: str,
    path: str | None,
    value: str | None,
    after: tuple[RunId, StepId] | None,
    limit: int,
) -> list[Wait]:
    run, step = after or ("", "")
    values: list[Any] = [plain(env), indexed(event), run, step, limit]
    conditions = ""
    for name, wanted in (("path", path), ("value", value)):
        if wanted is None:
            conditions += f" AND {name} IS NULL"
        else:
            values.append(indexed(wanted))
            conditions += f" AND {name} = ${len(values)}"
    found = await on.ask(
        f"SELECT body FROM stepwell.wait WHERE env = $1 AND event = $2{conditions}"
        " AND (run, step) > ($3, $4) ORDER BY run, step LIMIT $5",
        *values,
    )
    return [decode_wait(body) for (body,) in found]


# lists


async def services(on: Connections) -> list[Service]:
    found = [decode_service(body) for (body,) in await on.ask("SELECT body FROM stepwell.service")]
    return sorted(found, key=lambda service: (service.env, service.name))


async def credentials(on: Connections) -> list[Credential]:
    found = [decode_credential(body) for (body,) in await on.ask("SELECT body FROM stepwell.credential")]
    return sorted(found, key=lambda credential: (credential.env, credential.name))


async def record(on: Connections, env: str, kind: str, key: str) -> Record | None:
    sql = "SELECT value, revision, at FROM stepwell.record WHERE env = $1 AND kind = $2 AND key = $3"
    found = await on.ask(sql, plain(env), kind, key)
    if not found:
        return None
    value, revision, at = found[0]
    return Record(env=env, kind=kind, key=key, value=value, revision=revision, at=at)


async def records(
    on: Connections, env: str, kind: str, prefix: str, after: str | None, limit: int, descending: bool
) -> list[Record]:
    condition, values = "env = $1 AND kind = $2 AND key >= $3 AND key < $4", [plain(env), kind, prefix]
    values.append(prefix + "\U0010ffff")
    if after is not None:
        condition += " AND key < $5" if descending else " AND key > $5"
        values.append(after)
    order = "DESC" if descending else "ASC"
    sql = f"SELECT key, value, revision, at FROM stepwell.record WHERE {condition} ORDER BY key {order} LIMIT {limit:d}"
    return [
        Record(env=env, kind=kind, key=key, value=value, revision=revision, at=at)
        for key, value, revision, at in await on.ask(sql, *values)
    ]


async def run_row(on: Connections, run: RunId) -> RunRow | None:
    found = await on.ask("SELECT body FROM stepwell.run WHERE id = $1", run)
    return decode_run(found[0][0]) if found else None


async def runs(on: Connections, query: RunQuery) -> list[RunRow]:
    found: list[tuple[str, bytes]] = []
    order = "ASC" if query.ascending else "DESC"
    for part in _parts(query):
        where = _where(part)
        if part.before is not None:
            where.add("id > {}" if part.ascending else "id < {}", part.before)
        if part.created_from is not None or part.created_until is not None:
            first, last = await _created(on, part)
            if first is None:
                continue
            where.add("id >= {}", first)  # nothing outside need be looked at
            where.add("id <= {}", last)
        sql = f"SELECT id, body FROM stepwell.run WHERE {where} ORDER BY id {order} LIMIT {part.limit:d}"
        found += [tuple(row) for row in await on.ask(sql, *where.values)]
    found.sort(reverse=not query.ascending)
    return [decode_run(body) for _, body in found[: query.limit]]


async def count_runs(on: Connections, query: RunQuery) -> int:
    count = 0
    for part in _parts(query):
        where = _where(part)
        count += (await on.ask(f"SELECT count(*) FROM stepwell.run WHERE {where}", *where.values))[0][0]
    return count


def _parts(query: RunQuery) -> list[RunQuery]:
    """Questions whose answers together are that of `query`, each of which can go along one index, in order."""
    if () in (query.functions, query.services, query.statuses):
        return []
    if query.event is not None or query.parent is not None:
        return [query]
    if query.functions is not None and len(query.functions) <= MOST_PARTS:
        return [dataclasses.replace(query, functions=(function,)) for function in dict.fromkeys(query.functions)]
    if query.statuses is not None:
        live = tuple(status for status in query.statuses if not status.final)
        sets = [(status,) for status in dict.fromkeys(query.statuses) if status.final] + ([live] if live else [])
        return [dataclasses.replace(query, statuses=statuses) for statuses in sets]
    return [query]


class _Where:
    """Conditions with their values; `{}` stands for a value."""

    def __init__(self) -> None:
        self.conditions: list[str] = []
        self.values: list[Any] = []

    def add(self, condition: str, *values: Any) -> None:
        self.values += values
        first = len(self.values) - len(values) + 1
        self.conditions.append(condition.format(*(f"${number}" for number in range(first, first + len(values)))))

    def __str__(self) -> str:
        return " AND ".join(self.conditions)


def _where(query: RunQuery) -> _Where:
    where = _Where()
    where.add("env = {}", plain(query.env))
    statuses = query.statuses
    if statuses is not None and all(status.final for status in statuses):
        where.add("ending = ANY ({}::text[])", [status.value for status in statuses])
    elif statuses is not None:
        if not any(status.final for status in statuses):
            where.add("ending IS NULL")
        where.add("status = ANY ({}::text[])", [status.value for status in statuses])
    for name, wanted in (("function", query.functions), ("service", query.services)):
        if wanted is not None and len(wanted) == 1:
            where.add(f"{name} = {{}}", indexed(wanted[0]))
        elif wanted is not None:
            where.add(f"{name} = ANY ({{}}::text[])", [indexed(one) for one in wanted])
    for condition, value in (
        ("event = {}", query.event),
        ("parent = {}", query.parent),
        ("created_at >= {}", query.created_from),
        ("created_at < {}", query.created_until),
    ):
        if value is not None:
            where.add(condition, value)
    return where


async def _created(on: Connections, query: RunQuery) -> tuple[RunId | None, RunId | None]:
    """The first and the last id of the runs created in the time asked for."""
    # OFFSET 0: otherwise the planner may look for the least id among all runs, one by one.
    sql = (
        "SELECT min(id), max(id) FROM (SELECT id FROM stepwell.run"
        " WHERE env = $1 AND created_at >= $2 AND created_at < $3 OFFSET 0) AS created"
    )
    until = _END_OF_TIME if query.created_until is None else query.created_until
    first, last = (await on.ask(sql, plain(query.env), query.created_from or 0, until))[0]
    return first, last


async def events(on: Connections, query: EventQuery) -> list[Event]:
    if query.names == ():
        return []
    where = _Where()
    where.add("env = {}", plain(query.env))
    if query.names is not None:
        where.add("name = ANY ({}::text[])", [indexed(name) for name in query.names])
    if not query.internal:
        where.add("left(name, 8) <> 'inngest/'")
    if query.received_from is not None:
        where.add("received_at >= {}", query.received_from)
    if query.received_until is not None:
        where.add("received_at < {}", query.received_until)
    if query.before is not None:
        where.add("key < {}", query.before)
    sql = f"SELECT body FROM stepwell.event WHERE {where} ORDER BY key DESC LIMIT {query.limit:d}"
    return [decode_event(body) for (body,) in await on.ask(sql, *where.values)]


async def event_by_id(on: Connections, env: str, internal_id: str) -> Event | None:
    found = await on.ask(
        "SELECT body FROM stepwell.event WHERE env = $1 AND internal_id = $2 ORDER BY key DESC LIMIT 1",
        plain(env),
        indexed(internal_id),
    )
    return decode_event(found[0][0]) if found else None


async def jobs_of(on: Connections, run: RunId) -> list[Job]:
    sql = """SELECT body, owner, fence, line FROM stepwell.job LEFT JOIN stepwell.place ON place.job = job.id
        WHERE job.run = $1"""
    found = await on.ask(sql, run)
    jobs = [replace(read_job(body, owner, fence), parked=line) for body, owner, fence, line in found]
    return sorted(jobs, key=lambda job: (job.due, job.id))


def read_job(body: bytes, owner: str | None, fence: int) -> Job:
    job = decode_job(body)
    return job if job.owner == owner and job.fence == fence else replace(job, owner=owner, fence=fence)


async def waits_of(on: Connections, run: RunId) -> list[Wait]:
    found = await on.ask("SELECT body FROM stepwell.wait WHERE run = $1 ORDER BY step", run)
    return [decode_wait(body) for (body,) in found]


# retention


async def ended_runs(on: Connections, after: RunId | None, until: RunId | None, limit: int) -> list[RunRow]:
    found = await on.ask(
        "SELECT body FROM stepwell.run WHERE id > $1 AND ($2::text IS NULL OR id < $2) AND ending IS NOT NULL"
        " ORDER BY id LIMIT $3",
        after or "",
        until,
        limit,
    )
    return [decode_run(body) for (body,) in found]


async def ended_run_before(on: Connections, newer: int) -> RunId | None:
    sql = "SELECT id FROM stepwell.run WHERE ending IS NOT NULL ORDER BY id DESC LIMIT 1 OFFSET $1"
    found = await on.ask(sql, newer)
    return found[0][0] if found else None


async def awaited_events(on: Connections) -> tuple[set[EventKey], Instant | None]:
    keys: set[EventKey] = set()
    since: Instant | None = None
    for (body,) in await on.ask("SELECT body FROM stepwell.job WHERE run IS NULL OR id LIKE '%.look'"):
        job = decode_job(body)
        keys.update(job.keys)
        if job.kind is JobKind.LOOK:
            since = job.since if since is None else min(since, job.since)
    return keys, since


async def old_events(on: Connections, after: EventKey | None, until: Instant, limit: int) -> list[EventKey]:
    found = await on.ask(
        "SELECT key FROM stepwell.event WHERE key > $1 AND key < $2 AND received_at < $3 ORDER BY key LIMIT $4",
        after or "",
        ulid(max(0, until), 0),
        until,
        limit,
    )
    return [key for (key,) in found]


# for the auditor and for operators


async def known_nodes(on: Connections) -> list[Node]:
    found = await on.ask("SELECT name, epoch, lease_until FROM stepwell.node ORDER BY name")
    return [Node(*row) for row in found]


async def backlog(on: Connections, now: Instant | None) -> Backlog:
    found = await on.ask(
        "SELECT count(*), min(due),"
        " (SELECT count(*) FROM (SELECT FROM stepwell.place WHERE line IS NOT NULL LIMIT $2) AS in_line)"
        " FROM (SELECT due FROM stepwell.job"
        " WHERE owner IS NULL AND due <= coalesce($1, stepwell.clock_ms()) LIMIT $2) AS counted",
        now,
        MOST_COUNTED,
    )
    due, oldest, parked = found[0]
    return Backlog(due, oldest, parked)


async def live_runs(on: Connections, after: RunId | None, limit: int) -> list[RunRow]:
    found = await on.ask(
        "SELECT body FROM stepwell.run WHERE ending IS NULL AND id > $1 ORDER BY id LIMIT $2", after or "", limit
    )
    return [decode_run(body) for (body,) in found]


async def stray_rows(on: Connections, limit: int) -> list[str]:
    found: list[str] = []
    for sql in _STRAYS:
        found += [text for (text,) in await on.ask(sql, limit - len(found))]
    return found


_STATE = "CASE WHEN run.id IS NULL THEN 'unknown' ELSE 'ended' END"
_STRAYS = (
    f"""SELECT 'job ' || job.id || ' of ' || {_STATE} || ' run ' || job.run
        FROM stepwell.job LEFT JOIN stepwell.run ON run.id = job.run
        WHERE job.run IS NOT NULL AND (run.id IS NULL OR run.ending IS NOT NULL) ORDER BY job.id LIMIT $1""",
    f"""SELECT 'wait for step ' || wait.step || ' of ' || {_STATE} || ' run ' || wait.run
        FROM stepwell.wait LEFT JOIN stepwell.run ON run.id = wait.run
        WHERE run.id IS NULL OR run.ending IS NOT NULL ORDER BY wait.run, wait.step LIMIT $1""",
    """SELECT 'job ' || job.id || ' is owned by the unknown node ' || job.owner FROM stepwell.job
       WHERE job.owner IS NOT NULL AND NOT EXISTS (SELECT 1 FROM stepwell.node WHERE node.name = job.owner)
       ORDER BY job.id LIMIT $1""",
    """SELECT 'the missing job ' || job || ' has a place among those with limits' FROM stepwell.place
       WHERE NOT EXISTS (SELECT 1 FROM stepwell.job WHERE job.id = place.job) ORDER BY job LIMIT $1""",
    """WITH holding AS (
           SELECT k.key, count(*) AS jobs FROM stepwell.place, unnest(keys[:passed]) AS k (key) GROUP BY k.key
       ), counted AS (
           SELECT key, coalesce(jobs, 0) AS jobs, coalesce(held, 0) AS held, coalesce(most, 0) AS most
           FROM holding FULL JOIN stepwell.gate USING (key)
       )
       SELECT CASE
           WHEN jobs <> held THEN jobs || ' jobs hold a slot of ' || key || ', and ' || held || ' are counted'
           ELSE 'jobs wait for a slot of ' || key || ', of which ' || held || ' of ' || most || ' are taken'
       END FROM counted
       WHERE jobs <> held OR (held < most AND EXISTS (SELECT FROM stepwell.place WHERE line = key))
       ORDER BY key LIMIT $1""",
)


async def counts(on: Connections) -> dict[str, object]:
    row = (await on.ask(_COUNTS))[0]
    return dict(row)


_COUNTS = """
SELECT (SELECT schema FROM stepwell.meta) AS schema,
    (SELECT count(*) FROM stepwell.run WHERE ending IS NULL) AS live_runs,
    (SELECT count(*) FROM stepwell.job) AS jobs,
    (SELECT count(*) FROM stepwell.wait) AS waits,
    (SELECT count(*) FROM stepwell.node WHERE lease_until > stepwell.clock_ms()) AS nodes,
    (SELECT greatest(0, stepwell.clock_ms() - min(due)) FROM stepwell.job WHERE owner IS NULL) AS oldest_due_lag_ms,
    (SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
        WHERE relnamespace = 'stepwell'::regnamespace AND relkind = 'r') AS database_bytes,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes
"""
