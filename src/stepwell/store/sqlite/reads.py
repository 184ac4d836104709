"""What readers ask: functions of a read-only connection.

A question is one statement, or several whose answers cannot contradict each other: a run's row is read first and then
the entries up to its number, which never change. Each says by name which index it goes along, because the planner
has no statistics here and a wrong guess reads a million rows.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import msgspec
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
from stepwell.store.slots import NEVER
from stepwell.store.sqlite.changes import named, within

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Sequence

    from stepwell.model.credential import Credential
    from stepwell.model.event import Event
    from stepwell.model.function import Service
    from stepwell.model.ids import EventKey, Instant, RunId, StepId
    from stepwell.model.job import Job, RunRow, Wait
    from stepwell.model.payload import Blob
    from stepwell.store.base import EventQuery, RunQuery
    from stepwell.store.sqlite.directory import BlobFiles

MOST_PARTS = 64
_END_OF_TIME = 1 << 62


def load_run(on: sqlite3.Connection, run: RunId, after_seq: int) -> StoredRun | None:
    found = on.execute("SELECT body, seq FROM run WHERE id = ?", (run,)).fetchone()
    if found is None:
        return None
    entries = on.execute(
        "SELECT body FROM entry WHERE run = ? AND seq > ? AND seq <= ? ORDER BY seq", (run, after_seq, found[1])
    ).fetchall()
    if len(entries) < found[1] - after_seq and on.execute("SELECT 1 FROM run WHERE id = ?", (run,)).fetchone() is None:
        return None  # it was removed between the two questions
    return StoredRun(decode_run(found[0]), tuple([decode_entry(body) for (body,) in entries]))


def read_blobs(on: sqlite3.Connection, files: BlobFiles, blobs: Sequence[Blob]) -> list[bytes]:
    texts = []
    for blob in blobs:
        found = on.execute("SELECT body FROM blob WHERE hash = ?", (blob.hash,)).fetchone()
        if found is None:
            raise KeyError(blob.hash)
        texts.append(found[0] if found[0] is not None or not blob.size_bytes else files.read(blob.hash))
    return [text or b"" for text in texts]


def next_due(on: sqlite3.Connection, routes: Collection[str] | None) -> Instant | None:
    found = on.execute(
        f"SELECT min(due) FROM job INDEXED BY job_due WHERE owner IS NULL AND due < ? AND {within(routes)}",
        (NEVER, *named(routes)),
    ).fetchone()
    due: Instant | None = found[0]
    return due


def read_keys(on: sqlite3.Connection, env: str, keys: Sequence[str]) -> dict[str, tuple[str, Instant]]:
    sql = "SELECT key, value, until FROM dedup WHERE env = ? AND key IN (SELECT value FROM json_each(?))"
    found = on.execute(sql, (env, msgspec.json.encode(keys).decode())).fetchall()
    return {key: (value, until) for key, value, until in found}


# events and waits


def read_events(on: sqlite3.Connection, keys: Sequence[EventKey]) -> list[Event]:
    text = msgspec.json.encode(keys).decode()
    found = on.execute("SELECT key, body FROM event WHERE key IN (SELECT value FROM json_each(?))", (text,))
    bodies = dict(found.fetchall())
    return [decode_event(bodies[key]) for key in keys if key in bodies]


def events_since(on: sqlite3.Connection, env: str, name: str, since: Instant, limit: int) -> list[Event]:
    found = on.execute(
        "SELECT body FROM event INDEXED BY event_by_name WHERE env = ? AND name = ? AND received_at >= ?"
        " ORDER BY received_at, key LIMIT ?",
        (env, name, since, limit),
    ).fetchall()
    return [decode_event(body) for (body,) in found]


def wait_paths(on: sqlite3.Connection, env: str, event: str) -> list[str | None]:
    """Goes from one path to the next along the index, whatever the number of waits."""
    unindexed = on.execute(
        "SELECT 1 FROM wait INDEXED BY wait_by_key WHERE env = ? AND event = ? AND path IS NULL LIMIT 1", (env, event)
    ).fetchone()
    paths: list[str | None] = [] if unindexed is None else [None]
    further = "SELECT min(path) FROM wait INDEXED BY wait_by_key WHERE env = ? AND event = ? AND path "
    (path,) = on.execute(further + "IS NOT NULL", (env, event)).fetchone()
    while path is not None:
        paths.append(path)
        (path,) = on.execute(further + "> ?", (env, event, path)).fetchone()
    return paths


def waits_for(
    on: sqlite3.Connection,
    env: str,
    event: str,
    path: str | None,
    value: str | None,
    after: tuple[RunId, StepId] | None,
    limit: int,
) -> list[Wait]:
    run, step = after or ("", "")
    found = on.execute(
        "SELECT body FROM wait INDEXED BY wait_by_key WHERE env = ? AND event = ? AND path IS ? AND value IS ?"
        " AND (run, step) > (?, ?) ORDER BY run, step LIMIT ?",
        (env, event, path, value, run, step, limit),
    ).fetchall()
    return [decode_wait(body) for (body,) in found]


# lists


def services(on: sqlite3.Connection) -> list[Service]:
    return [decode_service(body) for (body,) in on.execute("SELECT body FROM service ORDER BY env, name").fetchall()]


def credentials(on: sqlite3.Connection) -> list[Credential]:
    found = on.execute("SELECT body FROM credential ORDER BY env, name").fetchall()
    return [decode_credential(body) for (body,) in found]


def record(on: sqlite3.Connection, env: str, kind: str, key: str) -> Record | None:
    sql = "SELECT value, revision, at FROM record WHERE env = ? AND kind = ? AND key = ?"
    found = on.execute(sql, (env, kind, key)).fetchone()
    if found is None:
        return None
    value, revision, at = found
    return Record(env=env, kind=kind, key=key, value=value, revision=revision, at=at)


def records(
    on: sqlite3.Connection, env: str, kind: str, prefix: str, after: str | None, limit: int, descending: bool
) -> list[Record]:
    condition, values = "env = ? AND kind = ? AND key >= ? AND key < ?", [env, kind, prefix, prefix + "\U0010ffff"]
    if after is not None:
        condition += " AND key < ?" if descending else " AND key > ?"
        values.append(after)
    order = "DESC" if descending else "ASC"
    sql = f"SELECT key, value, revision, at FROM record WHERE {condition} ORDER BY key {order} LIMIT {limit:d}"
    return [
        Record(env=env, kind=kind, key=key, value=value, revision=revision, at=at)
        for key, value, revision, at in on.execute(sql, values).fetchall()
    ]


def run_row(on: sqlite3.Connection, run: RunId) -> RunRow | None:
    found = on.execute("SELECT body FROM run WHERE id = ?", (run,)).fetchone()
    return None if found is None else decode_run(found[0])


def runs(on: sqlite3.Connection, query: RunQuery) -> list[RunRow]:
    found: list[tuple[str, bytes]] = []
    order = "ASC" if query.ascending else "DESC"
    for part in _parts(query):
        source, condition, values = _where(part)
        if part.before is not None:
            condition += " AND id > ?" if part.ascending else " AND id < ?"
            values.append(part.before)
        if part.created_from is not None or part.created_until is not None:
            first, last = _created(on, part)
            if first is None:
                continue
            condition += " AND id BETWEEN ? AND ?"  # nothing outside need be looked at
            values += [first, last]
        sql = f"SELECT id, body FROM {source} WHERE {condition} ORDER BY id {order} LIMIT ?"
        found += on.execute(sql, [*values, part.limit]).fetchall()
    found.sort(reverse=not query.ascending)
    return [decode_run(body) for _, body in found[: query.limit]]


def count_runs(on: sqlite3.Connection, query: RunQuery) -> int:
    count = 0
    for part in _parts(query):
        source, condition, values = _where(part, counted=True)
        count += on.execute(f"SELECT count(*) FROM {source} WHERE {condition}", values).fetchone()[0]
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


def _where(query: RunQuery, counted: bool = False) -> tuple[str, str, list[Any]]:
    """Table with its index, condition and values. Unless counted, the index yields runs in the order of their ids."""
    # `+env`: not along an index that begins with it; the table itself is in the order of ids.
    index, conditions = "", ["+env = ?"]
    values: list[Any] = [query.env]
    statuses = query.statuses
    if query.event is not None or query.parent is not None:
        index = "run_by_event" if query.event is not None else "run_by_parent"
    elif query.functions is not None and len(query.functions) == 1:
        index, conditions = "run_by_function", ["env = ?"]
    elif statuses is not None and len(statuses) == 1 and statuses[0].final:
        index, conditions = "run_ended", ["env = ?", "ending = ?"]
        values.append(statuses[0].value)
        statuses = None
    elif statuses is not None and not any(status.final for status in statuses):
        index = "run_live"
        conditions.append("ending IS NULL")
    elif counted:
        index, conditions = "run_by_creation", ["env = ?"]
    for column, wanted in (("function", query.functions), ("service", query.services), ("status", statuses)):
        if wanted is not None:
            conditions.append(f"{column} = ?" if len(wanted) == 1 else f"{column} IN ({', '.join('?' * len(wanted))})")
            values += [str(value) for value in wanted]
    for condition, value in (
        ("event = ?", query.event),
        ("parent = ?", query.parent),
        ("created_at >= ?", query.created_from),
        ("created_at < ?", query.created_until),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    return f"run INDEXED BY {index}" if index else "run", " AND ".join(conditions), values


def _created(on: sqlite3.Connection, query: RunQuery) -> tuple[RunId | None, RunId | None]:
    """The first and the last id of the runs created in the time asked for."""
    sql = (
        "SELECT min(id), max(id) FROM run INDEXED BY run_by_creation"
        " WHERE env = ? AND created_at >= ? AND created_at < ?"
    )
    until = _END_OF_TIME if query.created_until is None else query.created_until
    first, last = on.execute(sql, (query.env, query.created_from or 0, until)).fetchone()
    return first, last


def events(on: sqlite3.Connection, query: EventQuery) -> list[Event]:
    if query.names == ():
        return []
    conditions: list[str] = ["env = ?"]
    values: list[Any] = [query.env]
    if query.names is not None:
        conditions.append(f"name IN ({', '.join('?' * len(query.names))})")
        values.extend(query.names)
    if not query.internal:
        conditions.append("substr(name, 1, 8) <> 'inngest/'")
    if query.received_from is not None:
        conditions.append("received_at >= ?")
        values.append(query.received_from)
    if query.received_until is not None:
        conditions.append("received_at < ?")
        values.append(query.received_until)
    if query.before is not None:
        conditions.append("key < ?")
        values.append(query.before)
    source = "event NOT INDEXED" if query.names is None else "event INDEXED BY event_by_name"
    # The keys first: with names they are sorted, and the bodies need not take part in that.
    keys = f"SELECT key FROM {source} WHERE {' AND '.join(conditions)} ORDER BY key DESC LIMIT ?"
    found = on.execute(f"SELECT body FROM event WHERE key IN ({keys}) ORDER BY key DESC", [*values, query.limit])
    return [decode_event(body) for (body,) in found.fetchall()]


def event_by_id(on: sqlite3.Connection, env: str, internal_id: str) -> Event | None:
    found = on.execute(
        "SELECT body FROM event INDEXED BY event_by_internal_id WHERE env = ? AND internal_id = ?"
        " ORDER BY key DESC LIMIT 1",
        (env, internal_id),
    ).fetchone()
    return None if found is None else decode_event(found[0])


def jobs_of(on: sqlite3.Connection, run: RunId) -> list[Job]:
    found = on.execute(
        "SELECT body, owner, fence, line FROM job INDEXED BY job_by_run LEFT JOIN place ON place.job = job.id"
        " WHERE job.run = ?",
        (run,),
    ).fetchall()
    jobs = [replace(read_job(body, owner, fence), parked=line) for body, owner, fence, line in found]
    return sorted(jobs, key=lambda job: (job.due, job.id))


def read_job(body: bytes, owner: str | None, fence: int) -> Job:
    job = decode_job(body)
    return job if job.owner == owner and job.fence == fence else replace(job, owner=owner, fence=fence)


def waits_of(on: sqlite3.Connection, run: RunId) -> list[Wait]:
    found = on.execute("SELECT body FROM wait WHERE run = ? ORDER BY step", (run,)).fetchall()
    return [decode_wait(body) for (body,) in found]


# retention


def ended_runs(on: sqlite3.Connection, after: RunId | None, until: RunId | None, limit: int) -> list[RunRow]:
    bound, values = ("", ()) if until is None else (" AND id < ?", (until,))
    found = on.execute(
        f"SELECT body FROM run NOT INDEXED WHERE id > ?{bound} AND ending IS NOT NULL ORDER BY id LIMIT ?",
        (after or "", *values, limit),
    ).fetchall()
    return [decode_run(body) for (body,) in found]


def ended_run_before(on: sqlite3.Connection, newer: int) -> RunId | None:
    found = on.execute(
        "SELECT id FROM run NOT INDEXED WHERE ending IS NOT NULL ORDER BY id DESC LIMIT 1 OFFSET ?", (newer,)
    ).fetchone()
    return None if found is None else found[0]


def awaited_events(on: sqlite3.Connection) -> tuple[set[EventKey], Instant | None]:
    keys: set[EventKey] = set()
    since: Instant | None = None
    for (body,) in on.execute("SELECT body FROM job WHERE run IS NULL OR id LIKE '%.look'"):
        job = decode_job(body)
        keys.update(job.keys)
        if job.kind is JobKind.LOOK:
            since = job.since if since is None else min(since, job.since)
    return keys, since


def old_events(on: sqlite3.Connection, after: EventKey | None, until: Instant, limit: int) -> list[EventKey]:
    found = on.execute(
        "SELECT key FROM event NOT INDEXED WHERE key > ? AND key < ? AND received_at < ? ORDER BY key LIMIT ?",
        (after or "", ulid(max(0, until), 0), until, limit),
    ).fetchall()
    return [key for (key,) in found]


def without_row(on: sqlite3.Connection, hashes: Sequence[str]) -> list[str]:
    """Those of the hashes that name no text."""
    listed = msgspec.json.encode(hashes).decode()
    found = on.execute("SELECT hash FROM blob WHERE hash IN (SELECT value FROM json_each(?))", (listed,)).fetchall()
    known = {hash for (hash,) in found}
    return [hash for hash in hashes if hash not in known]


# for the auditor and for operators


def live_runs(on: sqlite3.Connection, after: RunId | None, limit: int) -> list[RunRow]:
    found = on.execute(
        "SELECT body FROM run INDEXED BY run_live WHERE ending IS NULL AND id > ? ORDER BY id LIMIT ?",
        (after or "", limit),
    ).fetchall()
    return [decode_run(body) for (body,) in found]


def stray_rows(on: sqlite3.Connection, limit: int) -> list[str]:
    found: list[str] = []
    for sql in _STRAYS:
        found += [text for (text,) in on.execute(sql, (limit - len(found),)).fetchall()]
    return found


_STATE = "CASE WHEN run.id IS NULL THEN 'unknown' ELSE 'ended' END"
_STRAYS = (
    f"""SELECT 'job ' || job.id || ' of ' || {_STATE} || ' run ' || job.run FROM job LEFT JOIN run ON run.id = job.run
        WHERE job.run IS NOT NULL AND (run.id IS NULL OR run.ending IS NOT NULL) ORDER BY job.id LIMIT ?""",
    f"""SELECT 'wait for step ' || wait.step || ' of ' || {_STATE} || ' run ' || wait.run
        FROM wait LEFT JOIN run ON run.id = wait.run
        WHERE run.id IS NULL OR run.ending IS NOT NULL ORDER BY wait.run, wait.step LIMIT ?""",
    """SELECT 'job ' || job.id || ' is owned by the unknown node ' || job.owner FROM job
       WHERE job.owner IS NOT NULL AND NOT EXISTS (SELECT 1 FROM node WHERE node.name = job.owner)
       ORDER BY job.id LIMIT ?""",
    """SELECT 'the missing job ' || job || ' has a place among those with limits' FROM place
       WHERE NOT EXISTS (SELECT 1 FROM job WHERE job.id = place.job) ORDER BY job LIMIT ?""",
    """WITH holding AS (
           SELECT k.value AS key, count(*) AS jobs FROM place, json_each(place.keys) AS k
           WHERE k.key < passed GROUP BY 1
       ), counted AS (
           SELECT key, coalesce(jobs, 0) AS jobs, coalesce(held, 0) AS held, coalesce(most, 0) AS most
           FROM holding FULL JOIN gate USING (key)
       )
       SELECT CASE
           WHEN jobs <> held THEN jobs || ' jobs hold a slot of ' || key || ', and ' || held || ' are counted'
           ELSE 'jobs wait for a slot of ' || key || ', of which ' || held || ' of ' || most || ' are taken'
       END FROM counted
       WHERE jobs <> held OR (held < most AND EXISTS (SELECT 1 FROM place WHERE line = key)) ORDER BY key LIMIT ?""",
)


def known_nodes(on: sqlite3.Connection) -> list[Node]:
    return [Node(*row) for row in on.execute("SELECT name, epoch, lease_until FROM node ORDER BY name").fetchall()]


def backlog(on: sqlite3.Connection, now: Instant) -> Backlog:
    due, oldest = on.execute(
        "SELECT count(*), min(due) FROM (SELECT due FROM job INDEXED BY job_due WHERE owner IS NULL AND due <= ?"
        " ORDER BY due, id LIMIT ?)",
        (now, MOST_COUNTED),
    ).fetchone()
    (parked,) = on.execute(
        "SELECT count(*) FROM (SELECT 1 FROM place INDEXED BY place_in_line WHERE line IS NOT NULL LIMIT ?)",
        (MOST_COUNTED,),
    ).fetchone()
    return Backlog(due, oldest, parked)


def counts(on: sqlite3.Connection) -> dict[str, object]:
    asked = {
        "schema": "SELECT value FROM meta WHERE key = 'schema'",
        "live_runs": "SELECT count(*) FROM run INDEXED BY run_live WHERE ending IS NULL",
        "jobs": "SELECT count(*) FROM job",
        "waits": "SELECT count(*) FROM wait",
    }
    return {name: on.execute(sql).fetchone()[0] for name, sql in asked.items()}
