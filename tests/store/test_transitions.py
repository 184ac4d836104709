"""A transition is applied whole or refused whole."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import pytest

from stepwell.model.event import DEV_ENV
from stepwell.model.ids import JobId
from stepwell.model.job import Claim, RunStatus
from stepwell.model.journal import Noted, StepCompleted
from stepwell.model.payload import Blob, blob_of
from stepwell.store.base import COMMITTED, ClaimLost, EventQuery, RunMoved, RunQuery, RunWrite, StoredRun, Transition
from tests.store.cases import (
    NODE,
    a_claim,
    a_job,
    a_row,
    a_wait,
    an_event,
    contents,
    event_key,
    moved,
    run_id,
    started,
    step,
    store_all,
)

if TYPE_CHECKING:
    from stepwell.store.base import Store


async def test_a_run_is_read_as_it_was_written(store: Store) -> None:
    first, second = started(1), moved(1, 1, "a", "b", status=RunStatus.QUEUED, output=b'"x"')
    await store_all(store, Transition(run=first), Transition(run=second))

    assert await store.load_run(run_id(1)) == StoredRun(second.row, first.entries + second.entries)
    assert await store.load_run(run_id(1), after_seq=1) == StoredRun(second.row, second.entries)
    assert await store.load_run(run_id(1), after_seq=3) == StoredRun(second.row, ())
    assert await store.run_row(run_id(1)) == second.row
    assert await store.load_run(run_id(2)) is None
    assert await store.run_row(run_id(2)) is None


async def test_an_entry_keeps_inline_payloads_and_references(store: Store) -> None:
    done = StepCompleted(step=step(1), output=Blob("ab" * 32, 70_000), input=b'{"a":1}', at=5, duration_ms=1.5)
    await store_all(store, Transition(run=started(1, done)))
    stored = await store.load_run(run_id(1))
    assert stored is not None
    assert stored.entries[1] == done


@pytest.mark.parametrize("expected", [0, 1, 3])
async def test_a_decision_about_another_state_of_the_run_is_refused(store: Store, expected: int) -> None:
    await store_all(store, Transition(run=started(1)), Transition(run=moved(1, 1, "a")))
    before = await contents(store, [run_id(1)])
    late = started(1) if expected == 0 else moved(1, expected, "late")

    outcome = await store.commit(Transition(run=late, jobs=(a_job("j"),), waits=(a_wait(),), events=(an_event(),)))

    assert outcome == RunMoved(run_id(1))
    assert await contents(store, [run_id(1)]) == before


async def test_a_run_that_is_not_there_cannot_move(store: Store) -> None:
    assert await store.commit(Transition(run=moved(1, 4, "a"))) == RunMoved(run_id(1))
    assert await store.load_run(run_id(1)) is None


async def test_a_claim_ends_its_job_once(store: Store) -> None:
    await store_all(store, Transition(jobs=(a_job("j", owner="alpha"),)))
    assert await store.commit(Transition(ends=(a_claim("j"),))) == COMMITTED
    assert await store.jobs_of(run_id(1)) == []
    assert await store.commit(Transition(ends=(a_claim("j"),))) == ClaimLost(JobId("j"))


async def test_a_hold_needs_the_claim_and_keeps_it(store: Store) -> None:
    await store_all(store, Transition(jobs=(a_job("j", owner="alpha"),)))
    assert await store.commit(Transition(holds=(a_claim("j"),), events=(an_event(1),))) == COMMITTED
    assert [job.id for job in await store.jobs_of(run_id(1))] == ["j"]
    assert await store.commit(Transition(holds=(a_claim("j", 2),), events=(an_event(2),))) == ClaimLost(JobId("j"))
    assert [event.key for event in await store.events(EventQuery(DEV_ENV))] == [event_key(1)]


@pytest.mark.parametrize("claim", [a_claim("free", 0), a_claim("taken", 2), a_claim("taken", 0), a_claim("none")])
@pytest.mark.parametrize("how", ["ends", "holds"])
async def test_only_a_current_claim_counts(store: Store, claim: Claim, how: str) -> None:
    await store_all(store, Transition(run=started(1), jobs=(a_job("free"), a_job("taken", owner="alpha"))))
    before = await contents(store, [run_id(1)])
    claims = {how: (claim,)}
    attempt = Transition(run=moved(1, 1, "x"), drop_jobs=(JobId("free"),), jobs=(a_job("new"),), **claims)  # type: ignore[arg-type]
    assert await store.commit(attempt) == ClaimLost(claim.job)
    assert await contents(store, [run_id(1)]) == before


async def test_a_lost_claim_is_named_before_a_moved_run(store: Store) -> None:
    assert await store.commit(Transition(run=moved(1, 4, "a"), ends=(a_claim("j"),))) == ClaimLost(JobId("j"))


async def test_a_job_with_an_owner_is_born_claimed(store: Store) -> None:
    await store.heartbeat(NODE)
    await store_all(store, Transition(jobs=(a_job("mine", owner="alpha", due=0), a_job("free", due=0, fence=9))))
    assert await store.jobs_of(run_id(1)) == [a_job("free", due=0), a_job("mine", owner="alpha", due=0, fence=1)]
    assert [job.id for job in await store.claim_due(NODE, 1000, 10)] == ["free"]
    assert await store.commit(Transition(ends=(a_claim("mine"), a_claim("free")))) == COMMITTED


async def test_jobs_and_waits_are_dropped_whoever_has_them(store: Store) -> None:
    await store_all(
        store,
        Transition(jobs=(a_job("a", owner="alpha"), a_job("b"), a_job("c")), waits=(a_wait(1, 1), a_wait(1, 2))),
        Transition(
            drop_jobs=(JobId("a"), JobId("b"), JobId("nothing")),
            drop_waits=((run_id(1), step(1)), (run_id(9), step(9))),
        ),
    )
    assert [job.id for job in await store.jobs_of(run_id(1))] == ["c"]
    assert await store.waits_of(run_id(1)) == [a_wait(1, 2)]


async def test_dropping_all_of_a_run_leaves_what_the_same_transition_adds_and_other_runs(store: Store) -> None:
    await store_all(
        store,
        Transition(
            jobs=(a_job("a", owner="alpha"), a_job("b"), a_job("other", 2), a_job("nobody", None)),
            waits=(a_wait(1, 1), a_wait(2, 1)),
        ),
        Transition(drop_all_of=run_id(1), jobs=(a_job("last"),)),
    )
    assert await store.jobs_of(run_id(1)) == [a_job("last")]
    assert await store.jobs_of(run_id(2)) == [a_job("other", 2)]
    assert await store.waits_of(run_id(1)) == []
    assert await store.waits_of(run_id(2)) == [a_wait(2, 1)]
    assert await store.commit(Transition(ends=(a_claim("a"),))) == ClaimLost(JobId("a"))


async def test_a_wait_can_be_replaced_in_one_transition(store: Store) -> None:
    await store_all(
        store,
        Transition(waits=(a_wait(1, 1, until=1),)),
        Transition(drop_waits=((run_id(1), step(1)),), waits=(a_wait(1, 1, until=2),)),
        Transition(drop_all_of=run_id(1), waits=(a_wait(1, 1, until=3),)),
    )
    assert await store.waits_of(run_id(1)) == [a_wait(1, 1, until=3)]


@pytest.mark.parametrize(
    "twice",
    [
        Transition(jobs=(a_job("j"),)),
        Transition(waits=(a_wait(),)),
        Transition(events=(an_event(),)),
        Transition(run=RunWrite(a_row(2, 5), 0, (Noted(kind="log", text="a"),))),
        Transition(run=RunWrite(a_row(3, 0), 0, ())),
    ],
    ids=["job", "wait", "event", "wrong seq", "no entries"],
)
async def test_a_bug_of_one_caller_hurts_nobody_else(store: Store, twice: Transition) -> None:
    """Ids used twice, numbers that do not add up: an assertion for who did it, and nothing of it is stored."""
    await store_all(store, Transition(jobs=(a_job("j"),), waits=(a_wait(),), events=(an_event(),)))
    results = await asyncio.gather(
        store.commit(Transition(run=started(10))),
        store.commit(twice),
        store.commit(Transition(run=started(11))),
        return_exceptions=True,
    )
    assert isinstance(results[1], AssertionError)
    assert [results[0], results[2]] == [COMMITTED, COMMITTED]
    assert [row.id for row in await store.runs(RunQuery(DEV_ENV))] == [run_id(11), run_id(10)]


async def test_of_many_who_want_to_move_a_run_one_does(store: Store) -> None:
    await store_all(store, Transition(run=started(1)))
    tries = [Transition(run=moved(1, 1, f"by {i}"), jobs=(a_job(f"of {i}"),)) for i in range(50)]
    outcomes = await asyncio.gather(*map(store.commit, tries))
    (winner,) = [i for i, outcome in enumerate(outcomes) if outcome == COMMITTED]
    assert set(outcomes) == {COMMITTED, RunMoved(run_id(1))}
    stored = await store.load_run(run_id(1))
    assert stored is not None
    assert stored.entries[1:] == (Noted(kind="log", text=f"by {winner}", at=200),)
    assert [job.id for job in await store.jobs_of(run_id(1))] == [f"of {winner}"]


async def test_transitions_of_one_group_see_one_another(store: Store) -> None:
    """Sent together, they land in one transaction; each must count on those before it."""
    wanted = [
        Transition(run=started(1), jobs=(a_job("a", owner="alpha"), a_job("b", owner="alpha")), waits=(a_wait(),)),
        Transition(run=moved(1, 1, "x"), ends=(a_claim("a"),), jobs=(a_job("c", owner="alpha"),)),
        Transition(holds=(a_claim("b"),), drop_waits=((run_id(1), step(1)),)),
        Transition(ends=(a_claim("a"),)),
        Transition(
            run=moved(1, 2, "end", status=RunStatus.COMPLETED, ended_at=9), ends=(a_claim("c"),), drop_all_of=run_id(1)
        ),
        Transition(ends=(a_claim("b"),)),
        Transition(run=moved(1, 2, "late")),
    ]
    outcomes = await asyncio.gather(*map(store.commit, wanted))
    assert outcomes == [
        *[COMMITTED] * 3,
        ClaimLost(JobId("a")),
        COMMITTED,
        ClaimLost(JobId("b")),
        RunMoved(run_id(1)),
    ]
    assert await store.jobs_of(run_id(1)) == []
    assert await store.waits_of(run_id(1)) == []
    assert await store.live_runs(None, 10) == []
    assert (await store.runs(RunQuery(DEV_ENV)))[0].status is RunStatus.COMPLETED


async def test_two_hundred_callers_lose_nothing(store: Store) -> None:
    async def live(number: int) -> None:
        born = a_job(f"{number}:0", number, owner="alpha")
        assert await store.commit(Transition(run=started(number), jobs=(born,))) == COMMITTED
        for i in range(5):
            following = a_job(f"{number}:{i + 1}", number, owner="alpha")
            step_done = Transition(
                run=moved(number, 1 + i, f"{i}"), ends=(a_claim(f"{number}:{i}"),), jobs=(following,)
            )
            assert await store.commit(step_done) == COMMITTED
            assert await store.commit(step_done) != COMMITTED

    await asyncio.gather(*map(live, range(200)))
    for number in range(200):
        stored = await store.load_run(run_id(number))
        assert stored is not None
        assert [entry.text for entry in stored.entries[1:]] == ["0", "1", "2", "3", "4"]  # type: ignore[union-attr]
        assert [job.id for job in await store.jobs_of(run_id(number))] == [f"{number}:5"]


@pytest.mark.parametrize("size", [0, 1, 40_000, 256 * 1024, 256 * 1024 + 1, 3_000_000])
async def test_a_text_of_any_size_is_kept_once(store: Store, size: int) -> None:
    text = bytes(size)
    blob = blob_of(text)
    await store_all(store, Transition(blobs=((blob, text),)), Transition(blobs=((blob, text), (blob_of(b"x"), b"x"))))
    assert await store.read_blobs([blob_of(b"x"), blob, blob]) == [b"x", text, text]


async def test_a_text_that_is_not_there_is_a_key_error(store: Store) -> None:
    with pytest.raises(KeyError):
        await store.read_blobs([Blob(hashlib.sha256(b"?").hexdigest(), 1)])


async def test_a_refused_transition_leaves_no_text_to_read(store: Store) -> None:
    blob = blob_of(b"secret")
    await store.commit(Transition(ends=(a_claim("none"),), blobs=((blob, b"secret"),)))
    with pytest.raises(KeyError):
        await store.read_blobs([blob])


async def test_an_event_with_a_body_of_a_megabyte_is_read_as_it_was(store: Store) -> None:
    large = an_event(1, body=b'"' + b"x" * (1 << 20) + b'"')
    await store_all(store, Transition(events=(large,)))
    assert await store.read_events([large.key]) == [large]


async def test_an_empty_transition_is_fine(store: Store) -> None:
    assert await store.commit(Transition()) == COMMITTED
