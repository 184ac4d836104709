"""What follows from what a worker says that answers each call and forgets: sentences about the rules of ops."""

from __future__ import annotations

from typing import get_args

import pytest

from stepwell.engine.decide import Decision, Policy
from stepwell.engine.run import _APPLIED
from stepwell.model import effect, journal, message, op
from stepwell.model.ids import RunId
from stepwell.model.job import RunStatus
from stepwell.model.journal import CancelListener
from tests.engine.decide_cases import (
    NOON,
    SECOND,
    Story,
    a,
    done,
    failed,
    invoke,
    job,
    matched,
    planned,
    sleep,
    wait,
)

# one step after the other


def test_a_run_begins_with_a_call_of_its_function() -> None:
    story = Story()
    assert story.kinds() == ["RunStarted", "CallScheduled"]
    (call,) = story.did(effect.CallWorker)
    assert (call.target, call.attempt, call.due, call.live) == (None, 0, NOON, False)
    assert story.run.status is RunStatus.QUEUED


def test_a_function_of_n_steps_takes_n_plus_one_calls() -> None:
    story = Story()
    for name in "abc":
        story.reply(done(name))
    story.returns()
    assert story.calls_made == 4
    assert story.run.status is RunStatus.COMPLETED
    assert story.run.output == b"42"


def test_a_result_is_recorded_with_the_call_and_the_attempt_that_made_it() -> None:
    story = Story()
    call = story.call_of().id
    story.reply(done("a", b"41"))
    (entry,) = [entry for entry in story.entries if isinstance(entry, journal.StepCompleted)]
    assert (entry.step, entry.output, entry.call, entry.attempt) == (a("a"), b"41", call, 0)


def test_the_call_that_follows_a_step_has_a_fresh_budget_of_attempts() -> None:
    story = Story()
    story.reply(failed("a"))
    story.reply(done("a"))
    assert story.call_of().attempt == 0


def test_a_result_that_is_known_is_not_recorded_again_and_the_function_goes_on() -> None:
    story = Story()
    story.reply(done("a", b"1"))
    story.reply(done("a", b"2"))
    assert story.run.steps[a("a")].output == b"1"
    assert story.calls() == [None]


def test_an_answer_to_a_call_that_is_over_changes_nothing() -> None:
    story = Story()
    call = story.call_of().id
    story.reply(done("a"))
    assert story.tell(message.Replied(call, (done("b"),))).entries == ()
    assert story.tell(message.Returned(call, b"1")).entries == ()
    assert story.tell(message.Raised(call, b"{}")).entries == ()
    assert story.tell(message.CallLost(call, b"{}")).entries == ()


def test_the_first_answer_settles_the_version_of_the_sdk() -> None:
    story = Story(version=1)
    story.reply(done("a"))
    story.version = 2
    story.reply(done("b"))
    assert story.run.version == 1


def test_an_answer_without_ops_makes_one_more_call_but_not_for_ever() -> None:
    story = Story(max_attempts=3)
    for _ in range(2):
        story.reply()
        assert story.calls() == [None]
    story.reply()
    assert story.run.status is RunStatus.FAILED


def test_an_answer_without_ops_is_enough_while_something_else_goes_on() -> None:
    story = Story()
    story.reply(sleep("s"), sleep("t"))
    story.tell(story.timer("s"))
    story.reply()
    assert story.calls() == []
    assert a("t") in story.run.open


def test_a_worker_may_ask_to_be_called_again_at_once() -> None:
    story = Story()
    story.reply(op.Discover(step=a("x")))
    assert story.calls() == [None]


def test_an_unknown_op_fails_the_run_and_is_named() -> None:
    """F38."""
    story = Story()
    story.reply(op.Unknown(step=a("x"), reason="this server does not know the op 'Teleport'"))
    assert story.run.status is RunStatus.FAILED
    assert b"Teleport" in (story.run.error or b"")  # type: ignore[operator]
    assert story.calls() == []


# parallel steps


def test_two_branches_of_two_steps_that_wait_for_each_other_take_seven_calls() -> None:
    story, ran = Story(), []
    story.reply(planned("a1"), planned("b1"))
    for name in ("a1", "b1"):
        story.reply(done(name), to=name)
        ran.append(name)
    story.reply(planned("a2"), planned("b2"))
    for name in ("a2", "b2"):
        story.reply(done(name), to=name)
        ran.append(name)
    story.returns()
    assert story.calls_made == 7
    assert ran == ["a1", "b1", "a2", "b2"]


