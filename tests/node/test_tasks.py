"""Tasks on a real node in virtual time: beginning, ending, losing the worker, keys, later starts, deleting."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.model import journal, message
from stepwell.model.app import AppVersion
from stepwell.model.errors import Conflict, NotFound
from stepwell.model.event import DEV_ENV, INVOKED
from stepwell.model.ids import RunId
from stepwell.model.job import RunStatus
from stepwell.model.payload import Blob, canonical
from stepwell.model.task import TASK_EVENT, TaskRequest, read_request
from stepwell.node.auditor import audit_run
from stepwell.node.node import NodeSettings
from stepwell.store.base import Outcome, Transition
from stepwell.store.memory import MemoryStore
from stepwell.testing.node import InMemoryNode
from stepwell.testing.world import VirtualWorld

APP = "acme/stitch@k3f9"


class Counting:
    """A store that writes down what it is asked."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.commits: list[Transition] = []
        self.reads: list[str] = []

    async def commit(self, transition: Transition) -> Outcome:
        self.commits.append(transition)
        return await self._store.commit(transition)

    def __getattr__(self, name: str) -> Any:
        if name in ("load_run", "run_row", "read_blobs", "read_events", "record", "jobs_of"):
            self.reads.append(name)
        return getattr(self._store, name)


def a_node(**options: Any) -> InMemoryNode:
    node = InMemoryNode(**options)
    node.do(node.node.apps.add(AppVersion(namespace="acme", name="stitch", version="k3f9", checksum="abc")))
    return node


def request(**details: Any) -> TaskRequest:
    return TaskRequest(app=APP, function="run", **{"input": {"text": "hi"}, **details})


def begin(node: InMemoryNode, **options: Any) -> RunId:
    about = options.pop("request", None) or request()
    return node.do(node.node.tasks.begin(DEV_ENV, about, **options))


def returned(node: InMemoryNode, output: Any = None) -> None:
    (call,) = node.worker.calls
    node.answer(call, message.Returned(call.job, canonical({"output": output, "meta": None})))


def check(node: InMemoryNode, run: RunId) -> None:
    found = audit_run(
        node.store.run_rows[run],
        node.journal(run),
        node.store.jobs_by_run.get(run, {}).values(),
        node.store.waits_by_run.get(run, {}).values(),
    )
    assert found == []


def test_a_task_is_two_commits_and_no_read() -> None:
    stores: list[Counting] = []

    def wrap(store: MemoryStore, _: VirtualWorld) -> Any:
        stores.append(Counting(store))
        return stores[0]

    node = a_node(wrap=wrap)
    (store,) = stores
    node.store.listeners.clear()  # it would tell the node of its own commits
    store.commits.clear()
    store.reads.clear()
    run = begin(node)
    assert len(store.commits) == 1
    returned(node, {"text": "ho"})
    assert len(store.commits) == 2
    assert store.reads == []
    assert not store.commits[1].events  # nobody is told but who follows it
    row = node.store.run_rows[run]
    assert (row.status, row.function, row.service) == (RunStatus.COMPLETED, APP, "acme/stitch")
    assert [type(one).__name__ for one in node.journal(run)] == [
        "RunStarted", "CallScheduled", "CallEnded", "RunCompleted"
    ]  # fmt: skip
    assert node.store.job_rows == {}
    check(node, run)


def test_the_call_has_the_whole_request() -> None:
    node = a_node()
    asked = request(workers=("w1",), webhook="https://a.example", setup={"model": "small"}, metadata={"a": 1})
    run = begin(node, request=asked)
    (call,) = node.worker.calls
    assert (call.run, call.live, call.max_attempts, call.function.slug) == (run, True, 1, APP)
    assert read_request(call.events[0], APP) == asked


def test_a_large_input_is_kept_apart() -> None:
    node = a_node()
    asked = request(input="x" * 100_000)
    run = begin(node, request=asked)
    start = node.journal(run)[0]
    assert isinstance(start, journal.RunStarted)
    assert (type(start.events[0]), start.event_name) == (Blob, TASK_EVENT)
    (call,) = node.worker.calls
    assert read_request(call.events[0], APP) == asked


def test_a_key_makes_one_task() -> None:
    node = a_node()
    first = begin(node, key="k")
    assert begin(node, key="k") == first
    assert begin(node, key="other") != first
    assert len(node.worker.calls) == 2


def test_a_task_for_later_is_called_then() -> None:
    node = a_node()
    run = begin(node, run_at=node.now() + 60_000)
    assert node.worker.calls == []
    node.pass_time(seconds=59)
    assert node.worker.calls == []
    node.pass_time(seconds=2)
    returned(node)
    assert node.store.run_rows[run].status is RunStatus.COMPLETED


