"""Runs that take too long to start, or to end, are cancelled."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.model import journal, message
from stepwell.model.function import Concurrency, Service, Transport
from stepwell.model.job import RunStatus
from stepwell.model.op import Sleep
from stepwell.node.auditor import audit_run
from stepwell.testing.node import InMemoryNode
from tests.node.cases import a, done, reply, report, service

SECOND = 1_000


def timed(transport: Transport = Transport.HTTP, **options: Any) -> Service:
    return service(transport, **options)


def statuses(node: InMemoryNode) -> list[RunStatus]:
    return sorted(row.status for row in node.runs())


def sound(node: InMemoryNode) -> bool:
    store = node.store
    return not any(
        audit_run(row, store.journals[run], store.jobs_by_run.get(run, {}).values(), ())
        for run, row in store.run_rows.items()
    )


def test_a_run_that_does_not_start_in_time_is_cancelled() -> None:
    node = InMemoryNode(timed(concurrency=(Concurrency(1),), start_within_ms=10 * SECOND))
    node.send("go/f")
    node.send("go/f")
    assert sound(node)
    node.pass_time(seconds=11)
    assert statuses(node) == [RunStatus.CANCELLED, RunStatus.RUNNING]
    assert sound(node)
    (ended,) = (
        entry for run in node.runs() for entry in node.journal(run.id) if isinstance(entry, journal.RunCancelled)
    )
    assert ended.reason == "it did not start within 10000 ms, its limit"
    (call,) = node.worker.calls
    node.answer(call, message.Returned(call.job, b"1"))
    assert statuses(node) == [RunStatus.CANCELLED, RunStatus.COMPLETED]
    assert node.store.job_rows == {}


def test_a_call_that_takes_long_has_started() -> None:
    node = InMemoryNode(timed(start_within_ms=SECOND))
    node.send("go/f")
    node.pass_time(seconds=60)
    assert statuses(node) == [RunStatus.RUNNING]


@pytest.mark.parametrize("transport", [Transport.HTTP, Transport.SOCKET])
def test_a_run_that_does_not_end_in_time_is_cancelled_while_it_sleeps(transport: Transport) -> None:
    node = InMemoryNode(timed(transport, finish_within_ms=10 * SECOND))
    node.send("go/f")
    (call,) = node.worker.calls
    sleep = Sleep(step=a("s"), name="s", for_ms=3_600_000)
    if transport is Transport.HTTP:
        reply(node, call, sleep)
    else:
        report(node, call, 1, sleep)
    node.pass_time(seconds=9)
    assert statuses(node) == [RunStatus.RUNNING]
    assert sound(node)
    node.pass_time(seconds=2)
    assert statuses(node) == [RunStatus.CANCELLED]
    assert node.store.job_rows == {}


def test_a_call_under_way_is_stopped_at_the_end_of_the_time() -> None:
    node = InMemoryNode(timed(finish_within_ms=10 * SECOND))
    node.send("go/f")
    (call,) = node.worker.calls
    node.pass_time(seconds=11)
    assert statuses(node) == [RunStatus.CANCELLED]
    assert node.worker.stopped == [(call.job, "cancelled")]
    node.answer(call, message.Returned(call.job, b"1"))
    assert statuses(node) == [RunStatus.CANCELLED]


def test_the_time_begins_with_the_first_call_and_not_with_the_event() -> None:
    node = InMemoryNode(timed(concurrency=(Concurrency(1),), finish_within_ms=10 * SECOND))
    node.send("go/f")
    node.pass_time(seconds=8)
    node.send("go/f")
    node.pass_time(seconds=8)
    assert statuses(node) == [RunStatus.CANCELLED, RunStatus.RUNNING]


def test_who_is_in_time_leaves_no_timer_behind() -> None:
    node = InMemoryNode(timed(start_within_ms=SECOND, finish_within_ms=10 * SECOND))
    node.send("go/f")
    (call,) = node.worker.calls
    reply(node, call, done("one"))
    (call,) = node.worker.calls
    assert sum(isinstance(entry, journal.RunBegan) for run in node.runs() for entry in node.journal(run.id)) == 1
    node.answer(call, message.Returned(call.job, b"1"))
    assert statuses(node) == [RunStatus.COMPLETED]
    assert node.store.job_rows == {}