def test_two_branches_of_two_steps_that_race_take_nine_calls() -> None:
    story = Story()
    story.reply(planned("a1", race=True), planned("b1", race=True))
    story.reply(done("a1", race=True), to="a1")
    story.reply(planned("a2", race=True), planned("b1", race=True))
    story.reply(done("a2", race=True), to="a2")
    story.reply(planned("b1", race=True))
    story.reply(done("b1", race=True), to="b1")
    story.reply(planned("b2", race=True))
    story.reply(done("b2", race=True), to="b2")
    story.returns()
    assert story.calls_made == 9


def test_branches_that_race_take_nine_calls_also_when_they_end_at_the_same_moment() -> None:
    story = Story()
    story.reply(planned("a1", race=True), planned("b1", race=True))
    story.reply(done("a1", race=True), to="a1")
    story.reply(done("b1", race=True), to="b1")
    assert story.calls() == [None, None]
    assert all(call.plans for call in story.run.calls.values())
    story.reply(planned("a2", race=True), planned("b1", race=True))
    story.reply(planned("a2", race=True), planned("b2", race=True))
    story.reply(done("a2", race=True), to="a2")
    story.reply(done("b2", race=True), to="b2")
    story.reply()
    story.returns()
    assert story.calls_made == 9


def test_a_result_that_comes_while_the_function_may_run_a_step_waits_for_its_answer() -> None:
    story = Story()
    story.reply(sleep("s", SECOND), sleep("t", 2 * SECOND))
    story.tell(story.timer("s"))
    story.tell(story.timer("t"))
    assert story.calls() == [None], "a second call could run the step that the first one is running"
    story.reply(sleep("t", 2 * SECOND))
    assert story.calls() == [None], "now the function is told of both"


def test_more_than_one_op_makes_the_function_plan_from_then_on() -> None:
    story = Story()
    assert not story.run.must_plan()
    story.reply(planned("a"), planned("b"))
    assert story.run.planning


def test_the_last_of_a_group_ends_the_planning_and_calls_the_function_once() -> None:
    story = Story()
    story.reply(planned("a"), planned("b"), planned("c"))
    for name in "ab":
        story.reply(done(name), to=name)
        assert story.did(effect.CallWorker) == []
    story.reply(done("c"), to="c")
    assert story.kinds() == ["CallEnded", "StepCompleted", "GroupClosed", "CallScheduled"]


def test_a_hundred_branches_that_end_at_once_are_joined_once() -> None:
    """F33."""
    story = Story()
    names = [f"s{number}" for number in range(100)]
    story.reply(*map(planned, names))
    before = story.calls_made
    for name in reversed(names):
        story.reply(done(name), to=name)
    assert story.calls_made == before + 1
    assert len(story.run.stack) == 100


def test_a_wait_beside_planned_steps_is_joined_with_them() -> None:
    story = Story()
    story.reply(planned("a"), sleep("s"))
    story.reply(done("a"), to="a")
    assert story.calls() == []
    story.tell(story.timer("s"))
    assert story.calls() == [None]


def test_waits_alone_are_no_group_and_each_calls_the_function() -> None:
    story = Story()
    story.reply(sleep("s", SECOND), sleep("t", 2 * SECOND))
    assert not story.run.pending
    story.tell(story.timer("s"))
    story.reply(sleep("t", 2 * SECOND))
    story.tell(story.timer("t"))
    assert story.calls() == [None]
    assert story.calls_made == 3


def test_an_sdk_before_version_2_is_called_after_every_result() -> None:
    story = Story(version=1)
    story.reply(planned("a"), planned("b"))
    assert not story.run.pending
    story.reply(done("a"), to="a")
    assert story.calls() == [a("b"), None]


def test_an_sdk_before_version_2_goes_on_planning() -> None:
    story = Story(version=1)
    story.reply(planned("a"), planned("b"))
    story.reply(done("a"), to="a")
    assert story.run.planning


def test_a_step_that_is_planned_again_while_its_call_is_under_way_is_not_called_twice() -> None:
    story = Story()
    story.reply(planned("a", race=True), planned("b", race=True))
    story.reply(done("a", race=True), to="a")
    story.reply(planned("b", race=True), planned("c"))
    assert sorted(filter(None, story.calls())) == sorted([a("b"), a("c")])


