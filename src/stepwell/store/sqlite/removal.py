"""Taking away what nobody needs any more, a little at a time.

A run goes in one transaction as far as anybody can see: its row, and with it everything that is found through the row.
Many entries stay behind and follow in pieces. A text goes when nothing has referred to it for a while:

    transition names it ──▶ blob_use ──the last user goes──▶ loose_blob ──a while──▶ looked at again ──▶ gone
                               ▲                                                          │
                               └───────────── named again: back among the used ◀──────────┘

Everything here runs on the writer's thread inside a group's transaction, and stops by the clock.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from stepwell.store.base import Tidied
from stepwell.store.batch import BLOB_MARK, blobs_of, decode_entry, decode_event, decode_job

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable, Sequence

    from stepwell.model.ids import EventKey, Instant, RunId
    from stepwell.store.sqlite.statements import Statements

BUDGET_S = 0.01
"""How long one call may keep the transaction open; a transaction of removals is to stay below 50 ms."""
ENTRIES_AT_ONCE = 500
KEYS_AT_ONCE = 500
BLOBS_AT_ONCE = 50
FOUND_AT_ONCE = 200

_UNUSED = "NOT EXISTS (SELECT 1 FROM blob_use INDEXED BY blob_use_by_hash WHERE blob_use.hash = {})"


class Budget:
    """Over when the time for one transaction is."""

    def __init__(self, seconds: float = BUDGET_S) -> None:
        self._until = time.monotonic() + seconds

    @property
    def over(self) -> bool:
        return time.monotonic() >= self._until


def remove_runs(on: Statements, runs: Sequence[RunId], now: Instant) -> tuple[list[RunId], int]:
    budget = Budget()
    removed: list[RunId] = []
    looked_at = 0
    for run in runs:
        if looked_at and budget.over:
            break
        looked_at += 1
        gone = on.one(
            "remove run",
            "DELETE FROM run WHERE id = ? AND ending IS NOT NULL"
            " AND NOT EXISTS (SELECT 1 FROM job INDEXED BY job_by_run WHERE job.run = ?)"
            " AND NOT EXISTS (SELECT 1 FROM run AS child INDEXED BY run_by_parent WHERE child.parent = ?)"
            " RETURNING seq, shard, parent",
            (run, run, run),
        ).fetchall()
        if not gone:
            continue
        ((seq, shard, parent),) = gone
        removed.append(run)
        on.one("remove waits", "DELETE FROM wait WHERE run = ?", (run,))
        if seq <= ENTRIES_AT_ONCE:
            on.one("remove entries", "DELETE FROM entry WHERE run = ?", (run,))
        else:
            on.one("leave entries", "INSERT INTO removed_run VALUES (?, ?) ON CONFLICT DO NOTHING", (run, shard))
        holders = [run]
        if parent is not None:
            there = on.connection.execute("SELECT 1 FROM run WHERE id = ?", (parent,)).fetchone()
            if there is None:  # what it was told of its child when it was gone already
                holders.append(parent)
        _let_go(on, holders, now)
    return removed, looked_at


def remove_events(on: Statements, keys: Sequence[EventKey], now: Instant) -> int:
    gone = on.one(
        "remove events",
        "DELETE FROM event WHERE key IN (SELECT value FROM json_each(?))"
        " AND NOT EXISTS (SELECT 1 FROM run INDEXED BY run_by_event WHERE run.event = event.key) RETURNING key",
        (_json(keys),),
    ).fetchall()
    _let_go(on, [key for (key,) in gone], now)
    return len(gone)


def _let_go(on: Statements, holders: Sequence[str], now: Instant) -> None:
    """They refer to nothing any more."""
    listed = _json(holders)
    used = on.connection.execute(
        "SELECT DISTINCT hash FROM blob_use WHERE holder IN (SELECT value FROM json_each(?))", (listed,)
    ).fetchall()
    if used:
        on.one("drop uses", "DELETE FROM blob_use WHERE holder IN (SELECT value FROM json_each(?))", (listed,))
        mark_loose(on, [hash for (hash,) in used], now)


def mark_loose(on: Statements, hashes: Iterable[str], now: Instant) -> None:
    """Remember those that nothing refers to."""
    on.one(
        "mark loose blobs",
        f"INSERT INTO loose_blob SELECT value, ? FROM json_each(?) WHERE {_UNUSED.format('value')}"
        " ON CONFLICT (hash) DO UPDATE SET since = excluded.since",
        (now, _json(list(hashes))),
    )


def tidy(on: Statements, now: Instant, loose_before: Instant, busy: Collection[str]) -> tuple[Tidied, list[str]]:
    """One piece. Returns also the removed texts, which may have files.

    Args:
        busy: Texts whose files are just being written; they stay.
    """
    if _find_uses(on, now):
        return Tidied(more=True), []
    entries, more = _remove_entries(on)
    keys = on.one(
        "remove expired keys",
        "DELETE FROM dedup WHERE (env, key) IN"
        " (SELECT env, key FROM dedup INDEXED BY dedup_until WHERE until <= ? ORDER BY until LIMIT ?)",
        (now, KEYS_AT_ONCE),
    ).rowcount
    loose = [
        hash
        for (hash,) in on.connection.execute(
            "SELECT hash FROM loose_blob INDEXED BY loose_blob_by_time WHERE since <= ? ORDER BY since, hash LIMIT ?",
            (loose_before, BLOBS_AT_ONCE + len(busy)),
        ).fetchall()
        if hash not in busy
    ][:BLOBS_AT_ONCE]
    gone: list[str] = []
    if loose:
        listed = _json(loose)
        gone = [
            hash
            for (hash,) in on.one(
                "remove blobs",
                "DELETE FROM blob WHERE hash IN (SELECT value FROM json_each(?))"
                f" AND {_UNUSED.format('blob.hash')} RETURNING hash",
                (listed,),
            ).fetchall()
        ]
        on.one("forget loose blobs", "DELETE FROM loose_blob WHERE hash IN (SELECT value FROM json_each(?))", (listed,))
    more = more or keys == KEYS_AT_ONCE or len(loose) == BLOBS_AT_ONCE
    return Tidied(entries=entries, keys=keys, blobs=len(gone), more=more), gone


def _remove_entries(on: Statements) -> tuple[int, bool]:
    """Entries of removed runs, as many as the time allows. Whether there are more."""
    budget, count = Budget(), 0
    while (found := on.connection.execute("SELECT id FROM removed_run LIMIT 1").fetchone()) is not None:
        if count and budget.over:
            return count, True
        removed = on.one(
            "remove left entries",
            "DELETE FROM entry WHERE run = ? AND seq <= (SELECT min(seq) FROM entry WHERE run = ?) + ?",
            (*found, *found, ENTRIES_AT_ONCE - 1),
        ).rowcount
        count += removed
        if removed < ENTRIES_AT_ONCE:
            on.one("forget removed run", "DELETE FROM removed_run WHERE id = ?", found)
    return count, False


# of databases that had texts before it was written down who refers to them


def _find_uses(on: Statements, now: Instant) -> bool:
    """One piece of the search. False when it is over, as it always is in a new database."""
    found = on.connection.execute("SELECT value FROM meta WHERE key = 'uses_to_find'").fetchone()
    if found is None:
        return False
    stage, _, after = str(found[0]).partition(" ")
    budget, place = Budget(), ""
    while not budget.over:
        place = _STAGES[stage](on.connection, after, on, now)
        if not place:
            break
        after = place
    if place:
        mark = f"{stage} {place}"
    else:
        order = list(_STAGES)
        later = order[order.index(stage) + 1 :]
        if not later:
            on.one("all uses found", "DELETE FROM meta WHERE key = 'uses_to_find'")
            return False
        mark = f"{later[0]} "
    on.one("uses found", "UPDATE meta SET value = ? WHERE key = 'uses_to_find'", (mark,))
    return True


def _of_entries(read: sqlite3.Connection, after: str, on: Statements, now: Instant) -> str:
    run, _, seq = after.partition(":")
    rows = read.execute(
        "SELECT run, seq, shard, body FROM entry WHERE (run, seq) > (?, ?) ORDER BY run, seq LIMIT ?",
        (run, int(seq or 0), FOUND_AT_ONCE),
    ).fetchall()
    there: dict[str, bool] = {}
    uses: list[tuple[str, str, int]] = []
    for run, _, shard, body in rows:
        if BLOB_MARK in body:
            if run not in there:  # the entries of a removed run refer to nothing
                there[run] = read.execute("SELECT 1 FROM run WHERE id = ?", (run,)).fetchone() is not None
            if there[run]:
                uses += [(run, blob.hash, shard) for blob in blobs_of(decode_entry(body))]
    _note_uses(on, uses)
    return f"{rows[-1][0]}:{rows[-1][1]}" if len(rows) == FOUND_AT_ONCE else ""


def _of_events(read: sqlite3.Connection, after: str, on: Statements, now: Instant) -> str:
    rows = read.execute(
        "SELECT key, shard, body FROM event WHERE key > ? ORDER BY key LIMIT ?", (after, FOUND_AT_ONCE)
    ).fetchall()
    uses: list[tuple[str, str, int]] = []
    for key, shard, body in rows:
        if BLOB_MARK in body:
            uses += [(key, blob.hash, shard) for blob in blobs_of(decode_event(body))]
    _note_uses(on, uses)
    return str(rows[-1][0]) if len(rows) == FOUND_AT_ONCE else ""


def _of_jobs(read: sqlite3.Connection, after: str, on: Statements, now: Instant) -> str:
    rows = read.execute(
        "SELECT id, run, shard, body FROM job WHERE id > ? ORDER BY id LIMIT ?", (after, FOUND_AT_ONCE)
    ).fetchall()
    uses: list[tuple[str, str, int]] = []
    for _, run, shard, body in rows:
        if run is not None and BLOB_MARK in body:
            uses += [(run, blob.hash, shard) for blob in blobs_of(decode_job(body))]
    _note_uses(on, uses)
    return str(rows[-1][0]) if len(rows) == FOUND_AT_ONCE else ""


def _of_blobs(read: sqlite3.Connection, after: str, on: Statements, now: Instant) -> str:
    rows = read.execute("SELECT hash FROM blob WHERE hash > ? ORDER BY hash LIMIT ?", (after, FOUND_AT_ONCE)).fetchall()
    mark_loose(on, [hash for (hash,) in rows], now)
    return str(rows[-1][0]) if len(rows) == FOUND_AT_ONCE else ""


_STAGES = {"run": _of_entries, "event": _of_events, "job": _of_jobs, "blob": _of_blobs}


def _note_uses(on: Statements, uses: list[tuple[str, str, int]]) -> None:
    on.many("note found uses", "INSERT INTO blob_use VALUES $rows ON CONFLICT DO NOTHING", uses)


def _json(values: object) -> str:
    return msgspec.json.encode(values).decode()
