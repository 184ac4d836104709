"""Jobs with slots: never more of a key than its limit, in order, and nobody waits while there is room."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from stepwell.model.ids import JobId
from stepwell.model.job import RunStatus, Slot
from stepwell.store.base import COMMITTED, Backlog, Committed, Hint, Transition
from tests.store.cases import NODE, OTHER, a_claim, a_job, moved, run_id, started, store_all

if TYPE_CHECKING:
    from stepwell.model.job import Job
    from stepwell.store.base import Store
    from tests.store.cases import Clock


def limited(name: str, number: int = 1, *, keys: str = "k", limit: int = 1, **fields: Any) -> Job:
    """A job that asks for a slot of each of `keys`."""
    return a_job(name, number, slots=tuple(Slot(key, limit) for key in keys), **fields)


async def add(store: Store, *jobs: Job) -> list[str]:
    """Store jobs. Returns who is parked."""
    outcome = await store.commit(Transition(jobs=jobs))
    assert isinstance(outcome, Committed)
    return list(outcome.parked)


async def claimed(store: Store, now: int = 1000) -> list[str]:
    return [job.id for job in await store.claim_due(NODE, now, 100)]


@pytest.fixture(autouse=True)
async def runs(store: Store) -> None:
    await store.heartbeat(NODE)
    await store.heartbeat(OTHER)
    await store_all(store, *[Transition(run=started(number)) for number in range(1, 5)])


async def test_what_has_no_room_is_parked_and_found_by_nobody(store: Store) -> None:
    assert await add(store, limited("a", owner="alpha"), limited("b", owner="alpha")) == ["b"]
    assert await add(store, limited("c"), limited("d", keys="l")) == ["c"]
    assert await claimed(store) == ["d"]
    assert await store.next_due() is None
    assert await store.backlog(1000) == Backlog(due=0, oldest_due=None, parked=2)
    assert {job.id: (job.owner, job.fence, job.parked) for job in await store.jobs_of(run_id(1))} == {
        "a": ("alpha", 1, None),
        "b": (None, 0, "k"),
        "c": (None, 0, "k"),
        "d": ("alpha", 1, None),
    }
    assert await store.stray_rows(10) == []


async def test_who_goes_makes_room_for_the_first_in_line(store: Store) -> None:
    heard: list[Hint] = []
    store.listen(heard.append)
    await add(store, limited("a", owner="alpha"), limited("late", rank=9), limited("x", rank=3), limited("y", rank=3))
    assert await claimed(store) == []
    for job, follower in (("a", "x"), ("x", "y"), ("y", "late")):
        await store_all(store, Transition(ends=(a_claim(job),)))
        assert await claimed(store) == [follower]
    assert any(None in hint.routes for hint in heard)
    assert await store.stray_rows(10) == []


async def test_a_job_that_waited_is_claimed_for_the_first_time(store: Store) -> None:
    await add(store, limited("a", owner="alpha"), limited("b", owner="alpha"))
    await store_all(store, Transition(ends=(a_claim("a"),)))
    (job,) = await store.claim_due(OTHER, 1000, 1)
    assert (job.id, job.fence, job.owner, job.repeated) == ("b", 1, "beta", False)


@pytest.mark.parametrize("how", ["dropped", "of a run that ended", "parked itself"])
async def test_every_way_to_go_makes_room(store: Store, how: str) -> None:
    await add(store, limited("a", 1, owner="alpha"), limited("b", 2), limited("c", 3))
    if how == "dropped":
        await store_all(store, Transition(drop_jobs=(JobId("a"),)))
    elif how == "of a run that ended":
        ended = moved(1, 1, "over", status=RunStatus.COMPLETED)
        await store_all(store, Transition(run=ended, drop_all_of=run_id(1)))
    else:
        await store_all(store, Transition(drop_jobs=(JobId("b"),)), Transition(ends=(a_claim("a"),)))
    assert await claimed(store) == ["c" if how == "parked itself" else "b"]
    assert await store.stray_rows(10) == []


async def test_a_run_that_goes_on_keeps_its_slot_if_it_comes_first(store: Store) -> None:
    await add(store, limited("a1", 1, rank=1, owner="alpha"), limited("b1", 2, rank=2))
    after = limited("a2", 1, rank=1, owner="alpha")
    assert await store.commit(Transition(ends=(a_claim("a1"),), jobs=(after,))) == COMMITTED
    behind = limited("a3", 1, rank=5, owner="alpha")
    outcome = await store.commit(Transition(ends=(a_claim("a2"),), jobs=(behind,)))
    assert outcome == Committed((behind.id,))
    assert await claimed(store) == ["b1"]


async def test_the_claim_of_a_node_that_is_lost_keeps_its_slot(store: Store) -> None:
    await add(store, limited("a"), limited("b"))
    (job,) = await store.claim_due(NODE, 1000, 10)
    await store.release([a_claim(job.id, job.fence)])
    (again,) = await store.claim_due(OTHER, 1000, 10)
    assert (again.id, again.fence, again.repeated) == ("a", 2, True)


async def test_with_two_keys_there_must_be_room_in_both(store: Store) -> None:
    both: dict[str, Any] = {"keys": "km", "limit": 2}
    assert await add(store, limited("a", **both), limited("b", **both), limited("c", rank=5, **both)) == ["c"]
    assert await add(store, limited("m1", keys="m", limit=2)) == ["m1"]
    assert await claimed(store) == ["a", "b"]
    await store_all(store, Transition(ends=(a_claim("a"),)))
    assert await claimed(store) == ["m1"]
    await store_all(store, Transition(ends=(a_claim("m1"),)))
    assert await claimed(store) == ["c"]
    assert await store.stray_rows(10) == []


async def test_a_limit_that_changes_holds_from_the_next_job_on(store: Store) -> None:
    await add(store, *[limited(f"a{n}", rank=n) for n in range(6)])
    assert await claimed(store) == ["a0"]
    assert await add(store, limited("b", rank=9, limit=4)) == ["b"]
    assert await claimed(store) == ["a1", "a2", "a3"]
    assert await add(store, limited("c", rank=9, limit=2)) == ["c"]
    await store_all(store, Transition(ends=(a_claim("a0"), a_claim("a1"))))
    assert await claimed(store) == []
    await store_all(store, Transition(ends=(a_claim("a2"),)))
    assert await claimed(store) == ["a4"]


async def test_a_job_for_later_asks_when_its_time_has_come(store: Store) -> None:
    assert await add(store, limited("a", due=900, later=True), limited("b", owner="alpha")) == []
    (job,) = await store.claim_due(NODE, 1000, 10)
    hold = a_claim("a")
    assert await store.commit(Transition(holds=(hold,), enter=(job,))) == Committed((job.id,))
    assert await claimed(store) == []
    await store_all(store, Transition(ends=(a_claim("b"),)))
    (again,) = await store.claim_due(OTHER, 1000, 10)
    assert (again.id, again.fence, again.later, again.repeated) == ("a", 2, False, False)
    await store.release([a_claim("a", 2)])
    (again,) = await store.claim_due(OTHER, 1000, 10)
    assert again.repeated


async def test_a_job_for_later_goes_on_if_there_is_room(store: Store) -> None:
    await add(store, limited("a", due=900, later=True))
    (job,) = await store.claim_due(NODE, 1000, 10)
    assert await store.commit(Transition(holds=(a_claim("a"),), enter=(job,))) == COMMITTED
    assert await add(store, limited("b", owner="alpha")) == ["b"]
    assert [(job.id, job.owner) for job in await store.jobs_of(run_id(1))] == [("b", None), ("a", "alpha")]


async def test_a_flood_of_one_key_is_nothing_to_others(store: Store) -> None:
    for start in range(0, 2000, 500):
        await add(store, *[limited(f"a{start + n:05}", rank=1) for n in range(500)])
    assert await add(store, limited("b", keys="other", rank=2, owner="alpha")) == []
    assert await claimed(store) == ["a00000"]


async def test_whatever_happens_the_counts_are_right(store: Store, clock: Clock) -> None:
    """Random histories: nobody above a limit, no line before room, and all get through in the end."""
    random = Random(7)
    limits = {"k": 1, "l": 2, "m": 3}
    alive: dict[str, Job] = {}
    running: dict[str, Job] = {}
    number = 0

    async def claim() -> None:
        for job in await store.claim_due(NODE, 1000, random.choice((1, 3, 100))):
            running[job.id] = job
        for key, limit in limits.items():
            holders = [job for job in running.values() if any(slot.key == key for slot in job.slots)]
            assert len(holders) <= limit

    for _ in range(150):
        new = []
        for _ in range(random.randrange(4)):
            number += 1
            keys = random.sample("klm", random.randrange(1, 3))
            slots = tuple(Slot(key, limits[key]) for key in keys)
            born = random.random() < 0.5
            name = f"j{number:04}"
            new.append(a_job(name, 1, slots=slots, rank=random.randrange(50), owner="alpha" if born else None))
        ends = random.sample(sorted(running), min(len(running), random.randrange(4)))
        waiting = sorted(alive.keys() - running.keys())
        drops = random.sample(waiting, min(len(waiting), random.randrange(2)))
        transition = Transition(
            jobs=tuple(new),
            ends=tuple(a_claim(job, running[JobId(job)].fence) for job in ends),
            drop_jobs=tuple(map(JobId, drops)),
        )
        outcome = await store.commit(transition)
        assert isinstance(outcome, Committed)
        for gone in (*ends, *drops):
            alive.pop(gone)
            running.pop(JobId(gone), None)
        for job in new:
            alive[job.id] = job
            if job.owner is not None and job.id not in outcome.parked:
                running[job.id] = replace(job, fence=1)
        await claim()
        if random.random() < 0.2:
            assert await store.stray_rows(10) == []
    for _ in range(400):
        if not alive:
            break
        await claim()
        ends = sorted(running)
        await store_all(store, Transition(ends=tuple(a_claim(job, running[JobId(job)].fence) for job in ends)))
        for gone in ends:
            alive.pop(gone)
            running.pop(JobId(gone))
    assert not alive
    assert await store.stray_rows(10) == []


async def test_a_job_that_has_asked_does_not_ask_again(store: Store) -> None:
    await add(store, limited("a", due=900, later=True))
    (job,) = await store.claim_due(NODE, 1000, 10)
    await store.release([a_claim("a")])
    (job,) = await store.claim_due(NODE, 1000, 10)
    assert (job.later, job.fence) == (True, 2)  # whoever had it first did not come to ask
    await store_all(store, Transition(holds=(a_claim("a", 2),), enter=(job,)))
    (row,) = await store.jobs_of(run_id(1))
    assert (row.later, row.repeated) == (False, False)
    await store.release([a_claim("a", 2)])
    (job,) = await store.claim_due(OTHER, 1000, 10)
    assert (job.later, job.repeated) == (False, True)
    assert await add(store, limited("b")) == ["b"]
    assert await store.stray_rows(10) == []