def test_a_step_that_is_planned_during_the_pause_before_its_retry_keeps_its_pause() -> None:
    story = Story()
    story.reply(planned("a", race=True), planned("b", race=True))
    story.reply(failed("b", race=True), to="b")
    due = story.call_of("b").due
    story.reply(done("a", race=True), to="a")
    story.reply(planned("b", race=True))
    assert story.call_of("b").due == due > story.now


def test_a_wait_that_is_reported_again_is_not_set_again() -> None:
    story = Story()
    story.reply(sleep("s"), planned("a", race=True))
    timer = story.run.steps[a("s")].timer
    story.reply(done("a", race=True), to="a")
    story.reply(sleep("s"), planned("b"))
    assert story.run.steps[a("s")].timer == timer
    assert story.did(effect.SetTimer) == []


def test_a_step_that_fails_for_good_is_joined_like_one_that_succeeds() -> None:
    """F36: the function's own handling decides."""
    story = Story()
    story.reply(planned("a"), planned("b"))
    story.reply(failed("a", retry=False), to="a")
    assert story.calls() == [a("b")]
    story.reply(done("b"), to="b")
    assert story.calls() == [None]


def test_an_answer_for_one_step_may_bring_others_along() -> None:
    story = Story()
    story.reply(planned("a"), planned("b"))
    story.reply(done("a"), sleep("s"), to="a")
    assert {a("b"), a("s")} <= story.run.open


def test_a_second_call_of_the_function_waits_for_the_first() -> None:
    """Both could run the same next step."""
    story = Story()
    story.reply(sleep("s", 1), sleep("t", 2))
    story.tell(story.timer("s"))
    story.tell(story.timer("t"))
    assert story.calls() == [None]
    story.reply(done("next"))
    assert story.calls() == [None]


def test_a_result_that_came_during_a_call_of_the_function_is_not_forgotten() -> None:
    story = Story()
    story.reply(sleep("s", 1), sleep("t", 2))
    story.tell(story.timer("s"))
    story.tell(story.timer("t"))
    story.reply()  # it had not heard of t
    assert story.calls() == [None]


def test_no_step_is_run_at_once_while_another_has_a_call_of_its_own() -> None:
    """F34."""
    story = Story()
    story.reply(planned("a", race=True), planned("c", race=True))
    story.reply(done("a", race=True), to="a")
    assert not story.run.planning
    assert story.run.must_plan()


def test_a_result_from_elsewhere_makes_the_call_of_its_step_needless() -> None:
    story = Story()
    story.reply(planned("a", race=True), planned("b", race=True))
    needless = story.call_of("b").id
    story.reply(done("a", race=True), to="a")
    story.reply(done("b", race=True))
    assert effect.StopCall(needless, "stale") in story.last.effects
    assert story.calls() == [None]


# failing steps and functions


def test_a_failed_step_is_tried_again_after_a_pause_with_the_next_attempt() -> None:
    story = Story()
    story.reply(failed("a"))
    call = story.call_of()
    assert call.attempt == 1
    assert NOON + 15 * SECOND <= call.due <= NOON + 45 * SECOND


def test_the_pause_is_the_same_on_every_node() -> None:
    dues = set()
    for _ in range(2):
        story = Story()
        story.reply(failed("a"))
        dues.add(story.call_of().due)
    assert len(dues) == 1


def test_a_worker_may_say_when_to_try_again() -> None:
    story = Story()
    story.reply(failed("a", retry_at=NOON + 7 * SECOND))
    assert story.call_of().due == NOON + 7 * SECOND


def test_a_planned_step_is_tried_again_in_a_call_of_its_own() -> None:
    story = Story()
    story.reply(planned("a"), planned("b"))
    story.reply(failed("a"), to="a")
    assert (story.call_of("a").attempt, story.call_of("a").target) == (1, a("a"))