def test_an_error_of_the_app_fails_the_task_at_once() -> None:
    node = a_node()
    run = begin(node)
    (call,) = node.worker.calls
    node.answer(call, message.Raised(call.job, canonical({"name": "ValueError", "message": "no"})))
    assert node.store.run_rows[run].status is RunStatus.FAILED
    check(node, run)


def test_a_lost_worker_costs_no_attempt_until_there_were_too_many() -> None:
    node = a_node()
    run = begin(node)
    for _ in range(5):
        assert node.store.run_rows[run].status is not RunStatus.FAILED
        (call,) = node.worker.calls
        node.answer(call, message.CallLost(call.job, canonical({"name": "WorkerLost", "message": "killed"})))
        node.pass_time(minutes=5)
    assert node.worker.calls == []
    assert node.store.run_rows[run].status is RunStatus.FAILED
    check(node, run)


def test_a_task_of_a_lost_node_is_called_again() -> None:
    node = a_node()
    run = begin(node)
    other = InMemoryNode(name=node.node.name, epoch=2, store=node.store, scheduler=node.scheduler)
    other.pass_time(minutes=1)
    (call,) = other.worker.calls
    assert (call.run, call.attempt) == (run, 0)
    returned(other)
    assert node.store.run_rows[run].status is RunStatus.COMPLETED
    check(node, run)


def test_unknown_versions_and_functions_of_others_are_refused() -> None:
    node = a_node()
    with pytest.raises(NotFound, match="stepwell app deploy"):
        begin(node, request=TaskRequest(app="acme/stitch@zzzz", function="run"))
    node.do(node.node.apps.remove(DEV_ENV, "acme/stitch"))
    with pytest.raises(NotFound):
        begin(node)


def test_a_task_is_deleted_once_it_has_ended() -> None:
    node = a_node()
    run = begin(node)
    with pytest.raises(Conflict, match="has not ended"):
        node.do(node.node.tasks.delete(DEV_ENV, run))
    with pytest.raises(NotFound):
        node.do(node.node.tasks.delete("other", run))
    returned(node)
    node.do(node.node.tasks.delete(DEV_ENV, run))
    assert run not in node.store.run_rows
    with pytest.raises(NotFound, match="no task"):
        node.do(node.node.tasks.delete(DEV_ENV, run))


def test_a_task_that_waits_for_its_time_is_cancelled() -> None:
    node = a_node()
    run = begin(node, run_at=node.now() + 60_000)
    assert node.do(node.node.tasks.cancel(DEV_ENV, run)) is True
    assert node.store.run_rows[run].status is RunStatus.CANCELLED
    assert node.do(node.node.tasks.cancel(DEV_ENV, run)) is False
    check(node, run)


# cancelling


def cancelling(node: InMemoryNode) -> RunId:
    """A task whose call has been told to end."""
    run = begin(node)
    assert node.do(node.node.tasks.cancel(DEV_ENV, run)) is True
    assert node.store.run_rows[run].status is RunStatus.RUNNING
    check(node, run)
    return run


def test_cancelling_tells_the_call_and_waits_for_it() -> None:
    node = a_node()
    run = begin(node)
    (call,) = node.worker.calls
    assert node.do(node.node.tasks.cancel(DEV_ENV, run)) is True
    assert node.worker.stopped == [(call.job, "cancelled")]
    node.pass_time(seconds=3)
    node.answer(call, message.Returned(call.job, b'"half done"'))
    row = node.store.run_rows[run]
    assert (row.status, row.output) == (RunStatus.CANCELLED, None)
    assert [type(one).__name__ for one in node.journal(run)][2:] == ["RunCancelling", "CallEnded", "RunCancelled"]
    assert node.store.job_rows == {}
    check(node, run)


def test_a_call_that_never_ends_is_given_up_after_its_grace() -> None:
    node = a_node()
    run = cancelling(node)
    node.pass_time(seconds=11)
    assert node.store.run_rows[run].status is RunStatus.RUNNING
    node.pass_time(seconds=2)
    assert node.store.run_rows[run].status is RunStatus.CANCELLED
    assert [reason for _, reason in node.worker.stopped] == ["cancelled", "cancelled"]  # the second time it is meant
    check(node, run)


def test_cancelling_twice_is_the_same_and_force_does_not_wait() -> None:
    node = a_node()
    run = cancelling(node)
    before = list(node.journal(run))
    assert node.do(node.node.tasks.cancel(DEV_ENV, run)) is True
    assert node.do(node.node.cancel(run, "an operator")) is False
    assert node.journal(run) == before
    assert node.do(node.node.tasks.cancel(DEV_ENV, run, grace_ms=0)) is True
    assert node.store.run_rows[run].status is RunStatus.CANCELLED


def test_after_a_kill_the_call_is_not_made_again() -> None:
    """The server is killed while a call is to end: whoever goes on cancels the task, and calls nobody."""
    node = a_node()
    run = cancelling(node)
    other = InMemoryNode(name=node.node.name, epoch=2, store=node.store, scheduler=node.scheduler)
    other.pass_time(seconds=1)
    assert other.worker.calls == []
    assert other.store.run_rows[run].status is RunStatus.CANCELLED
    check(other, run)


