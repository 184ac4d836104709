"""Small rows for the tests of stores, and a look at all a store has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell.model.event import DEV_ENV, Event
from stepwell.model.ids import EventKey, JobId, RunId, StepId, ulid
from stepwell.model.job import Claim, Job, JobKind, RunRow, RunStatus, Wait
from stepwell.model.journal import Noted, RunStarted
from stepwell.store.base import COMMITTED, EventQuery, Node, RunQuery, RunWrite, Transition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.model.ids import Instant
    from stepwell.model.journal import Entry
    from stepwell.store.base import Store

NODE = Node("alpha", 1, 1_000_000)
OTHER = Node("beta", 1, 1_000_000)


class Clock:
    def __init__(self, at: Instant = 1000) -> None:
        self.at = at

    def now(self) -> Instant:
        return self.at


def run_id(number: int) -> RunId:
    return RunId(ulid(number, number))


def event_key(number: int) -> EventKey:
    return EventKey(ulid(number, 7))


def step(number: int) -> StepId:
    return StepId(f"{number:040x}")


def a_row(number: int = 1, seq: int = 1, **fields: Any) -> RunRow:
    values: dict[str, Any] = {
        "id": run_id(number),
        "env": DEV_ENV,
        "shard": 3,
        "function": "shop-order",
        "service": "shop",
        "status": RunStatus.RUNNING,
        "seq": seq,
        "created_at": 100 + number,
    }
    return RunRow(**(values | fields))


def started(number: int = 1, *entries: Entry, **fields: Any) -> RunWrite:
    """The first entries of a run."""
    first = RunStarted(function="shop-order", service="shop", events=(b'{"name":"order/placed"}',), at=100)
    return RunWrite(a_row(number, 1 + len(entries), **fields), 0, (first, *entries))


def moved(number: int, expected_seq: int, *texts: str, **fields: Any) -> RunWrite:
    """Further entries, one for each text."""
    entries = tuple(Noted(kind="log", text=text, at=200) for text in texts)
    return RunWrite(a_row(number, expected_seq + len(entries), **fields), expected_seq, entries)


def a_job(name: str, number: int | None = 1, due: Instant = 500, **fields: Any) -> Job:
    run = None if number is None else run_id(number)
    values: dict[str, Any] = {"id": JobId(name), "kind": JobKind.CALL, "due": due, "run": run, "shard": 3}
    return Job(**(values | fields))


def a_claim(name: str, fence: int = 1) -> Claim:
    return Claim(JobId(name), fence)


def a_wait(number: int = 1, at: int = 1, event: str = "order/paid", **fields: Any) -> Wait:
    values: dict[str, Any] = {"run": run_id(number), "step": step(at), "event": event, "until": 9000}
    return Wait(**(values | fields))


def an_event(number: int = 1, name: str = "order/placed", **fields: Any) -> Event:
    values: dict[str, Any] = {
        "key": event_key(number),
        "internal_id": f"internal-{number}",
        "id": f"id-{number}",
        "name": name,
        "ts": number,
        "received_at": number,
        "body": b'{"n":%d}' % number,
    }
    return Event(**(values | fields))


async def store_all(store: Store, *transitions: Transition) -> None:
    for transition in transitions:
        assert await store.commit(transition) == COMMITTED


async def contents(store: Store, runs: Sequence[RunId], envs: Sequence[str] = (DEV_ENV,)) -> dict[str, Any]:
    """Everything the interface shows: two stores with the same history show the same."""
    seen: dict[str, Any] = {}
    for run in runs:
        seen[run] = [
            await store.run_row(run),
            await store.load_run(run),
            await store.jobs_of(run),
            await store.waits_of(run),
        ]
    for env in envs:
        seen[f"runs of {env}"] = await store.runs(RunQuery(env, limit=1000))
        seen[f"count of {env}"] = await store.count_runs(RunQuery(env))
        seen[f"records of {env}"] = await store.records(env, "thing")
        seen[f"events of {env}"] = await store.events(EventQuery(env, limit=1000))
    seen["live"] = await store.live_runs(None, 1000)
    seen["due"] = await store.next_due()
    seen["services"] = await store.services()
    seen["credentials"] = await store.credentials()
    seen["strays"] = await store.stray_rows(1000)
    return seen