def test_a_step_run_at_once_is_tried_again_on_its_own_when_something_else_goes_on() -> None:
    story = Story()
    story.reply(sleep("s", 1), sleep("t", 60 * SECOND))
    story.tell(story.timer("s"))
    story.reply(failed("a"))
    assert story.calls() == [a("a")]
    story.tell(story.timer("t"))
    story.reply(planned("a"))
    assert story.calls() == [a("a")]


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_a_step_whose_attempts_are_used_up_has_failed_and_the_function_hears_of_it(attempts: int) -> None:
    story = Story(max_attempts=attempts)
    for _ in range(attempts):
        story.reply(failed("a"))
    assert story.kinds() == ["CallEnded", "StepFailed", "CallScheduled"]
    assert story.call_of().attempt == 0


def test_an_error_that_must_not_be_retried_fails_the_step_at_once() -> None:
    story = Story()
    story.reply(failed("a", retry=False))
    assert "StepFailed" in story.kinds()


def test_a_function_that_raises_is_called_again_after_a_pause() -> None:
    story = Story()
    story.tell(message.Raised(story.call_of().id, b'{"name":"E"}'))
    assert (story.call_of().attempt, story.call_of().due > NOON) == (1, True)


def test_a_function_that_raises_for_good_fails_the_run_with_its_own_error() -> None:
    story = Story()
    story.tell(message.Raised(story.call_of().id, b'{"name":"E"}', retry=False))
    assert (story.run.status, story.run.error) == (RunStatus.FAILED, b'{"name":"E"}')
    assert len(story.did(effect.AnnounceEnd)) == 1


def test_a_lost_call_is_made_again_and_costs_an_attempt() -> None:
    """F10."""
    story = Story()
    story.tell(message.CallLost(story.call_of().id, b"{}"))
    assert story.call_of().attempt == 1
    assert [entry.outcome for entry in story.last.entries if isinstance(entry, journal.CallEnded)] == ["lost"]


def test_a_call_lost_with_its_node_costs_no_attempt() -> None:
    story = Story()
    story.tell(message.CallLost(story.call_of().id, b"{}", free=True))
    assert (story.call_of().attempt, story.call_of().due) == (0, NOON)


def test_a_call_may_be_made_again_at_once_but_only_the_first_time() -> None:
    story = Story()
    story.tell(message.CallLost(story.call_of().id, b"{}", at_once=True))
    assert story.call_of().due == NOON
    story.tell(message.CallLost(story.call_of().id, b"{}", at_once=True))
    assert story.call_of().due > NOON


def test_a_call_lost_too_often_fails_the_run() -> None:
    story = Story(max_attempts=2)
    story.tell(message.CallLost(story.call_of().id, b'{"name":"Lost"}'))
    story.tell(message.CallLost(story.call_of().id, b'{"name":"Lost"}'))
    assert story.run.status is RunStatus.FAILED


# sleeping, waiting, invoking


def test_a_sleep_sets_a_timer_and_its_end_calls_the_function() -> None:
    story = Story()
    story.reply(sleep("nap", 30 * SECOND))
    (timer,) = story.did(effect.SetTimer)
    assert (timer.step, timer.due) == (a("nap"), NOON + 30 * SECOND)
    story.tell(story.timer("nap"), after=30 * SECOND)
    assert story.kinds() == ["StepCompleted", "CallScheduled"]


def test_a_timer_that_fires_twice_wakes_once() -> None:
    story = Story()
    story.reply(sleep("nap"))
    timer = story.timer("nap")
    story.tell(timer)
    assert story.tell(timer).entries == ()


def test_the_timer_of_an_earlier_time_is_not_that_of_the_step() -> None:
    story = Story()
    story.reply(sleep("nap"))
    assert story.tell(message.TimerFired(a("nap"), job("01RUN.99"))).entries == ()


def test_waiting_longer_than_a_year_and_a_day_fails_the_run() -> None:
    story = Story()
    story.reply(sleep("nap", 367 * 86_400 * SECOND))
    assert b"InngestErrTimeoutTooLong" in (story.run.error or b"")  # type: ignore[operator]


def test_a_wait_whose_expression_does_not_compile_fails_the_run() -> None:
    story = Story()
    story.reply(wait("w", expression="async.data."))
    assert story.run.status is RunStatus.FAILED
    assert b"InvalidExpression" in (story.run.error or b"")  # type: ignore[operator]
    assert b"step 'w'" in (story.run.error or b"")  # type: ignore[operator]
    assert story.did(effect.AddWait) == []


