"""Which runs stay folded in memory."""

from __future__ import annotations

from stepwell.engine.run import Call, Run
from stepwell.model.ids import JobId, RunId
from stepwell.model.job import RunStatus
from stepwell.node.folded import QUEUED_SHARE, WAITING_SHARE, Folded


def a_run(
    name: str, *, called: bool, status: RunStatus = RunStatus.RUNNING, service: str = "shop", due: int = 0
) -> Run:
    run = Run(RunId(name), status=status, service=service)
    if called:
        call = Call(JobId("c"), None, attempt=0, live=True, due=due, scheduled_at=0)
        run.calls[call.id] = call
    return run


def test_runs_that_wait_go_before_runs_that_are_called() -> None:
    folded = Folded(2 * WAITING_SHARE)
    called = [a_run(f"c{number}", called=True) for number in range(2 * WAITING_SHARE)]
    waiting = [a_run(f"w{number}", called=False) for number in range(2 * WAITING_SHARE)]
    for run in (*called, *waiting):
        folded.keep(run)
    assert [folded.get(run.id) for run in called] == called
    assert [run.id for run in waiting if folded.get(run.id) is run] == ["w18", "w19"]
    assert len(folded) == 2 * WAITING_SHARE + 2


def test_of_those_that_are_called_the_one_kept_longest_ago_goes_first() -> None:
    folded = Folded(2)
    first, second, third = (a_run(name, called=True) for name in "abc")
    folded.keep(first)
    folded.keep(second)
    folded.keep(first)
    folded.keep(third)
    assert folded.get(second.id) is None
    assert (folded.get(first.id), folded.get(third.id)) == (first, third)


def test_a_run_changes_its_place_when_its_call_ends_or_begins() -> None:
    folded = Folded(2)
    run = a_run("a", called=True)
    folded.keep(run)
    call = run.calls.popitem()[1]
    folded.keep(run)
    assert (len(folded), folded.get(run.id)) == (1, run)
    folded.keep(a_run("b", called=False))
    assert folded.get(run.id) is None
    run.calls[call.id] = call
    folded.keep(run)
    folded.keep(a_run("d", called=False))
    assert folded.get(run.id) is run


def test_one_run_is_kept_at_least_and_forgotten_when_asked() -> None:
    folded = Folded(1)
    run = a_run("a", called=False)
    folded.keep(run)
    assert folded.get(run.id) is run
    folded.forget(run.id)
    folded.forget(run.id)
    assert (folded.get(run.id), len(folded)) == (None, 0)


def test_of_runs_in_line_the_first_ones_are_kept_and_a_service_leaves_room_for_others() -> None:
    folded = Folded(2 * QUEUED_SHARE)
    line = [a_run(f"q{number}", called=True, status=RunStatus.QUEUED) for number in range(5)]
    other = a_run("o", called=True, status=RunStatus.QUEUED, service="other")
    for run in (*line, other):
        folded.keep(run)
    assert [run.id for run in (*line, other) if folded.get(run.id) is run] == ["q0", "q1", "o"]
    line[0].status = RunStatus.RUNNING  # somebody has answered for it
    line[3].status = RunStatus.RUNNING
    for number in (0, 3, 4):
        folded.keep(line[number])
    assert [run.id for run in line if folded.get(run.id) is run] == ["q0", "q1", "q3", "q4"]
    folded.forget(line[1].id)
    folded.keep(line[2])
    assert folded.get(line[2].id) is line[2]


def test_runs_that_begin_later_take_no_room_from_those_in_line() -> None:
    folded = Folded(QUEUED_SHARE)
    later = [a_run(f"l{number}", called=True, status=RunStatus.QUEUED, due=1) for number in range(5)]
    now = a_run("n", called=True, status=RunStatus.QUEUED)
    for run in (*later, now):
        folded.keep(run)
    assert folded.get(now.id) is now
    assert [run.id for run in later if folded.get(run.id) is run] == ["l4"]


def test_what_is_kept_stays_within_bounds_whatever_happens() -> None:
    folded = Folded(3)
    for number in range(20):
        folded.keep(a_run(f"r{number}", called=True, status=RunStatus.QUEUED, service=f"s{number}"))
    assert len(folded) == 3
    assert len(folded._queued) == len(folded._queued_of) == 3
