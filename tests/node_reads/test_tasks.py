"""Tasks as they are shown: status, phases over crashes, results, logs, lists."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.engine.span import InFlight
from stepwell.model import message
from stepwell.model.errors import InvalidInput
from stepwell.model.event import DEV_ENV
from stepwell.model.ids import RunId
from stepwell.model.job import Claim
from stepwell.model.message import CallInfo, LogLine
from stepwell.model.payload import canonical
from stepwell.model.task import TaskPhase, TaskRequest, TaskStatus, Usage, usage_of
from stepwell.node.reads.runs import run_trace
from stepwell.node.reads.tasks import Task, TaskFilter, TaskLog, TaskPage, task_of, tasks_of
from stepwell.node.reads.trace_text import render
from stepwell.testing.node import InMemoryNode
from tests.node.test_apps import version
from tests.node.test_tasks import APP, a_node, begin, request, returned

S = TaskStatus


def shown(node: InMemoryNode, run: RunId, *flights: InFlight) -> Task:
    task = node.do(task_of(node.store, DEV_ENV, run, node.now(), lambda _: flights))
    assert task is not None
    assert task.phases[-1].status is task.status
    return task


def status_at_once(node: InMemoryNode, run: RunId) -> TaskStatus:
    """Before the node does anything else."""
    reading = task_of(node.store, DEV_ENV, run, node.now())
    with pytest.raises(StopIteration) as ended:
        reading.send(None)
    task: Task = ended.value.value
    return task.status


def open_session(node: InMemoryNode) -> str:
    _, app = node.do(node.node.apps.find(DEV_ENV, APP))
    return node.node.sessions.open(app).id


def statuses(task: Task) -> list[str]:
    return [one.status.name for one in task.phases]


def phases(node: InMemoryNode, *steps: tuple[TaskStatus, int]) -> CallInfo:
    """Phases that began so many ms ago."""
    found = tuple(TaskPhase(status, node.now() - ago) for status, ago in steps)
    return CallInfo(started_at=found[0].at, worker="w1", phases=found)


COLD = (
    (S.QUEUED, 900), (S.DISPATCHED, 800), (S.PREPARING, 800), (S.SERVING, 600), (S.SETTING_UP, 500), (S.RUNNING, 100)
)  # fmt: skip


def answer(node: InMemoryNode, output: Any = None, meta: Any = None, info: CallInfo | None = None) -> None:
    (call,) = node.worker.calls
    text = canonical({"output": output, "meta": meta})
    node.answer(call, message.Returned(call.job, text, info=info or CallInfo()))


def test_a_task_from_its_beginning_to_its_end() -> None:
    node = a_node()
    session = open_session(node)
    run = begin(node, request=request(session=session, opens=True))
    task = shown(node, run)
    assert (task.status, statuses(task)) == (S.QUEUED, ["RECEIVED", "QUEUED"])
    assert (task.request.input, task.request.session, task.output) == ({"text": "hi"}, session, None)
    node.pass_time(seconds=1)
    (call,) = node.worker.calls
    flight = InFlight(call.job, node.now(), "w1", (), phases(node, *COLD[:3]).phases)
    assert shown(node, run, flight).status is S.PREPARING
    assert shown(node, run, flight).worker == "w1"
    answer(node, {"text": "ho"}, {"outputs": []}, phases(node, *COLD))
    task = shown(node, run)
    assert statuses(task) == [
        "RECEIVED", "QUEUED", "DISPATCHED", "PREPARING", "SERVING", "SETTING_UP", "RUNNING", "COMPLETED"
    ]  # fmt: skip
    assert (task.output, task.meta, task.error, task.worker) == (b'{"text":"ho"}', {"outputs": []}, "", "w1")
    assert task.updated_at == task.phases[-1].at == node.now()


def test_after_a_lost_worker_the_status_does_not_go_back() -> None:
    node = a_node()
    run = begin(node)
    node.pass_time(seconds=1)
    (call,) = node.worker.calls
    error = canonical({"name": "WorkerLost", "message": "killed"})
    node.answer(call, message.CallLost(call.job, error, info=phases(node, *COLD)))
    assert shown(node, run).status is S.RUNNING
    node.pass_time(seconds=5)
    (call,) = node.worker.calls
    flight = InFlight(call.job, node.now(), "w2", (), phases(node, *COLD[:4]).phases)
    before = statuses(shown(node, run))
    assert statuses(shown(node, run, flight)) == before
    answer(node, 1, None, phases(node, *COLD, (S.UPLOADING, 10)))
    assert statuses(shown(node, run)) == [*before, "UPLOADING", "COMPLETED"]


def test_a_call_that_a_lost_server_made_is_taken_for_running() -> None:
    node = a_node()
    run = begin(node)
    (job,) = node.do(node.store.jobs_of(run))
    assert (job.owner, job.fence) == (node.node.name, 1)
    assert shown(node, run).status is S.QUEUED
    node.store.give_back([Claim(job.id, job.fence)])
    assert status_at_once(node, run) is S.RUNNING, "nobody makes another call yet"
    node.pass_time(seconds=1)
    assert statuses(shown(node, run)) == ["RECEIVED", "QUEUED", "RUNNING"], "and so it is when another call is made"


def test_a_task_for_later_is_received_until_then() -> None:
    node = a_node()
    at = node.now() + 60_000
    run = begin(node, run_at=at)
    task = shown(node, run)
    assert (task.status, task.run_at) == (S.RECEIVED, at)
    node.pass_time(minutes=1)
    assert statuses(shown(node, run)) == ["RECEIVED", "QUEUED"]


def test_a_failed_task_says_why() -> None:
    node = a_node()
    run = begin(node)
    (call,) = node.worker.calls
    node.answer(call, message.Raised(call.job, canonical({"name": "ValueError", "message": "no such font"})))
    task = shown(node, run)
    assert (task.status, task.error, task.output) == (S.FAILED, "no such font", None)


def test_a_task_that_is_cancelled_says_so_meanwhile() -> None:
    node = a_node()
    run = begin(node)
    node.pass_time(seconds=1)
    node.do(node.node.tasks.cancel(DEV_ENV, run))
    assert shown(node, run).status is S.CANCELLING
    trace = node.do(run_trace(node.store, DEV_ENV, run))
    assert trace is not None
    assert "being cancelled for 2.0 s" in render(trace, node.now() + 2_000)
    node.pass_time(seconds=13)
    task = shown(node, run)
    assert statuses(task) == ["RECEIVED", "QUEUED", "CANCELLING", "CANCELLED"]


def test_lines_have_the_type_that_they_were_logged_with() -> None:
    node = a_node()
    run = begin(node)
    (call,) = node.worker.calls
    lines = tuple(LogLine(node.now(), level, text) for level, text in (("setup", "loading"), ("run", "hi"), ("x", "?")))
    node.answer(call, message.Logged(call.job, lines))
    returned(node)
    now = node.now()
    assert shown(node, run).logs == (TaskLog(now, 3, "loading"), TaskLog(now, 1, "hi"), TaskLog(now, 4, "?"))


def test_what_is_no_task_is_none() -> None:
    node = a_node()
    run = begin(node)
    assert node.do(task_of(node.store, "other", run, node.now())) is None
    assert node.do(task_of(node.store, DEV_ENV, "01J00000000000000000000000", node.now())) is None


# lists


def listed(node: InMemoryNode, wanted: TaskFilter | None = None, **options: Any) -> TaskPage:
    return node.do(tasks_of(node.store, node.node.registry, wanted or TaskFilter(), node.now(), **options))


def test_tasks_are_listed_page_by_page() -> None:
    node = a_node()
    runs = []
    for _ in range(5):
        runs.append(begin(node))
        node.pass_time(milliseconds=1)
    first = listed(node, limit=2)
    assert ([one.id for one in first.tasks], first.more) == ([runs[4], runs[3]], True)
    second = listed(node, limit=3, after=first.cursor)
    assert ([one.id for one in second.tasks], second.more) == ([runs[2], runs[1], runs[0]], False)
    assert [one.id for one in listed(node, limit=1, ascending=True).tasks] == [runs[0]]
    with pytest.raises(InvalidInput, match="1 to 1000"):
        listed(node, limit=0)
    with pytest.raises(InvalidInput, match="cursor"):
        listed(node, after="nope")


def test_lists_are_narrowed() -> None:
    node = a_node()
    node.do(node.node.apps.add(version("two2")))
    node.do(node.node.apps.add(version("x", app="draw")))
    session = open_session(node)
    done = begin(node, request=request(session=session, opens=True))
    returned(node)
    waiting = begin(node)
    later = begin(node, run_at=node.now() + 60_000)
    other = begin(node, request=TaskRequest(app="acme/stitch@two2", function="run"))
    draw = begin(node, request=TaskRequest(app="acme/draw@x", function="run"))

    def ids(**how: Any) -> set[RunId]:
        return {one.id for one in listed(node, TaskFilter(**how)).tasks}

    assert ids() == {done, waiting, later, other, draw}
    assert ids(apps=("acme/draw",)) == {draw}
    assert ids(apps=(APP,)) == {done, waiting, later}
    assert ids(apps=(APP, "acme/draw")) == {done, waiting, later, draw}
    assert ids(apps=("acme/nope",)) == set()
    assert ids(statuses=(S.COMPLETED,)) == {done}
    assert ids(statuses=(S.RECEIVED,)) == {later}
    assert ids(statuses=(S.QUEUED, S.COMPLETED)) == {done, waiting, other, draw}
    assert ids(session=session) == {done}
    assert ids(env="other") == set()
    node.do(node.node.apps.remove(DEV_ENV, "acme/draw"))
    assert draw in ids()  # what is gone has tasks all the same


# traces


def test_a_trace_has_the_phases_and_what_the_app_said_of_its_cost() -> None:
    node = a_node()
    run = begin(node)
    node.pass_time(seconds=1)
    said = {
        "inputs": [{"type": "text", "tokens": 12, "cached_tokens": 2, "cost": 0.02}],
        "outputs": [{"type": "text", "tokens": 34, "cost": 0.13}],
    }
    answer(node, "ho", said, phases(node, *COLD))
    trace = node.do(run_trace(node.store, DEV_ENV, run))
    assert trace is not None
    (final,) = trace.root.children
    assert [(one.name, one.duration_ms) for one in final.children] == [
        ("Queued", 100), ("Preparing", 200), ("Serving", 100), ("Setting up", 400), ("Running", 100)
    ]  # fmt: skip
    assert len({one.ref.text for one in trace.root.walk()}) == 7
    text = render(trace, node.now())
    assert "cold start 700 ms · 12 (2 cached) → 34 tokens · $0.0015" in text
    assert "├─ Setting up" not in text  # a mark stands before every name
    assert "✔ Setting up" in text


def test_a_warm_call_has_no_cold_start_and_one_under_way_shows_where_it_is() -> None:
    node = a_node()
    run = begin(node)
    node.pass_time(seconds=1)
    (call,) = node.worker.calls
    flight = InFlight(call.job, node.now(), "w1", (), phases(node, (S.QUEUED, 50), (S.RUNNING, 40)).phases)
    trace = node.do(run_trace(node.store, DEV_ENV, run, lambda _: (flight,)))
    assert trace is not None
    (under_way,) = trace.root.children
    assert [(one.name, one.status.value) for one in under_way.children] == [
        ("Queued", "COMPLETED"), ("Running", "RUNNING")
    ]  # fmt: skip
    answer(node, 1, None, phases(node, (S.QUEUED, 50), (S.RUNNING, 40)))
    trace = node.do(run_trace(node.store, DEV_ENV, run))
    assert trace is not None
    assert "cold start" not in render(trace, node.now())


def test_lost_calls_show_their_own_phases() -> None:
    node = a_node()
    run = begin(node)
    node.pass_time(seconds=1)
    (call,) = node.worker.calls
    node.answer(call, message.CallLost(call.job, b'{"name":"WorkerLost"}', info=phases(node, *COLD)))
    node.pass_time(seconds=5)
    answer(node, 1, None, phases(node, (S.QUEUED, 900), (S.RUNNING, 100)))
    trace = node.do(run_trace(node.store, DEV_ENV, run))
    assert trace is not None
    assert [(one.name, one.status.value, len(one.children)) for one in trace.root.children] == [
        ("Execution", "FAILED", 5), ("Finalization", "COMPLETED", 2)
    ]  # fmt: skip


def test_what_an_app_says_of_its_cost_is_read_with_care() -> None:
    assert usage_of(None) == Usage()
    assert usage_of("strange") == Usage()
    assert usage_of({"inputs": [{"tokens": "many"}]}) == Usage()
    assert usage_of({"outputs": [{"tokens": 3}, {"tokens": 4, "cost": 1}]}) == Usage(None, 7, None, 0.01)