def test_a_wait_listens_looks_back_and_has_a_deadline_all_at_once() -> None:
    """F23."""
    story = Story()
    story.reply(wait("w"))
    (listening,) = story.did(effect.AddWait)
    assert (listening.event, listening.look is not None) == ("paid", True)
    assert len(story.did(effect.SetTimer)) == 1


def test_waits_are_stored_before_the_steps_beside_them() -> None:
    story = Story()
    story.reply(planned("sends"), wait("w"))
    assert [type(entry).__name__ for entry in story.last.entries][2] == "WaitStarted"


def test_an_event_ends_its_wait_drops_the_timer_and_is_the_result() -> None:
    story = Story()
    story.reply(wait("w"))
    timer = story.run.steps[a("w")].timer
    story.tell(matched("w"))
    assert story.run.steps[a("w")].output == b'{"name":"paid"}'
    assert story.did(effect.DropJob) == [effect.DropJob(timer)]  # type: ignore[arg-type]
    assert story.did(effect.DropWait) == [effect.DropWait(a("w"))]


def test_event_and_timeout_together_have_one_outcome() -> None:
    """F24, F25."""
    story = Story()
    story.reply(wait("w"))
    timer = story.timer("w")
    story.tell(matched("w"))
    assert story.tell(timer).entries == ()
    assert story.tell(matched("w", "another")).entries == ()


def test_a_wait_that_times_out_gives_null_and_stops_listening() -> None:
    story = Story()
    story.reply(wait("w"))
    story.tell(story.timer("w"))
    assert (story.run.steps[a("w")].output, story.run.steps[a("w")].bare) == (b"null", True)
    assert story.did(effect.DropWait) == [effect.DropWait(a("w"))]


def test_a_wait_looks_back_to_the_call_that_ran_the_step_before_it() -> None:
    """F22."""
    story = Story()
    story.reply(sleep("s", 60 * SECOND))
    story.tell(story.timer("s"), after=60 * SECOND)
    called = story.call_of().due
    story.reply(done("a"), after=5 * SECOND)
    story.reply(wait("w"), after=SECOND)
    (listening,) = story.did(effect.AddWait)
    assert called - SECOND < listening.since <= called


def test_a_wait_behind_a_group_looks_back_to_the_first_of_it() -> None:
    story = Story()
    story.reply(planned("a"), planned("b"))
    called = story.call_of("a").due
    story.reply(done("a"), to="a", after=SECOND)
    story.reply(failed("b"), to="b", after=SECOND)
    story.reply(done("b"), to="b", after=90 * SECOND)
    story.reply(wait("w"))
    (listening,) = story.did(effect.AddWait)
    assert listening.since <= called


def test_a_wait_does_not_look_back_beyond_what_the_function_has_gone_on_from() -> None:
    story = Story()
    story.reply(done("a"))
    story.reply(sleep("s", 60 * SECOND))
    story.tell(story.timer("s"), after=60 * SECOND)
    story.reply(wait("w"))
    (listening,) = story.did(effect.AddWait)
    assert listening.since > NOON + 50 * SECOND


def test_looking_back_does_not_give_the_same_event_to_two_waits_of_a_run() -> None:
    story = Story()
    story.reply(wait("w"))
    story.tell(matched("w", "ev"))
    story.reply(wait("again"))
    assert story.tell(matched("again", "ev", back=True)).entries == ()
    assert story.tell(matched("again", "other", back=True)).entries != ()


def test_an_invocation_sends_an_event_and_waits_for_the_end_of_the_child() -> None:
    story = Story()
    story.reply(invoke("child"))
    (sent,) = story.did(effect.SendInvoke)
    assert sent.function == "g"
    story.tell(message.ChildEnded(a("child"), output=b"7"))
    assert story.run.steps[a("child")].output == b"7"
    assert story.calls() == [None]


def test_a_child_that_fails_fails_the_step() -> None:
    story = Story()
    story.reply(invoke("child"))
    story.tell(message.ChildEnded(a("child"), error=b'{"name":"E"}'))
    assert story.kinds()[0] == "StepFailed"


def test_a_child_that_ends_after_the_timeout_changes_nothing() -> None:
    story = Story()
    story.reply(invoke("child", for_ms=SECOND))
    story.tell(story.timer("child"))
    assert b"InngestInvokeTimeoutError" in (story.run.steps[a("child")].error or b"")  # type: ignore[operator]
    assert story.tell(message.ChildEnded(a("child"), output=b"7")).entries == ()


