"""Groups on several lanes: together what waits together, in order what depends on one another, bounded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from stepwell.store.base import COMMITTED, StoreUnavailable, Transition
from stepwell.store.postgres import PostgresStore, writer
from stepwell.store.postgres.database import Database
from tests.store.cases import a_claim, a_job, an_event, moved, run_id, started, store_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    opened = PostgresStore(postgres_url, lanes=4)
    await opened.open()
    yield opened
    await opened.close()


class Gate:
    """Groups stop at it on their way to the database."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.first = asyncio.Event()
        """What groups wait for instead while it is not set."""
        self.first.set()
        self.held = self.first
        self.arrived = 0
        true_alone = Database.alone

        async def alone(database: Database, connection: Any, how: str, sql: str, *values: Any, **named: Any) -> Any:
            if "write_group" in sql:
                self.arrived += 1
                await (self.open if self.first.is_set() else self.first).wait()
            return await true_alone(database, connection, how, sql, *values, **named)

        monkeypatch.setattr(Database, "alone", alone)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


async def test_those_who_wait_together_are_written_together(store: PostgresStore) -> None:
    await asyncio.gather(*[store.commit(Transition(run=started(i))) for i in range(1, 201)])
    assert (await store.status())["groups"] == 1


async def test_what_depends_on_a_group_under_way_waits_for_it_and_others_do_not(
    store: PostgresStore, gate: Gate
) -> None:
    """Asked for one after the other without waiting, on four lanes: each must find what the one before it did."""
    await store_all(store, Transition(run=started(1), jobs=(a_job("1", owner="alpha"),)))
    gate.first.clear()
    chain: list[asyncio.Future[Any]] = []
    for at in range(1, 20):
        ends, job = (a_claim(f"{at}"),), a_job(f"{at + 1}", owner="alpha")
        step = Transition(run=moved(1, at, f"{at}"), ends=ends, jobs=(job,))
        chain.append(asyncio.ensure_future(store.commit(step)))
        if at == 1:
            while gate.arrived < 2:  # noqa: ASYNC110 - counting the first of all
                await asyncio.sleep(0.001)
            gate.held, gate.first = gate.first, asyncio.Event()
            gate.first.set()
    assert await asyncio.wait_for(store.commit(Transition(run=started(2))), 5) == COMMITTED
    assert not any(one.done() for one in chain)
    gate.held.set()
    assert await asyncio.gather(*chain) == [COMMITTED] * 19


async def test_a_run_and_who_starts_beside_it_keep_their_order(store: PostgresStore) -> None:
    """As above without a gate, in whatever groups the moment makes."""
    tasks = [asyncio.ensure_future(store.commit(Transition(run=started(1))))]
    for at in range(1, 60):
        tasks.append(asyncio.ensure_future(store.commit(Transition(run=moved(1, at, f"{at}")))))
        tasks.append(asyncio.ensure_future(store.commit(Transition(events=(an_event(at),)))))
        await asyncio.sleep(0.001 * (at % 3))
    assert set(await asyncio.gather(*tasks)) == {COMMITTED}


async def test_a_full_queue_makes_callers_wait_and_forgets_none(
    store: PostgresStore, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "WAITING_TRANSITIONS", 10)
    monkeypatch.setattr(writer, "WAITING_FOR_ROOM", 30)
    gate.open.clear()
    asked = [asyncio.ensure_future(store.commit(Transition(run=started(1)))) for _ in range(1)]
    await asyncio.sleep(0.02)
    # They touch the same run, so no other lane takes them.
    asked += [asyncio.ensure_future(store.commit(Transition(run=moved(1, at, "x")))) for at in range(1, 41)]
    await asyncio.sleep(0.02)
    with pytest.raises(StoreUnavailable, match="behind"):
        await store.commit(Transition(run=started(3)))
    gate.open.set()
    assert await asyncio.gather(*asked) == [COMMITTED] * 41


async def test_who_stops_waiting_changes_nothing(store: PostgresStore, gate: Gate) -> None:
    gate.open.clear()
    asked = asyncio.ensure_future(store.commit(Transition(run=started(1))))
    await asyncio.sleep(0.02)
    asked.cancel()
    await asyncio.sleep(0)
    gate.open.set()
    await store_all(store, Transition(run=moved(1, 1, "x")))


async def test_closing_writes_what_waits_and_takes_no_more(postgres_url: str) -> None:
    store = PostgresStore(postgres_url)
    await store.open()
    asked = [asyncio.ensure_future(store.commit(Transition(run=started(number)))) for number in range(1, 50)]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*asked) == [COMMITTED] * 49
    for asking in (store.commit(Transition(run=started(90))), store.load_run(run_id(1)), store.status()):
        with pytest.raises(StoreUnavailable):
            await asking
    await store.open()
    assert await store.run_row(run_id(49)) is not None
    await store.close()
