"""The writing thread: groups, bounds, and living beside readers and a busy event loop."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from stepwell.model.event import DEV_ENV
from stepwell.store.base import COMMITTED, RunQuery, StoreUnavailable, Transition
from stepwell.store.sqlite import SqliteStore, readers, writer
from tests.store.cases import a_claim, an_event, moved, run_id, started, store_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "data")
    await opened.open()
    yield opened
    await opened.close()


class Gate:
    """A point that stops the writer at one statement until it is told to go on."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, name: str) -> None:
        if name == self._name:
            self.reached.set()
            assert self.go_on.wait(10)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - it is another thread that makes it true
            await asyncio.sleep(0.001)


async def test_those_who_wait_together_are_written_together(store: SqliteStore) -> None:
    before = int(str((await store.status())["groups"]))
    await asyncio.gather(*[store.commit(Transition(run=started(i))) for i in range(200)])
    assert int(str((await store.status())["groups"])) - before <= 4


async def test_nobody_is_told_before_the_commit(tmp_path: Path) -> None:
    gate = Gate("before commit")
    store = SqliteStore(tmp_path, point=gate)
    await store.open()
    gate.go_on.clear()
    waiting = asyncio.ensure_future(store.commit(Transition(run=started(1))))
    await until(gate.reached.is_set)
    await asyncio.sleep(0.02)
    assert not waiting.done()
    assert await store.run_row(run_id(1)) is None  # and reading does not wait for the writer
    gate.go_on.set()
    assert await waiting == COMMITTED
    await store.close()


async def test_a_full_queue_makes_callers_wait_and_forgets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "WAITING_TRANSITIONS", 10)
    monkeypatch.setattr(writer, "WAITING_FOR_ROOM", 30)
    gate = Gate("before commit")
    store = SqliteStore(tmp_path, point=gate)
    await store.open()
    gate.go_on.clear()
    first = asyncio.ensure_future(store.commit(Transition(run=started(1000))))
    await until(gate.reached.is_set)
    many = [asyncio.ensure_future(store.commit(Transition(run=started(i)))) for i in range(45)]
    await asyncio.sleep(0.01)
    assert store._writer is not None
    assert len(store._writer._queue) == 10
    turned_away = [task for task in many if task.done()]
    assert len(turned_away) == 5
    many[20].cancel()  # one who waits for room goes away; the others still get theirs
    gate.go_on.set()
    assert await first == COMMITTED
    results = await asyncio.gather(*many, return_exceptions=True)
    assert results.count(COMMITTED) == 39
    assert sum(isinstance(result, StoreUnavailable) for result in results) == 5
    assert await store.count_runs(RunQuery(DEV_ENV)) == 40
    await store.close()


async def test_a_caller_that_goes_away_does_not_take_its_change_back(tmp_path: Path) -> None:
    gate = Gate("before commit")
    store = SqliteStore(tmp_path, point=gate)
    await store.open()
    gate.go_on.clear()
    leaving = asyncio.ensure_future(store.commit(Transition(run=started(1))))
    await until(gate.reached.is_set)
    leaving.cancel()
    gate.go_on.set()
    await store_all(store, Transition(run=started(2)))
    assert await store.count_runs(RunQuery(DEV_ENV)) == 2
    await store.close()


