"""Lists of runs, and what an auditor asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stepwell.model.event import DEV_ENV
from stepwell.model.job import RunStatus
from stepwell.store.base import RunQuery, Transition
from tests.store.cases import NODE, a_job, a_wait, event_key, moved, run_id, started, step, store_all

if TYPE_CHECKING:
    from stepwell.store.base import Store

Q, R, C, F, X = RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED

RUNS: list[dict[str, Any]] = [
    {"status": Q, "function": "f1", "service": "s1", "event": event_key(1)},
    {"status": R, "function": "f2", "service": "s1", "event": event_key(1)},
    {"status": C, "function": "f1", "service": "s2", "event": event_key(2), "parent": run_id(1)},
    {"status": F, "function": "f3", "service": "s2", "parent": run_id(1)},
    {"status": X, "function": "f1", "service": "s1", "parent": run_id(2)},
    {"status": C, "function": "f2", "service": "s3", "env": "e2", "event": event_key(1), "parent": run_id(1)},
]


async def filled(store: Store) -> None:
    """Some are born in their final status, some get there."""
    for number, fields in enumerate(RUNS, 1):
        if number % 2:
            await store_all(store, Transition(run=started(number, **fields)))
        else:
            await store_all(
                store,
                Transition(run=started(number, **(fields | {"status": Q}))),
                Transition(run=moved(number, 1, "x", **fields)),
            )


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [5, 4, 3, 2, 1]),
        ({"env": "e2"}, [6]),
        ({"env": "e3"}, []),
        ({"functions": ("f1",)}, [5, 3, 1]),
        ({"functions": ("f1", "f3")}, [5, 4, 3, 1]),
        ({"functions": ()}, []),
        ({"services": ("s2",)}, [4, 3]),
        ({"services": ("s1", "s3")}, [5, 2, 1]),
        ({"statuses": (Q,)}, [1]),
        ({"statuses": (C,)}, [3]),
        ({"statuses": (C, F)}, [4, 3]),
        ({"statuses": (Q, R)}, [2, 1]),
        ({"statuses": (R, X)}, [5, 2]),
        ({"statuses": ()}, []),
        ({"event": event_key(1)}, [2, 1]),
        ({"event": event_key(9)}, []),
        ({"parent": run_id(1)}, [4, 3]),
        ({"created_from": 103}, [5, 4, 3]),
        ({"created_until": 103}, [2, 1]),
        ({"created_from": 102, "created_until": 104}, [3, 2]),
        ({"functions": ("f1",), "statuses": (X, C), "services": ("s1",)}, [5]),
        ({"parent": run_id(1), "statuses": (F,), "functions": ("f3",), "event": event_key(2)}, []),
        ({"statuses": (C,), "functions": ("f1",), "parent": run_id(1), "event": event_key(2)}, [3]),
        ({"statuses": (Q, R), "functions": ("f1",)}, [1]),
        ({"statuses": (C, Q, X, C)}, [5, 3, 1]),
        ({"statuses": (C, F, X), "limit": 2, "before": run_id(5)}, [4, 3]),
        ({"functions": ("f3", "f1", "f3"), "limit": 2, "before": run_id(5)}, [4, 3]),
        ({"functions": tuple(f"f{i}" for i in range(100)), "limit": 2, "ascending": True}, [1, 2]),
        ({"created_from": 102, "statuses": (Q, R), "ascending": True}, [2]),
        ({"created_from": 200}, []),
        ({"limit": 2}, [5, 4]),
        ({"limit": 2, "before": run_id(4)}, [3, 2]),
        ({"ascending": True}, [1, 2, 3, 4, 5]),
        ({"ascending": True, "limit": 2, "before": run_id(2)}, [3, 4]),
        ({"functions": ("f1",), "before": run_id(5), "limit": 1}, [3]),
        ({"statuses": (Q, R), "before": run_id(2)}, [1]),
    ],
)
async def test_runs_are_narrowed_by_every_field(store: Store, query: dict[str, Any], expected: list[int]) -> None:
    await filled(store)
    asked = RunQuery(**({"env": DEV_ENV} | query))
    assert [row.id for row in await store.runs(asked)] == [run_id(number) for number in expected]
    if "limit" not in query and "before" not in query:
        assert await store.count_runs(asked) == len(expected)


async def test_a_count_knows_no_pages(store: Store) -> None:
    await filled(store)
    assert await store.count_runs(RunQuery(DEV_ENV, limit=1, before=run_id(3))) == 5


async def test_live_runs_are_those_without_an_end(store: Store) -> None:
    await filled(store)
    assert [row.id for row in await store.live_runs(None, 10)] == [run_id(1), run_id(2)]
    assert [row.id for row in await store.live_runs(run_id(1), 10)] == [run_id(2)]
    assert [row.id for row in await store.live_runs(None, 1)] == [run_id(1)]


async def test_rows_that_belong_to_nothing_are_reported(store: Store) -> None:
    await store.heartbeat(NODE)
    await store_all(
        store,
        Transition(run=started(1), jobs=(a_job("fine", 1, owner="alpha"), a_job("match", None)), waits=(a_wait(1, 1),)),
    )
    assert await store.stray_rows(10) == []
    await store_all(
        store,
        Transition(run=moved(1, 1, "end", status=C)),
        Transition(jobs=(a_job("lost", 2), a_job("ghostly", None, owner="ghost")), waits=(a_wait(3, 1),)),
    )
    assert await store.stray_rows(10) == [
        f"job fine of ended run {run_id(1)}",
        f"job lost of unknown run {run_id(2)}",
        f"wait for step {step(1)} of ended run {run_id(1)}",
        f"wait for step {step(1)} of unknown run {run_id(3)}",
        "job ghostly is owned by the unknown node ghost",
    ]
    assert len(await store.stray_rows(3)) == 3


async def test_jobs_and_waits_of_a_run_come_in_order(store: Store) -> None:
    await store_all(
        store,
        Transition(
            jobs=(a_job("b", due=2), a_job("c", due=1), a_job("a", due=2)),
            waits=(a_wait(1, 3), a_wait(1, 1), a_wait(2, 2)),
        ),
    )
    assert [job.id for job in await store.jobs_of(run_id(1))] == ["c", "a", "b"]
    assert [wait.step for wait in await store.waits_of(run_id(1))] == [step(1), step(3)]


async def test_the_status_names_the_store_and_what_it_promises(store: Store) -> None:
    await filled(store)
    status = await store.status()
    assert status["live_runs"] == 2
    assert {"store", "durability", "jobs", "waits"} <= status.keys()
