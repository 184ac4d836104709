"""What has ended long ago is forgotten, and nothing that lives or is referred to."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from typing import TYPE_CHECKING, Any

import pytest

from stepwell.model.event import DEV_ENV
from stepwell.model.ids import EventKey, JobId, RunId, ulid
from stepwell.model.job import JobKind, RunRow, RunStatus
from stepwell.model.journal import Noted, RunStarted
from stepwell.node.clock import AsyncioWorld
from stepwell.node.retention import YOUNGEST_EVENT_MS, Keep, Retention
from stepwell.store.base import EventQuery, RunQuery, RunWrite, StoredRun, Transition
from stepwell.store.clock import WallClock
from stepwell.store.memory import MemoryStore
from stepwell.store.postgres import PostgresStore
from stepwell.store.sqlite import SqliteStore
from stepwell.store.sqlite.removal import BUDGET_S
from tests.store.cases import a_job, an_event, store_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from stepwell.store.base import Store

HOUR = 3_600_000
DAY = 24 * HOUR


class World(AsyncioWorld):
    """The real one, in which the time is what the test says and nobody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 100 * DAY

    def now(self) -> int:
        return self.at

    async def sleep(self, milliseconds: int) -> None:
        await asyncio.sleep(0)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store
    if request.param == "memory":
        made = MemoryStore(WallClock())
    elif request.param == "sqlite":
        made = SqliteStore(tmp_path)
    else:
        made = PostgresStore(request.getfixturevalue("postgres_url"))
    await made.open()
    try:
        yield made
    finally:
        await made.close()


def run_at(created_at: int, number: int) -> RunId:
    return RunId(ulid(created_at, number))


def a_run(created_at: int, number: int = 0, ended_at: int | None = None, entries: int = 1, **fields: Any) -> Transition:
    """A run that ended then; without that it lives."""
    status = RunStatus.RUNNING if ended_at is None else RunStatus.COMPLETED
    run = run_at(created_at, number)
    row = RunRow(
        id=run, env=DEV_ENV, shard=1, function="f", service="s", status=status, seq=entries, created_at=created_at,
        ended_at=ended_at, **fields,
    )  # fmt: skip
    first = RunStarted(function="f", service="s", events=(b"{}",))
    return Transition(run=RunWrite(row, 0, (first, *[Noted(kind="log", text="x")] * (entries - 1))))


async def left(store: Store) -> set[str]:
    return {row.id for row in await store.runs(RunQuery(DEV_ENV, limit=100_000))}


async def test_runs_go_when_they_ended_long_enough_ago(store: Store) -> None:
    world = World()
    old, late, young, live = (run_at(world.at - days * DAY, 0) for days in (40, 39, 2, 50))
    await store_all(
        store,
        a_run(world.at - 40 * DAY, ended_at=world.at - 31 * DAY),
        a_run(world.at - 39 * DAY, ended_at=world.at - 29 * DAY),
        a_run(world.at - 2 * DAY, ended_at=world.at - 2 * DAY),
        a_run(world.at - 50 * DAY),
    )
    swept = await Retention(store, world, "n", Keep(runs_ms=30 * DAY)).sweep()
    assert swept.runs == 1
    assert await left(store) == {late, young, live}
    assert old not in await left(store)
    world.at += 10 * DAY
    await Retention(store, world, "n", Keep(runs_ms=30 * DAY)).sweep()
    assert await left(store) == {young, live}


async def test_the_newest_ended_runs_stay_when_their_number_is_limited(store: Store) -> None:
    world = World()
    for number in range(500):
        await store_all(store, a_run(world.at - 1000 + number, ended_at=world.at))
    await store_all(store, a_run(world.at - 5000))
    await Retention(store, world, "n", Keep(most_runs=100)).sweep()
    assert await left(store) == {run_at(world.at - 1000 + n, 0) for n in range(400, 500)} | {run_at(world.at - 5000, 0)}


async def test_nothing_goes_by_default_but_what_nobody_can_see(store: Store) -> None:
    world = World()
    await store_all(store, a_run(0, ended_at=1), Transition(events=(an_event(1),)))
    swept = await Retention(store, world, "n").sweep()
    assert (swept.runs, swept.events) == (0, 0)
    assert len(await left(store)) == 1


@pytest.mark.parametrize("obstacle", ["lives", "ended lately", "has a job", None])
async def test_a_tree_goes_whole_or_not_at_all(store: Store, obstacle: str | None) -> None:
    """A root, 3 children, 250 grandchildren of one; the obstacle is one of the grandchildren."""
    world = World()
    long_ago = world.at - 50 * DAY
    root, child = run_at(long_ago, 0), run_at(long_ago, 1)
    transitions = [a_run(long_ago, ended_at=long_ago)]
    transitions += [a_run(long_ago, n, long_ago, parent=root) for n in (1, 2, 3)]
    transitions += [a_run(long_ago, n, long_ago, parent=child) for n in range(10, 260)]
    if obstacle == "lives":
        transitions[-100] = a_run(long_ago, 160, parent=child)
    elif obstacle == "ended lately":
        transitions[-100] = a_run(long_ago, 160, world.at - DAY, parent=child)
    await store_all(store, *transitions)
    if obstacle == "has a job":
        await store_all(store, Transition(jobs=(a_job("wake", None, run=run_at(long_ago, 160)),)))
    before = await left(store)
    await Retention(store, world, "n", Keep(runs_ms=30 * DAY)).sweep()
    after = await left(store)
    if obstacle is None:
        assert after == set()
    elif obstacle == "has a job":  # what is above it stays; it is the end of nothing
        assert {root, child, run_at(long_ago, 160)} == after
    else:
        assert after == before


