"""State that an earlier version was killed with is brought to the form of this one, and its runs end as they should.

`schema_1.sql` is a database of the version with schema 1, killed while `app.py` had runs in every state. It is never
written again: what was recorded once must be readable for ever.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from stepwell.model.errors import ConfigurationError
from stepwell.model.event import DEV_ENV
from stepwell.model.job import RunStatus
from stepwell.model.payload import decode
from stepwell.node.auditor import Auditor
from stepwell.node.clock import AsyncioWorld
from stepwell.server import Server, ServerSettings
from stepwell.store.base import RunQuery
from stepwell.store.sqlite import SqliteStore
from stepwell.store.sqlite.schema import migrations
from tests.docs.running import working
from tests.upgrade import app

if TYPE_CHECKING:
    from stepwell.model.job import RunRow
    from stepwell.store.base import Store

SCHEMA_1 = Path(__file__).with_name("schema_1.sql")
PATIENCE_S = 60.0
OUTPUTS: dict[str, list[Any]] = {
    "upgrade-sleeper": ["slept after 20000"] * 3,
    "upgrade-waiter": [{"number": 1}, {"number": 2}, {"number": 3}],
    "upgrade-retrier": ["at last"] * 3,
    "upgrade-child": [40] * 3,
    "upgrade-parent": [41] * 3,
    "upgrade-caller": ["made again"] * 3,
    "upgrade-done": ["long ago"] * 3,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "stepwell.db")) as database:
        database.executescript(SCHEMA_1.read_text(encoding="utf-8"))
        still_waiting = database.execute("SELECT min(created_at) FROM run").fetchone()[0] + 359 * 86_400_000
        if time.time() * 1000 > still_waiting:
            pytest.skip("the runs that wait for an event have given up by now")
    return tmp_path


async def rows(store: Store, *statuses: RunStatus) -> list[RunRow]:
    return await store.runs(RunQuery(DEV_ENV, statuses=statuses or None, limit=100))


@pytest.mark.slow
async def test_runs_of_the_first_schema_go_on_and_end(data: Path) -> None:
    live = (RunStatus.QUEUED, RunStatus.RUNNING)
    server = Server(
        ServerSettings(port=0, data=data, discovery=False, retry_interval_ms=50, manage_logging=False, drain_s=0)
    )
    await server.start()
    store = server.node.store
    assert len(await rows(store, *live)) == 18
    assert (await store.status())["schema"] == len(migrations())
    workers = working([app.service], server)
    await asyncio.to_thread(workers.__enter__)
    try:
        async with httpx2.AsyncClient(base_url=server.url) as client:
            events = [{"name": "upgrade/go", "data": {"number": number}} for number in (1, 2, 3)]
            assert (await client.post("/e/key", json=events)).status_code == 200
        async with asyncio.timeout(PATIENCE_S):
            while await rows(store, *live):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    finally:
        await asyncio.to_thread(workers.__exit__, None, None, None)
    ended: dict[str, list[Any]] = {}
    for row in await rows(store):
        assert isinstance(row.output, bytes)
        ended.setdefault(row.function, []).append(decode(row.output))
    assert {name: sorted(found, key=str) for name, found in ended.items()} == OUTPUTS
    report, texts = await Auditor(store, AsyncioWorld()).audit_all()
    assert (report.findings, report.runs, texts) == ((), 21, 1)
    await server.stop()


async def test_who_refers_to_old_texts_is_found_out(data: Path) -> None:
    store = SqliteStore(data)
    await store.open()
    while (await store.tidy(1 << 60, 1 << 60)).more:
        pass
    for row in await store.runs(RunQuery(DEV_ENV, functions=("upgrade-sleeper",))):
        assert row.status is RunStatus.RUNNING
    report, texts = await Auditor(store, AsyncioWorld()).audit_all()
    assert (report.findings, texts) == ((), 1)
    await store.close()


async def test_a_version_that_is_too_old_refuses_and_changes_nothing(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(data)
    await store.open()
    await store.close()
    before = (data / "stepwell.db").read_bytes()
    monkeypatch.setattr("stepwell.store.sqlite.store.migrations", lambda: migrations()[:1])
    old = SqliteStore(data)
    with pytest.raises(ConfigurationError, match="newer Stepwell"):
        await old.open()
    assert (data / "stepwell.db").read_bytes() == before
