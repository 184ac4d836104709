"""What follows from what a worker says that keeps the function in memory and reports step by step."""

from __future__ import annotations

from stepwell.model import effect, journal, message
from stepwell.model.job import RunStatus
from tests.engine.decide_cases import SECOND, Story, a, done, failed, matched, sleep, wait


def suspended(story: Story, news: int) -> message.Suspended:
    call = story.run.live_call()
    assert call is not None
    return message.Suspended(call.id, news)


def test_a_linear_function_takes_one_call() -> None:
    story = Story(live=True)
    for number, name in enumerate("abc", 1):
        story.report(done(name), number=number)
        assert story.did(effect.Acknowledge)[0].number == number
    story.returns()
    assert story.calls_made == 1
    assert story.run.status is RunStatus.COMPLETED


def test_a_report_is_acknowledged_with_the_news_that_it_makes() -> None:
    story = Story(live=True)
    story.report(done("a"))
    story.report(done("b"), number=2)
    assert story.last.effects == (effect.Acknowledge(story.call_of().id, 2, 2),)


def test_a_report_that_comes_twice_is_acknowledged_twice_and_recorded_once() -> None:
    story = Story(live=True)
    story.report(done("a"))
    story.report(done("a"))
    assert story.kinds() == []
    assert len(story.did(effect.Acknowledge)) == 1


def test_a_report_of_a_call_that_is_over_tells_the_worker_to_stop() -> None:
    """F11: the late one is told."""
    story = Story(live=True)
    call = story.call_of().id
    story.tell(message.CallLost(call, b"{}"))
    story.tell(message.Reported(call, (done("a"),), 1))
    assert story.last.effects == (effect.StopCall(call, "stale"),)
    story.tell(message.CancelAsked("enough"))
    story.tell(message.Reported(call, (done("a"),), 2))
    assert story.last.effects == (effect.StopCall(call, "finished"),)


def test_a_result_from_outside_is_handed_to_the_function_in_memory() -> None:
    story = Story(live=True)
    story.report(sleep("s"))
    story.tell(story.timer("s"))
    assert story.last.effects == (effect.Deliver(story.call_of().id, a("s"), 1),)
    assert story.calls_made == 1


def test_a_failed_step_waits_for_its_timer_and_is_then_offered_again() -> None:
    story = Story(live=True)
    story.report(failed("a", started_at=1))
    story.tell(story.timer("a"))
    assert story.kinds() == ["StepReady"]
    assert story.last.effects == (effect.DeliverRetry(story.call_of().id, a("a"), 1, 1),)


def test_a_failed_step_has_its_own_attempts_in_a_call_that_runs_many() -> None:
    story = Story(live=True, max_attempts=2)
    story.report(done("before"))
    story.report(failed("a", started_at=1), number=2)
    story.tell(story.timer("a"))
    story.report(failed("a", started_at=2), number=3)
    assert story.kinds() == ["StepFailed"]


def test_a_failure_that_is_reported_twice_counts_once() -> None:
    story = Story(live=True)
    story.report(failed("a", started_at=1))
    story.report(failed("a", started_at=1))
    assert story.run.steps[a("a")].attempts == 1
    timer = story.timer("a")
    story.tell(timer)
    story.report(failed("a", started_at=1))
    assert story.run.steps[a("a")].attempts == 1


def test_a_suspended_function_is_called_again_when_its_wait_ends() -> None:
    story = Story(live=True)
    story.report(wait("w"))
    story.tell(suspended(story, 0))
    assert story.calls() == []
    story.tell(matched("w"))
    assert story.calls() == [None]


def test_a_result_on_its_way_while_the_worker_lets_go_is_not_missed() -> None:
    story = Story(live=True)
    story.report(sleep("s"))
    story.tell(story.timer("s"))
    story.tell(suspended(story, 0))
    assert story.kinds() == ["CallEnded", "CallScheduled"]


def test_a_retry_that_became_due_while_the_worker_lets_go_is_not_missed() -> None:
    story = Story(live=True)
    story.report(failed("a", started_at=1))
    story.tell(story.timer("a"))
    story.tell(suspended(story, 0))
    assert story.calls() == [None]


def test_a_function_that_is_suspended_without_waiting_for_anything_fails_in_the_end() -> None:
    story = Story(live=True, max_attempts=2)
    story.tell(suspended(story, 0))
    story.tell(suspended(story, 0))
    assert story.run.status is RunStatus.FAILED


def test_results_of_a_dropped_function_make_one_call_of_it() -> None:
    story = Story(live=True)
    story.report(sleep("s"), sleep("t"))
    story.tell(suspended(story, 0))
    story.tell(story.timer("s"))
    story.tell(story.timer("t"))
    assert story.calls() == [None]


def test_a_lost_worker_keeps_what_it_reported() -> None:
    story = Story(live=True)
    story.report(done("a"), wait("w"))
    story.tell(message.CallLost(story.call_of().id, b"{}"))
    assert story.run.stack == [a("a")]
    assert a("w") in story.run.open
    assert story.calls() == [None]


def test_progress_in_a_call_gives_the_function_its_attempts_back() -> None:
    story = Story(live=True)
    story.tell(message.Raised(story.call_of().id, b"{}"))
    assert story.call_of().attempt == 1
    story.report(done("a"))
    assert story.call_of().attempt == 0


def test_a_lost_worker_costs_the_function_no_attempt_of_its_own() -> None:
    story = Story(live=True)
    story.run.max_attempts = 1
    story.tell(message.CallLost(story.call_of().id, b"{}"))
    assert not story.run.finished
    assert (story.call_of().attempt, story.call_of().due) == (0, story.now), "another worker is called at once"


def test_a_function_that_ends_every_worker_it_runs_in_fails() -> None:
    story = Story(live=True)
    dues = []
    for _ in range(4):
        story.tell(message.CallLost(story.call_of().id, b'{"name":"WorkerLost"}'))
        dues.append(story.call_of().due - story.now)
    assert dues == sorted(dues), "each time after a longer pause"
    assert dues[1] > 0
    story.tell(message.CallLost(story.call_of().id, b'{"name":"WorkerLost"}'))
    assert story.run.status.value == "FAILED"


def test_workers_lost_with_progress_in_between_are_not_counted_together() -> None:
    story = Story(live=True)
    for number in range(20):
        story.tell(message.CallLost(story.call_of().id, b"{}"))
        story.report(done(f"step {number}"))
    assert not story.run.finished


def test_a_wait_looks_back_over_all_that_finished_while_its_report_was_on_its_way() -> None:
    """F22 with branches: a timer of another one fires between the step and the wait."""
    story = Story(live=True)
    story.report(sleep("s", 2 * SECOND))
    began = story.now + SECOND
    story.report(done("sends", started_at=began, duration_ms=SECOND), number=2, after=2 * SECOND)
    story.tell(story.timer("s"), after=100)
    story.report(wait("w"), number=3, after=100)
    (listening,) = story.did(effect.AddWait)
    assert listening.since <= began


def test_the_journal_of_a_function_in_memory_folds_to_the_very_same_run() -> None:
    story = Story(live=True)
    story.report(sleep("s"), failed("a", started_at=1), wait("w"))
    story.tell(story.timer("a"))
    story.tell(suspended(story, 0))
    story.tell(matched("w"))
    assert story.folded() == story.run
    assert isinstance(story.entries[0], journal.RunStarted)