async def test_a_child_of_a_live_parent_stays_and_one_whose_parent_is_gone_goes(store: Store) -> None:
    world = World()
    parent = run_at(1000, 0)
    await store_all(
        store,
        a_run(1000),
        a_run(2000, 1, 3000, parent=parent),
        a_run(2000, 2, 3000, parent=run_at(500, 9)),
    )
    await Retention(store, world, "n", Keep(runs_ms=DAY)).sweep()
    assert await left(store) == {parent, run_at(2000, 1)}


async def test_events_go_unless_a_run_or_a_job_refers_to_them(store: Store) -> None:
    world = World()

    def sent(number: int, days: float) -> Transition:
        at = round(world.at - days * DAY)
        return Transition(events=(an_event(number, key=EventKey(ulid(at, number)), received_at=at),))

    of_run = EventKey(ulid(world.at - 40 * DAY, 2))
    matching = EventKey(ulid(world.at - 40 * DAY, 3))
    await store_all(
        store,
        sent(1, 40),
        sent(2, 40),
        sent(3, 40),
        sent(4, 3),
        sent(5, 0.5),
        a_run(world.at - 40 * DAY, event=of_run),
        Transition(jobs=(a_job("m.match", None, kind=JobKind.MATCH, keys=(matching,)),)),
    )
    for keep, numbers in ((Keep(events_ms=5 * DAY), {2, 3, 4, 5}), (Keep(runs_ms=1), {2, 3, 5})):
        await Retention(store, world, "n", keep).sweep()
        events = await store.events(EventQuery(DEV_ENV, limit=100))
        assert {event.internal_id for event in events} == {f"internal-{number}" for number in numbers}
    assert Keep(events_ms=1).oldest_event_ms == YOUNGEST_EVENT_MS


async def test_events_stay_while_a_step_has_yet_to_look_back(store: Store) -> None:
    world = World()
    at = world.at - 40 * DAY
    event = an_event(1, key=EventKey(ulid(at, 1)), received_at=at)
    look = a_job("x.look", None, run=run_at(at, 0), kind=JobKind.LOOK, since=at - 1)
    await store_all(store, a_run(at), Transition(events=(event,), jobs=(look,)))
    retention = Retention(store, world, "n", Keep(events_ms=DAY))
    assert (await retention.sweep()).events == 0
    await store_all(store, Transition(drop_jobs=(JobId("x.look"),)))
    assert (await retention.sweep()).events == 1


async def test_of_two_nodes_one_sweeps_in_each_interval() -> None:
    world = World()
    store = MemoryStore(WallClock())
    nodes = [Retention(store, world, name) for name in ("a", "b")]
    turns = []
    for _ in range(5):
        turns.append([await node._my_turn() for node in nodes])
        world.at += nodes[0].every_ms
    assert turns == [[True, False]] * 5


async def test_readers_and_writers_beside_a_sweep_see_runs_whole_or_not_at_all(tmp_path: Path) -> None:
    """While 3,000 runs go, each of 4 readers loads runs at random, and new ones are written."""
    store = SqliteStore(tmp_path)
    await store.open()
    world = World()
    long_ago = world.at - 50 * DAY
    runs = [run_at(long_ago, number) for number in range(3000)]
    await asyncio.gather(
        *[store.commit(a_run(long_ago, n, long_ago, entries=900 if n % 100 == 0 else 6)) for n in range(3000)]
    )
    over = False
    seen = {True: 0, False: 0}

    async def read(seed: int) -> None:
        choose = random.Random(seed)
        while not over:
            stored: StoredRun | None = await store.load_run(choose.choice(runs))
            seen[stored is not None] += 1
            assert stored is None or len(stored.entries) == stored.row.seq
            for row in await store.runs(RunQuery(DEV_ENV, limit=5)):
                assert row.seq in (1, 6, 900)

    waits: list[float] = []

    async def write() -> None:
        number = 10_000
        while not over:
            number += 1
            began = time.perf_counter()
            await store.commit(a_run(world.at, number))
            waits.append(time.perf_counter() - began)
            await asyncio.sleep(0.005)

    others = [asyncio.create_task(read(seed)) for seed in range(4)] + [asyncio.create_task(write())]
    swept = await Retention(store, AsyncioWorldAt(world.at), "n", Keep(runs_ms=DAY)).sweep()
    over = True
    await asyncio.gather(*others)
    assert swept.runs == 3000
    assert min(seen.values()) > 10
    assert statistics.median(waits) < 0.05 + BUDGET_S  # and no writer waits long behind a removal
    assert len(await left(store)) == len(waits)
    await store.close()


class AsyncioWorldAt(AsyncioWorld):
    """The real one at another time."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._at = at

    def now(self) -> int:
        return self._at