async def test_closing_writes_what_is_queued_and_takes_no_more(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.open()
    queued = [asyncio.ensure_future(store.commit(Transition(run=started(i)))) for i in range(100)]
    await asyncio.sleep(0)
    await store.close()
    assert [await task for task in queued] == [COMMITTED] * 100
    with pytest.raises(StoreUnavailable):
        await store.commit(Transition())
    with pytest.raises(StoreUnavailable):
        await store.load_run(run_id(1))
    await store.close()
    assert not (tmp_path / "stepwell.db-wal").exists()
    await store.open()
    assert await store.count_runs(RunQuery(DEV_ENV)) == 100
    await store.close()


async def test_the_log_stays_short_under_load(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", 200)
    for first in range(0, 3000, 100):
        events = [Transition(events=(an_event(i, body=bytes(4000)),)) for i in range(first, first + 100)]
        await asyncio.gather(*map(store.commit, events))
    status = await store.status()
    assert int(str(status["checkpoints"])) >= 10
    assert int(str(status["wal_bytes"])) < 8 << 20
    assert int(str(status["database_bytes"])) > 10 << 20


async def test_a_reader_that_never_ends_does_not_let_the_log_grow(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", 100)
    monkeypatch.setattr(writer, "WAL_LIMIT_PAGES", 400)
    monkeypatch.setattr(readers, "GRACE_S", 0.05)
    asked = 0

    def forever(on: sqlite3.Connection) -> int:
        nonlocal asked
        asked += 1
        on.execute("BEGIN")
        try:
            on.execute("SELECT count(*) FROM event").fetchone()
            sql = (
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1e12) SELECT count(*) FROM n"
            )
            return 0 if enough.is_set() else int(on.execute(sql).fetchone()[0])
        finally:
            on.execute("ROLLBACK")

    enough = threading.Event()
    reading = asyncio.ensure_future(store._read.list(forever))
    await until(lambda: asked)
    longest = 0
    for first in range(0, 3000, 50):
        events = [Transition(events=(an_event(i, body=bytes(4000)),)) for i in range(first, first + 50)]
        await asyncio.gather(*map(store.commit, events))
        longest = max(longest, int(str((await store.status())["wal_bytes"])))
    assert longest < 1200 * 4096
    assert asked > 3  # it was stopped, and asked again
    enough.set()
    assert store._readers is not None
    with store._readers.held_back():
        pass
    assert await reading == 0


async def test_questions_that_travel_together_are_answered_apart(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed_over = 0
    submit = store._read._hot.submit

    def counted(*what: Any) -> Any:
        nonlocal handed_over
        handed_over += 1
        return submit(*what)

    monkeypatch.setattr(store._read._hot, "submit", counted)

    def ask(on: sqlite3.Connection, number: int) -> int:
        if number == 7:
            raise KeyError(number)
        return int(on.execute("SELECT ?", (number,)).fetchone()[0])

    def only_one(on: sqlite3.Connection) -> int:
        return 1

    asked = [asyncio.ensure_future(store._read.ask(ask, number)) for number in range(10 * readers.TOGETHER)]
    asyncio.get_running_loop().call_soon(asked[8].cancel)
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(found[7], KeyError)
    assert isinstance(found[8], asyncio.CancelledError)
    assert [*found[:7], *found[9:]] == [*range(7), *range(9, len(asked))]
    assert handed_over == 10
    assert await store._read.ask(only_one) == 1


async def test_a_question_that_is_asked_as_the_store_closes_is_refused(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.open()
    late = asyncio.ensure_future(store.run_row(run_id(1)))
    asyncio.get_running_loop().call_soon(store._read.close)
    with pytest.raises(StoreUnavailable, match="closing"):
        await late
    await store.close()


async def test_a_question_that_takes_too_long_is_stopped(store: SqliteStore) -> None:
    def forever(on: sqlite3.Connection) -> None:
        on.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1e12) SELECT count(*) FROM n"
        ).fetchone()

    store._read._longest_s = 0.05
    with pytest.raises(StoreUnavailable, match="took longer"):
        await store._read.list(forever)


async def test_a_busy_loop_does_not_starve_the_writer(store: SqliteStore) -> None:
    """Without `fair.py` a group took up to 26 s beside callbacks like these."""
    stop = False

    async def busy() -> None:
        while not stop:
            until = time.perf_counter() + 0.000_3
            while time.perf_counter() < until:
                pass
            await asyncio.sleep(0)

    spinning = asyncio.ensure_future(busy())
    longest = 0.0
    for i in range(20):
        began = time.perf_counter()
        await asyncio.gather(*[store.commit(Transition(run=started(100 * i + j))) for j in range(50)])
        longest = max(longest, time.perf_counter() - began)
    stop = True
    await spinning
    assert longest < 2


async def test_readers_see_what_was_committed_before_they_asked(store: SqliteStore) -> None:
    async def live(number: int) -> None:
        await store_all(store, Transition(run=started(number)))
        for seq in range(1, 20):
            await store_all(store, Transition(run=moved(number, seq, f"{seq}")))
            stored = await store.load_run(run_id(number))
            assert stored is not None
            assert (stored.row.seq, len(stored.entries)) == (seq + 1, seq + 1)

    await asyncio.gather(*map(live, range(1, 21)))


async def test_one_who_is_late_in_a_group_delays_nobody(store: SqliteStore) -> None:
    outcomes = await asyncio.gather(
        *[
            store.commit(Transition(run=started(i)) if i % 2 else Transition(ends=(a_claim("none"),)))
            for i in range(100)
        ]
    )
    assert outcomes.count(COMMITTED) == 50