def test_another_node_cancels_and_the_call_is_told() -> None:
    settings = NodeSettings(search_ms=1_000)
    node = a_node(name="a", settings=settings)
    other = InMemoryNode(name="b", store=node.store, scheduler=node.scheduler, settings=settings)
    run = begin(node)
    (call,) = node.worker.calls
    assert other.do(other.node.tasks.cancel(DEV_ENV, run)) is True
    node.pass_time(seconds=1)
    assert node.worker.stopped == [(call.job, "cancelled")]
    node.answer(call, message.Raised(call.job, b"{}"))
    assert node.store.run_rows[run].status is RunStatus.CANCELLED
    check(node, run)


def test_a_call_that_nobody_told_to_end_is_told_when_it_reports() -> None:
    settings = NodeSettings(search_ms=1_000)
    node = a_node(name="a", settings=settings)
    other = InMemoryNode(name="b", store=node.store, scheduler=node.scheduler, settings=settings)
    run = begin(node)
    (call,) = node.worker.calls
    node.store.listeners.clear()  # every hint gets lost
    assert other.do(other.node.tasks.cancel(DEV_ENV, run)) is True
    assert node.worker.stopped == []
    for number in (1, 2):
        node.answer(call, message.Reported(call.job, (), number))
        assert node.worker.stopped == [(call.job, "cancelled")]  # once, for it has time to end
    assert node.worker.acknowledged == []
    check(node, run)


# apps that functions call


def test_a_function_calls_an_app_by_invoking_it() -> None:
    node = a_node()
    about = {"fn_id": APP, "correlation_id": "01J00000000000000000000000.s"}
    node.send(INVOKED, {"text": "hi", "_inngest": about})
    (call,) = node.worker.calls
    assert (call.function.slug, call.live) == (APP, True)
    assert read_request(call.events[0], APP) == TaskRequest(app=APP, function="", input={"text": "hi"})
    node.do(node.node.tasks.cancel(DEV_ENV, call.run))
    assert node.store.run_rows[call.run].status is RunStatus.RUNNING  # it has time to end, as any call of an app
    node.answer(call, message.Returned(call.job, b'{"output":1}'))
    assert node.store.run_rows[call.run].status is RunStatus.CANCELLED


# several nodes


def two_nodes(here: set[str], there: set[str]) -> tuple[InMemoryNode, InMemoryNode]:
    """Nodes that have the packages of these checksums."""
    settings = NodeSettings(search_ms=1_000)
    first = InMemoryNode(name="a", settings=settings, connected=())
    second = InMemoryNode(name="b", store=first.store, scheduler=first.scheduler, settings=settings, connected=())
    first.node.call_apps(here.__contains__)
    second.node.call_apps(there.__contains__)
    first.do(first.node.apps.add(AppVersion(namespace="acme", name="stitch", version="k3f9", checksum="abc")))
    return first, second


def test_a_call_goes_to_a_node_that_has_the_files_of_the_app() -> None:
    first, second = two_nodes({"abc"}, set())
    run = begin(second)
    first.pass_time(milliseconds=50)
    assert ([one.run for one in first.worker.calls], second.worker.calls) == ([run], [])
    returned(first)
    assert first.store.run_rows[run].status is RunStatus.COMPLETED
    mine = begin(first)
    assert [one.run for one in first.worker.calls] == [mine]
    first.node.stop()
    second.pass_time(minutes=2)
    assert second.worker.calls == []  # it waits for a node that can call it


def test_a_call_waits_until_a_node_has_the_files() -> None:
    there: set[str] = set()
    first, second = two_nodes(set(), there)
    run = begin(first)
    first.pass_time(seconds=30)
    assert first.worker.calls == second.worker.calls == []
    assert first.store.run_rows[run].status is RunStatus.QUEUED
    there.add("abc")
    first.pass_time(seconds=6)
    assert [one.run for one in second.worker.calls] == [run]
    check(second, run)


def test_a_call_of_a_lost_node_is_made_by_another_that_has_the_files() -> None:
    first, second = two_nodes({"abc"}, {"abc"})
    run = begin(first)
    assert [one.run for one in first.worker.calls] == [run]
    first.node.stop()
    second.pass_time(minutes=1)
    assert [one.run for one in second.worker.calls] == [run]
    returned(second)
    check(second, run)


def test_a_call_of_a_version_that_was_removed_is_made_to_fail() -> None:
    first, second = two_nodes(set(), set())
    run = begin(first)
    first.do(first.node.apps.remove(DEV_ENV, "acme/stitch"))
    first.pass_time(seconds=10)
    calls = [*first.worker.calls, *second.worker.calls]
    assert [one.run for one in calls] == [run]  # whose performer says that the files are gone
