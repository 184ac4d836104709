"""Gates and places in SQLite; the rules are `stepwell.store.slots`. On the writer's thread, inside its transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import json

from stepwell.model.ids import shard_of
from stepwell.store.batch import asked_body
from stepwell.store.slots import NEVER, Gate, Place, settle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.store.batch import Batch, Prepared
    from stepwell.store.sqlite.statements import Statements

_PLACE = "job, run, shard, keys, limits, passed, rank, due, route"
_LISTED = "(SELECT value FROM json_each(?))"


class Slots:
    """Passes slots on. As long as no job has ever had any, it costs nothing."""

    def __init__(self, on: Statements) -> None:
        self._on = on
        (self._used,) = on.connection.execute("SELECT EXISTS (SELECT 1 FROM place)").fetchone()

    def settle(self, group: Sequence[Prepared], batch: Batch) -> tuple[str | None, ...]:
        """Do it for a group that is written already, and put into its outcomes who is parked.

        Returns the routes of those who waited and got through.
        """
        entering = batch.entering(group)
        if not entering and not self._used:
            return ()
        self._used = True
        gone = self._leave(batch)
        if not gone and not entering:
            return ()
        book = _Book(self._on)
        settled = settle(book, gone, entering)
        parked = batch.park(group, settled.parked) if settled.parked else ()
        self._on.many(
            "park jobs",
            "UPDATE job SET owner = NULL, epoch = NULL, due = new.column2, fence = new.column3,"
            " body = coalesce(new.column4, body) FROM (VALUES $rows) AS new WHERE job.id = new.column1",
            [(job.id, NEVER, job.fence if job.later else 0, asked_body(job, parked=True)) for job in parked],
        )
        through = [job for job in entering if job.later and job.id not in settled.parked]
        self._on.many(
            "let jobs in",
            "UPDATE job SET body = new.column2 FROM (VALUES $rows) AS new WHERE job.id = new.column1",
            [(job.id, asked_body(job, parked=False)) for job in through],
        )
        self._on.many(
            "admit jobs",
            "UPDATE job SET due = new.column2 FROM (VALUES $rows) AS new WHERE job.id = new.column1",
            [(place.job, place.due) for place in settled.admitted],
        )
        return tuple({place.route for place in settled.admitted})

    def _leave(self, batch: Batch) -> list[Place]:
        found: list[Any] = []
        for column, values in (("job", batch.drop_jobs), ("run", batch.drop_all_of)):
            if values:
                sql = f"DELETE FROM place WHERE {column} IN {_LISTED} RETURNING {_PLACE}"
                found += self._on.one("leave places", sql, (json.encode(values).decode(),)).fetchall()
        return [_read(row) for row in found]


class _Book:
    def __init__(self, on: Statements) -> None:
        self._on = on

    def gate(self, key: str) -> Gate:
        row = self._on.one("find gate", "SELECT most, held FROM gate WHERE key = ?", (key,)).fetchone()
        return Gate() if row is None else Gate(*row)

    def keep(self, key: str, gate: Gate) -> None:
        if gate.held:
            sql = (
                "INSERT INTO gate VALUES (?, ?, ?, ?)"
                " ON CONFLICT (key) DO UPDATE SET most = excluded.most, held = excluded.held"
            )
            self._on.one("keep gate", sql, (key, shard_of(key, ""), gate.limit, gate.held))
        else:
            self._on.one("forget gate", "DELETE FROM gate WHERE key = ?", (key,))

    def put(self, place: Place) -> None:
        job, run, shard, keys, limits, *rest = place
        row = (job, run, shard, json.encode(keys).decode(), json.encode(limits).decode(), *rest, place.line)
        self._on.one("keep place", "INSERT OR REPLACE INTO place VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def first(self, key: str, count: int) -> list[Place]:
        sql = f"SELECT {_PLACE} FROM place INDEXED BY place_in_line WHERE line = ? ORDER BY rank, job LIMIT ?"
        return [_read(row) for row in self._on.one("find first in line", sql, (key, count)).fetchall()]


def _read(row: Any) -> Place:
    job, run, shard, keys, limits, *rest = row
    return Place(job, run, shard, tuple(json.decode(keys)), tuple(json.decode(limits)), *rest)
