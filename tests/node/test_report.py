"""Reports of calls that are open yet, told to any node: recorded by whoever gets them, refused when they come late."""

from __future__ import annotations

import pytest

from stepwell.model import journal, message
from stepwell.model.dispatch import Dispatch
from stepwell.model.errors import NotFound
from stepwell.model.ids import JobId, RunId
from stepwell.model.job import Claim
from stepwell.model.op import StepDone
from stepwell.node.node import NodeSettings
from stepwell.node.turns import Verdict
from stepwell.testing.node import InMemoryNode
from tests.node.cases import a, done, names, reply, service

SEARCHING = NodeSettings(search_ms=1_000, lease_ms=6_000)


def two_nodes() -> tuple[InMemoryNode, InMemoryNode, Dispatch]:
    """The first one made a call."""
    first = InMemoryNode(service(), name="first", settings=SEARCHING)
    second = InMemoryNode(name="second", store=first.store, scheduler=first.scheduler, settings=SEARCHING)
    first.send("go/f")
    (call,) = first.worker.calls
    return first, second, call


def told(node: InMemoryNode, call: Dispatch, *ops: StepDone, fence: int | None = None) -> Verdict:
    claim = Claim(call.job, call.fence if fence is None else fence)
    return node.do(node.node.report(call.run, claim, ops))


def steps(node: InMemoryNode, run: RunId) -> list[str]:
    return [entry.name for entry in node.journal(run) if isinstance(entry, journal.StepCompleted)]


def test_reports_reach_nodes_in_turn_and_the_answer_the_one_that_made_the_call() -> None:
    first, second, call = two_nodes()
    for node, name in ((second, "a"), (first, "b"), (second, "c"), (second, "c"), (first, "a")):
        assert told(node, call, done(name)) is Verdict.TAKEN
    assert steps(first, call.run) == ["a", "b", "c"]
    reply(first, call, done("d"))
    (again,) = first.worker.calls
    assert [memo.step for memo in again.memos] == [a("a"), a("b"), a("c"), a("d")]
    first.answer(again, message.Returned(again.job, b"42"))
    assert first.runs()[0].status.value == "COMPLETED"
    assert told(second, call, done("e")) is Verdict.STALE


def test_a_call_whose_node_is_lost_may_report_until_it_is_made_again() -> None:
    first, second, call = two_nodes()
    first.world.end()
    assert told(second, call, done("a")) is Verdict.TAKEN
    second.pass_time(seconds=20)
    (again,) = second.worker.calls
    assert [memo.step for memo in again.memos] == [a("a")]
    assert told(second, call, done("b")) is Verdict.STALE
    assert told(second, again, done("b")) is Verdict.TAKEN
    assert steps(second, call.run) == ["a", "b"]


def test_a_report_for_another_dispatch_changes_nothing_and_stops_nobody() -> None:
    first, _, call = two_nodes()
    for fence in (0, 2):
        assert told(first, call, done("a"), fence=fence) is Verdict.STALE
        assert told(first, call, fence=fence) is Verdict.STALE
    assert first.worker.calls == [call]
    assert first.worker.stopped == []
    assert names(first) == ["RunStarted", "CallScheduled"]


def test_two_dispatches_that_report_at_once_are_told_apart() -> None:
    first, _, call = two_nodes()
    verdicts: list[Verdict] = []

    async def report(fence: int) -> None:
        verdicts.append(await first.node.report(call.run, Claim(call.job, fence), (done(f"of {fence}"),)))

    for fence in (call.fence, call.fence + 1):
        first.world.spawn(report(fence))
    first.settle()
    assert sorted(verdict.value for verdict in verdicts) == ["stale", "taken"]
    assert steps(first, call.run) == [f"of {call.fence}"]


def test_a_run_that_nobody_knows_is_not_found_and_no_other_run_suffers() -> None:
    first, _, call = two_nodes()
    with pytest.raises(NotFound):
        first.do(first.node.report(RunId("01JQDAE4RQF8MBCR55T5AK4KXS"), Claim(call.job, call.fence), (done("a"),)))
    with pytest.raises(NotFound):
        first.do(first.node.report(call.run, Claim(call.job, call.fence), (done("a"),), "another"))
    for name in ("01JQDAE4RQF8MBCR55T5AK4KXS.2", call.run, f"{call.run}.", f"{call.run}.2\0", f"{call.run}.{'1' * 30}"):
        stranger = Claim(JobId(name), 1)
        assert first.do(first.node.report(call.run, stranger, (done("a"),))) is Verdict.STALE
    assert first.worker.calls == [call]
    assert first.worker.stopped == []