def test_a_function_that_invokes_itself_is_stopped_at_the_depth_limit() -> None:
    """F32."""
    story = Story(depth=2, policy=Policy(max_depth=2))
    story.reply(invoke("child"))
    assert b"InvocationTooDeep" in (story.run.steps[a("child")].error or b"")  # type: ignore[operator]
    assert story.did(effect.SendInvoke) == []
    assert story.calls() == [None]


# the end


def test_the_end_of_a_child_wakes_its_parent() -> None:
    story = Story(parent=RunId("01PARENT"))
    story.returns(b"7")
    (wake,) = story.did(effect.WakeParent)
    assert (wake.run, wake.step, wake.output, wake.error) == ("01PARENT", a("child"), b"7", None)


def test_a_cancelled_child_wakes_its_parent_with_an_error() -> None:
    story = Story(parent=RunId("01PARENT"))
    story.tell(message.CancelAsked("no longer needed"))
    (wake,) = story.did(effect.WakeParent)
    assert (wake.output, b"RunCancelled" in wake.error) == (None, True)


def test_a_cancelled_run_stays_cancelled_whatever_comes_later() -> None:
    """F51, F27."""
    story = Story()
    story.reply(sleep("s"), wait("w"), invoke("i"), planned("a"))
    call, timer = story.call_of("a").id, story.timer("s")
    story.tell(message.CancelAsked("enough"))
    assert story.did(effect.StopCall) == [effect.StopCall(call, "cancelled")]
    for late in (
        message.Replied(call, (done("a"),)),
        timer,
        matched("w"),
        message.ChildEnded(a("i"), output=b"1"),
        message.CancelAsked("again"),
        message.Returned(call, b"1"),
    ):
        assert story.tell(late).entries == ()
    assert story.run.status is RunStatus.CANCELLED


def test_an_event_that_cancels_ends_the_run() -> None:
    listener = CancelListener(step=a("cancel:0"), event="stop", until=NOON + 60 * SECOND)
    story = Story(cancel_on=(listener,))
    (listening,) = story.did(effect.AddWait)
    assert (listening.cancels, listening.look) == (True, None)
    story.tell(message.EventMatched(a("cancel:0"), b"{}", "ev"))
    assert story.run.status is RunStatus.CANCELLED


def test_a_lost_race_is_over_when_the_function_returns() -> None:
    """F30."""
    story = Story()
    story.reply(planned("a", race=True), wait("w", race=True))
    story.reply(done("a", race=True), to="a")
    story.returns()
    assert not story.run.open
    assert not story.run.calls
    assert story.tell(matched("w")).entries == ()


# limits and the journal


def test_the_step_limit_ends_the_run_with_its_own_error() -> None:
    """F37."""
    story = Story(policy=Policy(max_steps=2))
    for name in "abc":
        story.reply(done(name))
    assert b"InngestErrFunctionOverflowed" in (story.run.error or b"")  # type: ignore[operator]


def test_results_that_are_too_large_together_end_the_run() -> None:
    story = Story(policy=Policy(max_state_bytes=10))
    story.reply(done("a", b'"0123456789"'))
    assert b"InngestErrStateOverflowed" in (story.run.error or b"")  # type: ignore[operator]


def test_the_journal_folds_to_the_very_same_run() -> None:
    story = Story()
    story.reply(planned("a"), planned("b"), sleep("s"), wait("w"), invoke("i"))
    story.reply(failed("a"), to="a")
    story.reply(done("b"), to="b")
    story.tell(story.timer("s"))
    story.tell(matched("w"))
    assert story.folded() == story.run


def test_no_two_jobs_of_a_run_share_an_id() -> None:
    story = Story()
    story.reply(planned("a"), planned("b"), sleep("s"), wait("w"), invoke("i"))
    story.reply(failed("a"), to="a")
    story.reply(failed("a"), to="a")
    ids = [one.call for one in story.effects if isinstance(one, effect.CallWorker)]
    ids += [one.timer for one in story.effects if isinstance(one, effect.SetTimer)]
    assert len(ids) == len(set(ids))


def test_every_kind_of_entry_is_in_the_journal_s_union() -> None:
    kinds = {kind for kind in vars(journal).values() if isinstance(kind, type) and issubclass(kind, journal._Entry)}
    assert set(get_args(journal.Entry)) == kinds - {journal._Entry}


