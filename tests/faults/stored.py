"""What a database holds, asked from outside the servers by questions of the store's own interface.

`PostgresStore` answers them as it is. A folder with SQLite is locked by its server, so here is a reader that takes no
lock: one connection, and everything as of the moment it was opened.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Protocol

from stepwell.store.base import StoredRun
from stepwell.store.batch import decode_entry
from stepwell.store.sqlite import reads

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stepwell.model.event import Event
    from stepwell.model.ids import RunId
    from stepwell.model.job import Job, RunRow, Wait
    from stepwell.store.base import EventQuery, RunQuery


class Stored(Protocol):
    """The part of a store that tests ask."""

    async def runs(self, query: RunQuery) -> list[RunRow]: ...

    async def count_runs(self, query: RunQuery) -> int: ...

    async def events(self, query: EventQuery) -> list[Event]: ...

    async def load_run(self, run: RunId) -> StoredRun | None: ...

    async def jobs_of(self, run: RunId) -> list[Job]: ...

    async def waits_of(self, run: RunId) -> list[Wait]: ...

    async def stray_rows(self, limit: int) -> list[str]: ...

    async def status(self) -> Mapping[str, Any]: ...


class Folder:
    """A data folder, whether a server works in it or not."""

    def __init__(self, data: Path) -> None:
        self._on = sqlite3.connect(f"file:{data / 'stepwell.db'}?mode=ro", uri=True, timeout=10)
        self._on.execute("BEGIN")

    def close(self) -> None:
        self._on.close()

    async def runs(self, query: RunQuery) -> list[RunRow]:
        return reads.runs(self._on, query)

    async def count_runs(self, query: RunQuery) -> int:
        return reads.count_runs(self._on, query)

    async def events(self, query: EventQuery) -> list[Event]:
        return reads.events(self._on, query)

    async def load_run(self, run: RunId) -> StoredRun | None:
        """With every entry there is, also those that the row of the run does not count."""
        row = reads.run_row(self._on, run)
        bodies = self._on.execute("SELECT body FROM entry WHERE run = ? ORDER BY seq", (run,))
        return None if row is None else StoredRun(row, tuple([decode_entry(body) for (body,) in bodies]))

    async def jobs_of(self, run: RunId) -> list[Job]:
        return reads.jobs_of(self._on, run)

    async def waits_of(self, run: RunId) -> list[Wait]:
        return reads.waits_of(self._on, run)

    async def stray_rows(self, limit: int) -> list[str]:
        return reads.stray_rows(self._on, limit)

    async def status(self) -> Mapping[str, Any]:
        return reads.counts(self._on)
