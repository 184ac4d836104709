"""The database goes away, connections are cut, errors come that mean "again": nothing is lost, nothing is doubled."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from stepwell.model.job import RunStatus
from stepwell.model.journal import Noted
from stepwell.store.base import COMMITTED, ClaimLost, Node, Record, RunMoved, StoreFull, StoreUnavailable, Transition
from stepwell.store.postgres import PostgresStore
from stepwell.store.postgres.database import Database
from tests.postgres import Cluster, asked, shared_cluster
from tests.store.cases import a_claim, a_job, moved, run_id, started, store_all
from tests.store.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.store.proxy import Fate

CALLERS = 40


@pytest.fixture(scope="module")
def synced() -> Iterator[Cluster]:
    cluster = Cluster(synced=True)
    yield cluster
    cluster.remove()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    made = Proxy(shared_cluster().port)
    yield made
    await made.close()


class Load:
    """Callers that each take runs through their lives, and what must be so afterwards."""

    def __init__(self, store: PostgresStore, steps: int = 6) -> None:
        self.store = store
        self.steps = steps
        self.acknowledged = 0
        self.numbers = 0
        self.over = False
        self.longest_s = 0.0

    async def caller(self) -> None:
        while not self.over:
            self.numbers += 1
            await self._live(self.numbers)

    async def _live(self, number: int) -> None:
        first = Transition(run=started(number), jobs=(a_job(f"{number}:0", number, owner="alpha"),))
        await self._commit(first)
        for i in range(self.steps):
            job = a_job(f"{number}:{i + 1}", number, owner="alpha")
            ends = (a_claim(f"{number}:{i}"),)
            await self._commit(Transition(run=moved(number, 1 + i, f"{i}"), ends=ends, jobs=(job,)))
        end = moved(number, 1 + self.steps, "end", status=RunStatus.COMPLETED)
        ends = (a_claim(f"{number}:{self.steps}"),)
        await self._commit(Transition(run=end, ends=ends, drop_all_of=run_id(number)))

    async def _commit(self, transition: Transition) -> None:
        began = time.monotonic()
        assert await self.store.commit(transition) == COMMITTED
        self.longest_s = max(self.longest_s, time.monotonic() - began)
        self.acknowledged += 1

    async def run(self, fault: Any) -> None:
        callers = [asyncio.ensure_future(self.caller()) for _ in range(CALLERS)]
        await asyncio.wait([asyncio.ensure_future(fault), *callers], return_when=asyncio.FIRST_COMPLETED)
        self.over = True
        await asyncio.gather(*callers)

    async def until(self, acknowledged: int) -> None:
        while self.acknowledged < acknowledged:  # noqa: ASYNC110 - the callers make it true
            await asyncio.sleep(0.01)

    async def check(self) -> None:
        """Each run has each of its entries once, and nothing else."""
        expected = [*(f"{i}" for i in range(self.steps)), "end"]
        for number in range(1, self.numbers + 1):
            stored = await self.store.load_run(run_id(number))
            assert stored is not None
            assert [entry.text for entry in stored.entries[1:] if isinstance(entry, Noted)] == expected
            assert (stored.row.seq, stored.row.status) == (2 + self.steps, RunStatus.COMPLETED)
        (count,) = await asked(self.store.url, "SELECT count(*) FROM stepwell.entry")
        assert count == self.acknowledged
        (jobs,) = await asked(self.store.url, "SELECT count(*) FROM stepwell.job")
        assert jobs == 0


@pytest.mark.slow
async def test_a_crash_of_the_database_in_the_middle_of_load_is_not_noticed_by_callers(synced: Cluster) -> None:
    store = PostgresStore(synced.database(empty=True))
    await store.open()
    load = Load(store)

    async def crashes() -> None:
        for down_s in (0.0, 0.3, 1.0):
            await asyncio.sleep(0.7)
            await asyncio.to_thread(synced.stop, "immediate")
            await asyncio.sleep(down_s)
            synced.launch()
        reached = load.acknowledged
        await load.until(reached + CALLERS * 10)

    await load.run(crashes())
    assert load.acknowledged > 500
    assert load.longest_s < 10
    assert (await store.status())["retries"] != 0
    await load.check()
    await store.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_connection_cut_at_any_moment_loses_and_doubles_nothing(
    postgres_url: str, proxy: Proxy, seed: int
) -> None:
    """Among them those that are cut when the commit is done and the answer on its way."""
    draw = random.Random(seed)

    def fate(data: bytes) -> Fate:
        at = draw.random()
        return "cut after" if at < 0.03 else "cut before" if at < 0.04 else "pass"

    port = await proxy.start()
    store = PostgresStore(postgres_url.replace(str(shared_cluster().port), str(port)))
    await store.open()
    load = Load(store)
    proxy.fate = fate

    async def cut_often() -> None:
        await load.until(3000)
        while proxy.cuts <= 5:  # noqa: ASYNC110 - the faster the disk, the more is in one group, and the fewer are cut
            await asyncio.sleep(0.01)

    await load.run(cut_often())
    proxy.fate = lambda data: "pass"
    await load.check()
    await store.close()


@pytest.mark.slow
async def test_backends_that_are_terminated_lose_and_double_nothing(postgres_url: str) -> None:
    store = PostgresStore(postgres_url)
    await store.open()
    load = Load(store)

    async def terminate() -> None:
        for _ in range(20):
            await asyncio.sleep(0.05)
            await asked(
                postgres_url,
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )

    await load.run(terminate())
    assert load.acknowledged > 200
    await load.check()
    await store.close()


ERRORS = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.AdminShutdownError,
    asyncpg.ConnectionFailureError,
    asyncpg.TooManyConnectionsError,
)


@pytest.mark.slow
async def test_one_in_a_hundred_statements_fails_and_nobody_notices(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(5)
    true_alone = Database.alone
    injected = 0

    async def alone(self: Database, *args: Any, **named: Any) -> Any:
        nonlocal injected
        if draw.random() >= 0.02:
            return await true_alone(self, *args, **named)
        injected += 1
        error = draw.choice(ERRORS)
        if error in (asyncpg.AdminShutdownError, asyncpg.ConnectionFailureError) and draw.random() < 0.5:
            await true_alone(self, *args, **named)  # it was done all the same
        raise error("injected")

    store = PostgresStore(postgres_url)
    await store.open()
    monkeypatch.setattr(Database, "alone", alone)
    load = Load(store)

    async def enough() -> None:
        node = Node("alpha", 1, 10**15)
        while load.acknowledged < 4000:
            assert await store.heartbeat(node)
            await store.now()
            await asyncio.sleep(0.005)

    await load.run(enough())
    await load.check()
    assert injected > 10
    await store.close()


async def test_a_claim_whose_answer_was_lost_is_answered_again(postgres_url: str, proxy: Proxy) -> None:
    port = await proxy.start()
    store = PostgresStore(postgres_url.replace(str(shared_cluster().port), str(port)))
    await store.open()
    await store.heartbeat(Node("alpha", 1, 10**15))
    await store_all(store, Transition(jobs=tuple(a_job(f"j{i}") for i in range(9))))
    assert len(await store.claim_due(Node("alpha", 1, 10**15), 0, 2)) == 2
    cuts = iter(["cut after"])
    proxy.fate = lambda data: next(cuts, "pass") if b"claim_due" in data or b"alpha" in data else "pass"  # type: ignore[arg-type]
    claimed = await store.claim_due(Node("alpha", 1, 10**15), 0, 4)
    assert proxy.cuts == 1
    assert [(job.id, job.fence) for job in claimed] == [("j2", 1), ("j3", 1), ("j4", 1), ("j5", 1)]
    rest = await store.claim_due(Node("alpha", 1, 10**15), 0, 9)
    assert [job.id for job in rest] == ["j6", "j7", "j8"]
    await store.close()


async def test_a_record_whose_answer_was_lost_is_known_to_be_put(postgres_url: str, proxy: Proxy) -> None:
    """Whoever is told that somebody was quicker has not put it himself."""
    port = await proxy.start()
    store = PostgresStore(postgres_url.replace(str(shared_cluster().port), str(port)))
    await store.open()
    for revision in (1, 2, 3):
        cuts = iter(["cut after"])
        proxy.fate = lambda data, cuts=cuts: next(cuts, "pass") if b"this value" in data else "pass"  # type: ignore[assignment,misc]
        record = Record(env="dev", kind="thing", key="one", value=b"this value", revision=revision)
        assert await store.put_record(record)
        assert proxy.cuts == revision
        assert await store.record("dev", "thing", "one") == record
    await store.close()


async def test_a_claim_that_was_given_up_is_answered_when_the_database_is_back(postgres_url: str, proxy: Proxy) -> None:
    """Otherwise its jobs would belong to a node that knows nothing of them."""
    port = await proxy.start()
    store = PostgresStore(postgres_url.replace(str(shared_cluster().port), str(port)), patience_s=0.3, statement_s=0.3)
    await store.open()
    node = Node("alpha", 1, 10**15)
    await store.heartbeat(node)
    await store_all(store, Transition(jobs=(a_job("a"), a_job("b"))))
    assert await store.claim_due(node, 0, 0) == []
    proxy.fate = lambda data: "cut after" if b"alpha" in data else "cut before"
    with pytest.raises(StoreUnavailable):
        await store.claim_due(node, 0, 1)
    proxy.fate = lambda data: "pass"
    assert [(job.id, job.fence) for job in await store.claim_due(node, 0, 9)] == [("a", 1)]
    assert [job.id for job in await store.claim_due(node, 0, 9)] == ["b"]
    await store.close()


@pytest.mark.parametrize("fate", ["cut after", "cut before"])
async def test_a_commit_whose_end_nobody_heard_of_leaves_no_job_that_nobody_knows(
    postgres_url: str, proxy: Proxy, fate: Fate
) -> None:
    """The caller is told that the store is away. If it was made its jobs are for anybody, else it is never made."""
    port = await proxy.start()
    store = PostgresStore(postgres_url.replace(str(shared_cluster().port), str(port)), patience_s=0.3, lanes=1)
    await store.open()
    node = Node("alpha", 1, 10**15)
    assert await store.heartbeat(node)
    await store_all(store, Transition(run=started(1)))
    proxy.fate = lambda data: fate if b"RunStarted" in data or b"born" in data else "cut before"
    doubtful = Transition(run=started(2), jobs=(a_job("born", 2, owner="alpha"),))
    with pytest.raises(StoreUnavailable):
        await store.commit(doubtful)
    assert proxy.cuts > 0
    proxy.fate = lambda data: "pass"
    if fate == "cut after":
        async with asyncio.timeout(5):
            while not (claimed := await store.claim_due(node, 0, 9)):  # noqa: ASYNC110 - it is done beside
                await asyncio.sleep(0.01)
        assert [(job.id, job.fence) for job in claimed] == [("born", 2)]
        assert await store.commit(doubtful) == RunMoved(run_id(2))
    else:
        await store_all(store, doubtful)
        async with asyncio.timeout(5):
            void = "SELECT count(*) FROM stepwell.writer WHERE last < 0"
            while (await asked(postgres_url, void))[0] == 0:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        assert await store.claim_due(node, 0, 9) == []  # it is ours, and we know
    await store.close()


async def test_a_database_that_forgot_who_writes_is_written_to_all_the_same(postgres_url: str) -> None:
    """As after a failover to a standby that had not heard of the last commits."""
    store = PostgresStore(postgres_url, lanes=1)
    await store.open()
    await store_all(store, *(Transition(run=started(number)) for number in range(1, 4)))
    await asked(
        postgres_url, "WITH gone AS (UPDATE stepwell.writer SET last = 1 RETURNING 1) SELECT count(*) FROM gone"
    )
    await store_all(store, Transition(run=started(4)), Transition(run=started(5)))
    await asked(postgres_url, "WITH gone AS (DELETE FROM stepwell.writer RETURNING 1) SELECT count(*) FROM gone")
    await store_all(store, Transition(run=started(6)), Transition(run=moved(6, 1, "x")))
    await store.close()


async def test_a_database_that_stays_away_is_told_to_callers_once_and_in_bounded_time(
    postgres_url: str, proxy: Proxy
) -> None:
    port = await proxy.start()
    store = PostgresStore(postgres_url.replace(str(shared_cluster().port), str(port)), patience_s=1, statement_s=0.5)
    await store.open()
    await store_all(store, Transition(run=started(1)))
    proxy.fate = lambda data: "cut before"
    proxy.cut_all()

    began = time.monotonic()
    asks: list[Any] = [store.commit(Transition(run=started(number))) for number in range(2, 700)]
    asks += [store.load_run(run_id(1)), store.claim_due(Node("alpha", 1, 9), 0, 1), store.heartbeat(Node("a", 1, 9))]
    results = await asyncio.gather(*asks, return_exceptions=True)
    assert {type(result) for result in results} == {StoreUnavailable}
    assert time.monotonic() - began < 5
    later = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"on 127\.0\.0\.1"):
        await store.commit(Transition(run=started(2)))
    assert time.monotonic() - later < 1

    proxy.fate = lambda data: "pass"
    await store_all(store, Transition(run=started(2)))
    assert await store.load_run(run_id(1)) is not None
    assert await store.claim_due(Node("alpha", 1, 9), 0, 1) == []
    await store.close()


async def test_a_silent_network_is_noticed(postgres_url: str, proxy: Proxy) -> None:
    """Nothing comes back and nobody is told: the connection is given up, and the commit done once."""
    port = await proxy.start()
    store = PostgresStore(postgres_url.replace(str(shared_cluster().port), str(port)), patience_s=10, statement_s=0.3)
    await store.open()
    await store_all(store, Transition(run=started(1)))
    proxy.silence(True)
    asking = asyncio.gather(store.commit(Transition(run=moved(1, 1, "x"))), store.load_run(run_id(1)))
    await asyncio.sleep(1)
    assert not asking.done()
    proxy.silence(False)
    outcome, _ = await asking
    assert outcome == COMMITTED
    stored = await store.load_run(run_id(1))
    assert stored is not None
    assert len(stored.entries) == 2
    await store.close()


async def test_a_store_is_closed_soon_although_its_database_says_nothing(proxy: Proxy, postgres_url: str) -> None:
    port = await proxy.start()
    store = PostgresStore(postgres_url.replace(str(shared_cluster().port), str(port)), patience_s=60)
    await store.open()
    await store_all(store, Transition(run=started(1)))
    proxy.silence(True)
    waiting = [asyncio.ensure_future(store.commit(Transition(run=started(number)))) for number in range(2, 30)]
    await asyncio.sleep(0.1)
    waiting.append(asyncio.ensure_future(store.commit(Transition(run=moved(1, 1, "x")))))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(20):
        await store.close()
    ends = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 1)
    assert all(isinstance(end, StoreUnavailable) for end in ends), "everybody is told that nothing is certain"


async def test_a_full_disk_is_told_and_stores_nothing(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PostgresStore(postgres_url)
    await store.open()
    true_alone = Database.alone

    async def alone(self: Database, connection: Any, how: str, sql: str, *values: Any, **named: Any) -> Any:
        if "write_group" in sql:
            raise asyncpg.DiskFullError("could not extend file")
        return await true_alone(self, connection, how, sql, *values, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Database, "alone", alone)
        with pytest.raises(StoreFull, match="disk of the database"):
            await store.commit(Transition(run=started(1)))
    assert await store.run_row(run_id(1)) is None
    await store_all(store, Transition(run=started(1)))
    await store.close()


async def test_of_two_servers_that_move_the_same_runs_each_step_is_made_by_one(postgres_url: str) -> None:
    stores = [PostgresStore(postgres_url), PostgresStore(postgres_url)]
    for store in stores:
        await store.open()
    await store_all(stores[0], *(Transition(run=started(number)) for number in range(1, 21)))
    made = {0: 0, 1: 0}

    async def mover(which: int, number: int) -> None:
        seq = 1
        while seq < 16:
            job = a_job(f"{number}:{seq}:{which}", number)
            outcome = await stores[which].commit(Transition(run=moved(number, seq, f"{which}"), jobs=(job,)))
            assert outcome in (COMMITTED, RunMoved(run_id(number)))
            made[which] += outcome == COMMITTED
            stored = await stores[which].load_run(run_id(number))
            assert stored is not None
            seq = stored.row.seq

    await asyncio.gather(*[mover(which, number) for which in (0, 1) for number in range(1, 21)])
    assert made[0] + made[1] == 20 * 15
    assert min(made.values()) > 0
    for number in range(1, 21):
        stored = await stores[0].load_run(run_id(number))
        assert stored is not None
        assert (stored.row.seq, len(stored.entries)) == (16, 16)
        assert len(await stores[1].jobs_of(run_id(number))) == 15
    for store in stores:
        await store.close()


async def test_of_two_servers_that_claim_each_job_is_had_by_one(postgres_url: str) -> None:
    stores = [PostgresStore(postgres_url), PostgresStore(postgres_url)]
    for store in stores:
        await store.open()
    await store_all(stores[0], Transition(jobs=tuple(a_job(f"j{i}") for i in range(500))))

    async def claimed(which: int) -> list[str]:
        jobs = await stores[which].claim_due(Node(f"n{which}", 1, 9), 0, 7)
        await store_all(stores[which], Transition(ends=tuple(a_claim(job.id, job.fence) for job in jobs)))
        return [job.id for job in jobs]

    got: tuple[list[str], list[str]] = ([], [])
    while any(found := await asyncio.gather(claimed(0), claimed(1))):
        for mine, more in zip(got, found, strict=True):
            mine += more
    assert len(got[0]) + len(got[1]) == len({*got[0], *got[1]}) == 500
    assert min(map(len, got)) > 50
    for store in stores:
        await store.close()


async def test_a_node_that_was_frozen_finds_its_commits_refused(postgres_url: str) -> None:
    frozen, other = PostgresStore(postgres_url), PostgresStore(postgres_url)
    for store in (frozen, other):
        await store.open()
    now = await other.now()
    assert await frozen.heartbeat(Node("alpha", 1, now + 200))
    assert await other.heartbeat(Node("beta", 1, now + 60_000))
    await store_all(frozen, Transition(run=started(1), jobs=(a_job("j", owner="alpha"),)))
    assert await other.release_lost(0) == 0  # what the caller believes about the time does not count
    await asyncio.sleep(0.25)
    assert await other.release_lost(0) == 1
    (job,) = await other.claim_due(Node("beta", 1, now + 60_000), 0, 9)

    late = Transition(run=moved(1, 1, "late"), ends=(a_claim("j"),))
    assert await frozen.commit(late) == ClaimLost(job.id)
    assert await frozen.commit(Transition(run=moved(1, 1, "late"), holds=(a_claim("j"),))) == ClaimLost(job.id)
    assert await other.commit(Transition(run=moved(1, 1, "x"), ends=(a_claim("j", job.fence),))) == COMMITTED
    for store in (frozen, other):
        await store.close()


async def test_an_earlier_life_of_a_node_keeps_nothing(postgres_url: str) -> None:
    """Whatever it still does: what it had is taken from it, and what it makes for itself is free at the next look."""
    earlier, later = PostgresStore(postgres_url), PostgresStore(postgres_url)
    for store in (earlier, later):
        await store.open()
    until = await later.now() + 60_000
    assert await earlier.heartbeat(Node("alpha", 1, until))
    await store_all(earlier, Transition(run=started(1), jobs=(a_job("had", owner="alpha"),)))
    assert await later.heartbeat(Node("alpha", 2, until))
    assert not await earlier.heartbeat(Node("alpha", 1, until))
    assert await later.release_lost(0) == 1
    assert await earlier.claim_due(Node("alpha", 1, until), 0, 9) == []
    assert await earlier.commit(Transition(run=moved(1, 1, "late"), ends=(a_claim("had"),))) == ClaimLost(
        a_job("had").id
    )
    await store_all(earlier, Transition(run=started(2), jobs=(a_job("made", 2, owner="alpha"),)))
    assert await later.release_lost(0) == 1
    assert {job.id for job in await later.claim_due(Node("alpha", 2, until), 0, 9)} == {"had", "made"}
    for store in (earlier, later):
        await store.close()