# steps reported before the call is answered


def checkpoint(story: Story, *ops: op.Op, to: str | None = None) -> Decision:
    return story.tell(message.Reported(story.call_of(to).id, ops))


def test_steps_reported_before_the_answer_make_no_call() -> None:
    """Trap 66."""
    story = Story()
    for name in "abc":
        checkpoint(story, done(name))
        assert story.kinds() == ["StepCompleted"]
        assert [type(one) for one in story.last.effects] == [effect.Acknowledge]
    story.reply(sleep("nap"))
    assert story.calls() == []
    story.tell(story.timer("nap"))
    assert story.calls() == [None]
    story.returns()
    assert story.calls_made == 2
    assert story.folded() == story.run


def test_a_step_that_is_reported_and_then_answered_is_recorded_once_and_the_function_goes_on() -> None:
    """Trap 67."""
    story = Story()
    checkpoint(story, done("a"))
    checkpoint(story, done("a"))
    assert story.kinds() == []
    assert len(story.did(effect.Acknowledge)) == 1
    story.reply(done("a"))
    assert story.kinds() == ["CallEnded", "CallScheduled"]
    assert [step.id for step in story.run.steps.values()] == [a("a")]


def test_a_step_after_a_reported_one_has_all_its_attempts() -> None:
    story = Story(max_attempts=2)
    story.reply(failed("a"))
    assert story.call_of().attempt == 1
    checkpoint(story, done("a"))
    story.reply(failed("b"))
    assert story.kinds() == ["CallEnded", "StepRetried", "CallScheduled"]
    assert story.call_of().attempt == 1


def test_a_call_that_is_lost_after_its_reports_is_made_again_with_all_its_attempts() -> None:
    story = Story(max_attempts=2)
    for name in "abc":
        checkpoint(story, done(name))
        story.tell(message.CallLost(story.call_of().id, b"{}"), after=60_000)
        assert story.call_of().attempt == 1
    checkpoint(story, done("d"))
    story.returns()
    assert story.run.status is RunStatus.COMPLETED


def test_a_report_of_a_call_that_was_made_again_is_stale() -> None:
    """Trap 65."""
    story = Story()
    zombie = story.call_of().id
    story.tell(message.Raised(zombie, b'{"name":"HttpError"}'))
    story.tell(message.Reported(zombie, (done("a"),)))
    assert story.last.entries == ()
    assert story.last.effects == (effect.StopCall(zombie, "stale"),)


def test_a_result_from_outside_during_a_call_that_reports_is_looked_at_after_its_answer() -> None:
    story = Story()
    story.reply(sleep("nap", race=True), planned("a", race=True))
    story.reply(done("a", race=True), to="a")
    checkpoint(story, done("b"))
    story.tell(story.timer("nap"))
    assert story.calls() == [None]
    story.reply(wait("w"))
    assert story.calls() == [None], "the function has not seen the nap end"
    story.reply()
    assert story.calls() == []


def test_the_end_of_a_run_may_be_reported() -> None:
    story = Story()
    checkpoint(story, done("a"), op.Completed(step=a("end"), output=b"42"))
    assert story.kinds() == ["StepCompleted", "CallEnded", "RunCompleted"]
    assert story.run.status is RunStatus.COMPLETED
    assert len(story.did(effect.Acknowledge)) == 1


def test_a_report_that_is_too_much_for_a_run_is_not_acknowledged() -> None:
    story = Story(policy=Policy(max_steps=1))
    checkpoint(story, done("a"), done("b"))
    assert story.run.status is RunStatus.FAILED
    assert story.did(effect.Acknowledge) == []


def test_a_call_of_one_step_that_reports_it_is_still_to_be_answered() -> None:
    story = Story()
    story.reply(planned("a"), planned("b"))
    checkpoint(story, done("a"), to="a")
    checkpoint(story, done("b"), to="b")
    assert story.calls() == [a("a"), a("b")]
    assert story.calls() == [a("a"), a("b")]
    story.reply(done("a"), to="a")
    story.reply(done("b"), to="b")
    assert set(story.calls()) == {None}


def test_the_fold_knows_every_entry() -> None:
    assert set(_APPLIED) == set(get_args(journal.Entry))
