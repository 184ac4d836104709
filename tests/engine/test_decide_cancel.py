"""Runs whose function gives a call time to end when they are cancelled; and those whose function does not."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.engine.decide import CANCEL_LATE_MS, Beginning, begin, decide
from stepwell.engine.run import Run, cancel_timer, fold
from stepwell.model import effect, journal, message
from stepwell.model.ids import JobId, RunId, StepId
from stepwell.model.job import RunStatus
from stepwell.model.journal import CancelListener
from tests.engine.decide_cases import NOON, SECOND, Story, done, sleep

GRACE = 10_000
STOP = CancelListener(step=StepId("cancel:0"), event="stop", until=NOON + 3_600_000)


class Graceful(Story):
    """A story of a run whose calls may take ten seconds to end."""

    def __post_init__(self) -> None:
        beginning = Beginning(
            run=RunId("01RUN"),
            env="env",
            shard=0,
            function="f",
            service="s",
            events=(b"{}",),
            event_keys=(),
            event_name="go",
            max_attempts=self.max_attempts,
            cancel_on=self.cancel_on,
            cancel_grace_ms=GRACE,
            start_at=self.start_at,
            finish_within_ms=self.finish_within_ms,
        )
        self.run, decision = begin(beginning, self.now, live=True, policy=self.policy)
        self.live = True
        self._remember(decision)

    start_at = 0
    finish_within_ms: int | None = None

    def cancel(self, **details: Any) -> None:
        self.tell(message.CancelAsked("enough", **details), after=SECOND)

    @property
    def call(self) -> JobId:
        return self.call_of().id

    def check(self) -> None:
        """The journal folds to the run."""
        assert fold(self.run.row(), self.entries) == self.run


def test_the_call_is_told_and_has_time_until_a_timer() -> None:
    story = Graceful()
    call = story.call
    story.cancel()
    until = story.now + GRACE + CANCEL_LATE_MS
    assert story.last.entries == (journal.RunCancelling(at=story.now, until=until, reason="enough"),)
    assert story.last.effects == (
        effect.SetTimer(cancel_timer(story.run.id), StepId("timeout:cancel"), until),
        effect.StopCall(call, "cancelled"),
    )
    assert (story.run.status, story.run.started_at, story.run.finished) == (RunStatus.RUNNING, NOON, False)
    story.check()


def endings(call: JobId) -> list[message.Message]:
    return [
        message.Returned(call, b"1"),
        message.Replied(call, (done("a"),)),
        message.Raised(call, b"{}"),
        message.Raised(call, b"{}", retry=False),
        message.CallLost(call, b"{}"),
        message.CallLost(call, b"{}", free=True, code="node_lost"),
        message.Suspended(call, 0),
    ]


@pytest.mark.parametrize("which", range(7))
def test_whatever_comes_of_the_call_the_run_is_cancelled(which: int) -> None:
    story = Graceful(max_attempts=5)
    msg = endings(story.call)[which]
    story.cancel()
    story.tell(msg, after=SECOND)
    assert story.kinds() == ["CallEnded", "RunCancelled"]
    assert story.entries[-1] == journal.RunCancelled(at=story.now, reason="enough")
    assert story.run.status is RunStatus.CANCELLED
    assert story.run.output is None
    assert not story.did(effect.CallWorker)
    story.check()


def test_a_call_that_does_not_end_is_given_up_at_the_timer() -> None:
    story = Graceful()
    call = story.call
    story.cancel()
    story.tell(message.TimerFired(StepId("timeout:cancel"), cancel_timer(story.run.id)), after=GRACE + CANCEL_LATE_MS)
    assert story.kinds() == ["RunCancelled"]
    assert story.did(effect.StopCall) == [effect.StopCall(call, "cancelled")]
    story.tell(message.Returned(call, b"1"), after=SECOND)
    assert story.last.entries == ()
    assert story.run.status is RunStatus.CANCELLED


def test_nothing_else_happens_to_it_meanwhile() -> None:
    story = Graceful(cancel_on=(STOP,))
    call = story.call
    story.cancel()
    assert story.did(effect.DropWait) == [effect.DropWait(STOP.step)]
    for msg in (
        message.CancelAsked("once more"),
        message.EventMatched(STOP.step, b"{}", "01EVENT"),
        message.TimerFired(StepId("x"), JobId("01RUN.7")),
        message.Returned(JobId("01RUN.99"), b"1"),
        message.Admitted(),
        message.Began(),
    ):
        story.tell(msg, after=1)
        assert (story.last.entries, story.last.effects) == ((), ())
    story.tell(message.Reported(call, (done("a"),), 1))
    assert (story.last.entries, story.last.effects) == ((), (effect.StopCall(call, "cancelled"),))
    story.tell(message.Logged(call, (message.LogLine(story.now, "info", "saving"),)))
    assert story.kinds() == ["Noted"]


def test_who_cannot_wait_asks_for_less_time_or_none() -> None:
    story = Graceful()
    story.cancel(grace_ms=500)
    (asked,) = story.last.entries
    assert isinstance(asked, journal.RunCancelling)
    assert asked.until == story.now + 500 + CANCEL_LATE_MS
    story.cancel(grace_ms=0)
    assert story.kinds() == ["RunCancelled"]
    longer = Graceful()
    longer.cancel(grace_ms=GRACE * 9)
    assert isinstance(longer.last.entries[0], journal.RunCancelling)
    assert longer.last.entries[0].until == longer.now + GRACE + CANCEL_LATE_MS


def test_without_a_call_under_way_it_ends_at_once() -> None:
    class Later(Graceful):
        start_at = NOON + 60_000

    later = Later()
    later.cancel()
    assert later.kinds() == ["RunCancelled"]
    asleep = Graceful()
    asleep.report(sleep("s"))
    asleep.tell(message.Suspended(asleep.call, 0))
    asleep.cancel()
    assert asleep.kinds() == ["RunCancelled"]
    pausing = Graceful()
    for _ in range(2):
        pausing.tell(message.CallLost(pausing.call, b"{}"))
    assert pausing.call_of().due > pausing.now + SECOND
    pausing.cancel()
    assert pausing.kinds() == ["RunCancelled"]


def test_a_function_that_gives_no_time_ends_at_once() -> None:
    story = Story(live=True)
    story.tell(message.CancelAsked("enough"))
    assert story.kinds() == ["RunCancelled"]


def test_a_timeout_gives_time_too_and_other_timers_go() -> None:
    class Limited(Graceful):
        finish_within_ms = 60_000

    story = Limited()
    story.tell(message.Began())
    (timer,) = story.run.deadlines()
    story.tell(message.TimerFired(StepId("timeout:finish"), timer), after=60_000)
    assert story.kinds() == ["RunCancelling"]
    assert effect.DropJob(timer) in story.last.effects
    assert story.run.deadlines() == {cancel_timer(story.run.id)}
    story.tell(message.Returned(story.call, b"1"))
    assert story.run.status is RunStatus.CANCELLED


def test_an_event_cancels_with_its_id() -> None:
    story = Graceful(cancel_on=(STOP,))
    story.tell(message.EventMatched(STOP.step, b"{}", "01EVENT"), after=SECOND)
    story.tell(message.Returned(story.call, b"1"))
    last = story.entries[-1]
    assert isinstance(last, journal.RunCancelled)
    assert last.event == "01EVENT"


def test_decisions_about_it_are_repeatable() -> None:
    story = Graceful()
    call = story.call
    story.cancel()
    run: Run = fold(story.run.row(), story.entries)
    one = decide(run, message.Returned(call, b"1"), story.now, live=True)
    assert one == story.tell(message.Returned(call, b"1"))
