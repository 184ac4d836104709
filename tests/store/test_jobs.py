"""Who may work on what: claims, fences, leases."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stepwell.model.job import JobKind
from stepwell.store.base import COMMITTED, ClaimLost, Node, Transition
from stepwell.store.sqlite import SqliteStore
from tests.store.cases import NODE, OTHER, Clock, a_claim, a_job, event_key, run_id, started, store_all

if TYPE_CHECKING:
    from pathlib import Path

    from stepwell.store.base import Store


async def test_due_jobs_are_claimed_oldest_first(store: Store) -> None:
    jobs = (a_job("c", due=30), a_job("a", due=10), a_job("later", due=101), a_job("b2", due=20), a_job("b1", due=20))
    await store_all(store, Transition(jobs=jobs))
    assert await store.next_due() == 10
    claimed = await store.claim_due(NODE, 100, 3)
    assert [job.id for job in claimed] == ["a", "b1", "b2"]
    assert {(job.owner, job.fence) for job in claimed} == {("alpha", 1)}
    assert [job.id for job in await store.claim_due(NODE, 100, 3)] == ["c"]
    assert await store.claim_due(NODE, 100, 3) == []
    assert await store.next_due() == 101
    assert [job.owner for job in await store.jobs_of(run_id(1))] == ["alpha"] * 4 + [None]


async def test_a_claimed_job_comes_back_as_it_was_stored(store: Store) -> None:
    job = a_job(
        "j",
        None,
        kind=JobKind.MATCH,
        keys=(event_key(1), event_key(2)),
        attempt=3,
        live=True,
        since=7,
        output=b"1",
        error=b"2",
    )
    await store_all(store, Transition(jobs=(job,)))
    (claimed,) = await store.claim_due(NODE, 1000, 1)
    assert claimed == a_job(
        "j",
        None,
        kind=JobKind.MATCH,
        keys=(event_key(1), event_key(2)),
        attempt=3,
        live=True,
        since=7,
        output=b"1",
        error=b"2",
        owner="alpha",
        fence=1,
    )


async def test_a_job_is_claimed_by_one_of_many_who_ask(store: Store) -> None:
    await store_all(store, Transition(jobs=tuple(a_job(f"j{i}") for i in range(60))))
    nodes = [Node(f"n{i}", 1, 10_000) for i in range(10)]
    claimed = await asyncio.gather(*[store.claim_due(node, 1000, 9) for node in nodes])
    names = [job.id for jobs in claimed for job in jobs]
    assert len(names) == len(set(names)) == 60


async def test_the_fence_rises_each_time_a_job_changes_hands(store: Store) -> None:
    await store_all(store, Transition(jobs=(a_job("j"),)))
    (first,) = await store.claim_due(NODE, 1000, 1)
    await store.release([a_claim("j", first.fence)])
    (second,) = await store.claim_due(OTHER, 1000, 1)
    assert (first.fence, second.fence, second.owner) == (1, 2, "beta")
    assert await store.commit(Transition(ends=(a_claim("j", 1),))) == ClaimLost(first.id)
    assert await store.commit(Transition(ends=(a_claim("j", 2),))) == COMMITTED


async def test_a_claim_given_back_is_not_current_even_before_somebody_takes_it(store: Store) -> None:
    await store_all(store, Transition(jobs=(a_job("j", owner="alpha"),)))
    await store.release([a_claim("j")])
    assert await store.commit(Transition(ends=(a_claim("j"),))) == ClaimLost(a_job("j").id)
    assert await store.next_due() == 500


async def test_giving_back_what_one_does_not_have_changes_nothing(store: Store) -> None:
    await store_all(store, Transition(jobs=(a_job("j", owner="alpha"), a_job("k"))))
    await store.release([a_claim("j", 2), a_claim("k", 0), a_claim("none")])
    await store.release([])
    assert await store.commit(Transition(holds=(a_claim("j"),))) == COMMITTED


async def test_jobs_of_a_node_whose_lease_ran_out_are_free_again(store: Store) -> None:
    await store.heartbeat(Node("alpha", 1, 2000))
    await store.heartbeat(Node("beta", 1, 9000))
    await store_all(store, Transition(jobs=(a_job("a", owner="alpha"), a_job("b", owner="beta"), a_job("c"))))
    assert await store.release_lost(1999) == 0
    assert await store.release_lost(2000) == 1
    assert await store.release_lost(2000) == 0
    assert {job.id: job.owner for job in await store.jobs_of(run_id(1))} == {"a": None, "b": "beta", "c": None}


async def test_a_renewed_lease_keeps_the_jobs(store: Store) -> None:
    await store.heartbeat(Node("alpha", 1, 2000))
    await store_all(store, Transition(jobs=(a_job("a", owner="alpha"),)))
    assert await store.heartbeat(Node("alpha", 1, 4000))
    assert await store.release_lost(3000) == 0


async def test_a_second_life_of_a_node_does_not_have_the_jobs_of_the_first(store: Store) -> None:
    assert await store.heartbeat(Node("alpha", 1, 9000))
    await store_all(store, Transition(run=started(1), jobs=(a_job("born", owner="alpha"), a_job("due"))))
    (claimed,) = await store.claim_due(Node("alpha", 1, 9000), 1000, 1)
    assert claimed.id == "due"
    assert await store.heartbeat(Node("alpha", 2, 9000))
    await store_all(store, Transition(jobs=(a_job("new", owner="alpha"),)))
    assert await store.release_lost(1000) == 2
    assert {job.id: job.owner for job in await store.jobs_of(run_id(1))} == {"born": None, "due": None, "new": "alpha"}


async def test_a_node_whose_place_was_taken_must_stop_and_gets_no_work(store: Store) -> None:
    await store_all(store, Transition(jobs=(a_job("j"),)))
    assert await store.heartbeat(Node("alpha", 2, 9000))
    assert not await store.heartbeat(Node("alpha", 1, 9000))
    assert await store.claim_due(Node("alpha", 1, 9000), 1000, 5) == []
    assert len(await store.claim_due(Node("alpha", 2, 9000), 1000, 5)) == 1


async def test_jobs_of_a_node_that_nobody_knows_are_free_again(store: Store) -> None:
    await store_all(store, Transition(jobs=(a_job("a", owner="ghost"),)))
    assert await store.release_lost(0) == 1


async def test_a_job_with_a_route_is_claimed_only_by_who_can_go_there(store: Store) -> None:
    jobs = (
        a_job("a", due=5, route="here"),
        a_job("b", due=6),
        a_job("c", due=7, route="there"),
        a_job("d", due=8, route="here"),
    )
    await store_all(store, Transition(jobs=jobs))
    assert await store.next_due(()) == 6
    assert await store.next_due({"there"}) == 6
    assert await store.next_due({"here"}) == await store.next_due() == 5
    assert [job.id for job in await store.claim_due(NODE, 1000, 9, ())] == ["b"]
    assert await store.claim_due(NODE, 1000, 9, {"elsewhere"}) == []
    claimed = await store.claim_due(NODE, 1000, 1, {"there", "here"})
    assert [(job.id, job.route, job.fence) for job in claimed] == [("a", "here", 1)]
    await store.release([a_claim("a")])
    assert [job.id for job in await store.claim_due(NODE, 1000, 9, {"here"})] == ["a", "d"]
    assert await store.next_due({"here"}) is None
    assert [job.id for job in await store.claim_due(NODE, 1000, 9)] == ["c"]


async def test_nothing_is_due_in_an_empty_store(store: Store) -> None:
    assert await store.next_due() is None
    assert await store.claim_due(NODE, 10**15, 5) == []
    assert await store.release_lost(10**15) == 0


async def test_more_jobs_than_fit_into_one_statement_are_claimed_at_once(store: Store) -> None:
    await store_all(store, Transition(jobs=tuple(a_job(f"j{i:04d}") for i in range(1111))))
    claimed = await store.claim_due(NODE, 1000, 1000)
    assert [job.id for job in claimed] == [f"j{i:04d}" for i in range(1000)]
    assert await store.commit(Transition(ends=tuple(a_claim(job.id) for job in claimed))) == COMMITTED
    assert len(await store.jobs_of(run_id(1))) == 111


async def test_the_store_tells_the_time_of_its_clock(store: Store, clock: Clock) -> None:
    clock.at = 12_345
    assert await store.now() == 12_345


async def test_a_restarted_store_knows_whose_jobs_may_be_lost(tmp_path: Path, clock: Clock) -> None:
    store = SqliteStore(tmp_path, clock)
    await store.open()
    await store.heartbeat(Node("alpha", 1, 9000))
    await store_all(store, Transition(jobs=(a_job("a", owner="alpha"), a_job("b", owner="beta"))))
    await store.close()
    await store.open()
    assert await store.release_lost(1000) == 1  # of beta, which nobody knows
    assert await store.heartbeat(Node("alpha", 2, 9000))
    assert await store.release_lost(1000) == 1
    await store.close()
