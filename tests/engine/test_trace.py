"""The trace of every kind of journal, and what terminals show of it."""

from typing import Any, get_args

import pytest

from stepwell.engine.span import InFlight, InvokeInfo, RunningStep, SleepInfo, Span, SpanKind, WaitInfo, read_ref
from stepwell.engine.trace import trace_of
from stepwell.model import journal, message, op
from stepwell.model.ids import JobId, RunId, step_id, ulid
from stepwell.model.payload import Blob
from tests.node_reads.story import (
    NOON,
    RUN,
    Story,
    done,
    error_of,
    errored,
    event_asked,
    invoke,
    planned,
    sleep,
    wait,
)

CHILD = RunId(ulid(NOON, 99))


def outline(span: Span) -> list[object]:
    """Name and status, with what is below."""
    below = [outline(child) for child in span.children]
    return [span.name, span.status.value, *below]


def tree(story: Story) -> list[object]:
    return [outline(child) for child in story.trace().root.children]


def child(story: Story, name: str) -> Span:
    return next(span for span in story.trace().root.children if span.name == name)


# the run


def test_a_run_has_a_trace_from_the_moment_it_exists() -> None:
    trace = Story().trace()

    assert outline(trace.root) == ["Run", "QUEUED"]
    assert (trace.root.queued_at, trace.root.started_at, trace.root.ended_at) == (NOON, None, None)
    assert trace.root.output_id is None
    assert [(request.target, request.open) for request in trace.requests] == [(None, True)]


def test_the_root_agrees_with_the_run_at_every_point_of_its_life() -> None:
    story = Story()
    seen = [story.trace().root.status.value]
    story.reply(done("a", 1))
    seen.append(story.trace().root.status.value)
    assert story.run.status.value == "RUNNING"
    story.reply(sleep("nap", 1000)).fire("nap")
    seen.append(story.trace().root.status.value)
    story.returned(2)
    seen.append(story.trace().root.status.value)

    assert seen == ["QUEUED", "RUNNING", "RUNNING", "COMPLETED"]


def test_the_root_starts_when_the_run_does() -> None:
    story = Story().reply(done("a", 1)).returned(2)
    assert story.trace().root.started_at == story.run.started_at == NOON + 3
    live = Story(live=True).later(50).report(done("a", 1, started_at=NOON + 20, took=10))
    assert live.trace().root.started_at == live.run.started_at


def test_a_run_without_steps_has_only_its_end() -> None:
    story = Story().returned({"ok": True})
    root = story.trace().root

    assert outline(root) == ["Run", "COMPLETED", ["Finalization", "COMPLETED"]]
    assert root.output == b'{"ok":true}'
    assert root.children[0].output == b'{"ok":true}'
    assert (root.queue_ms, root.duration_ms) == (3, 10)


def test_a_run_that_begins_later_says_when() -> None:
    trace = Story(start_at=NOON + 60_000).trace()
    assert trace.root.scheduled_at == trace.start_at == NOON + 60_000
    assert trace.requests[0].due == NOON + 60_000


# steps


def test_steps_come_in_the_order_of_their_execution_and_a_repeated_id_each_time() -> None:
    story = Story()
    for number in range(3):
        story.reply(done("item", number, index=number))
    story.reply(done("last")).returned(None)

    assert [span.name for span in story.trace().root.children] == ["item", "item", "item", "last", "Finalization"]
    assert [span.index for span in story.trace().root.children[:3]] == [0, 1, 2]
    assert len({span.ref.span_id for span in story.trace().root.walk()}) == 6


def test_a_step_that_works_at_once_has_no_children() -> None:
    span = child(Story().reply(done("a", {"n": 1})), "a")

    assert (span.children, span.attempts, span.output) == ((), 1, b'{"n":1}')
    assert (span.queued_at, span.started_at, span.ended_at) == (NOON, NOON + 3, NOON + 13)


def test_a_step_has_the_times_that_its_worker_measured() -> None:
    story = Story(live=True).later(100)
    story.report(done("a", 1, started_at=NOON + 20, took=10)).report(done("b", 2, started_at=NOON + 40, took=60))
    a, b = story.trace().root.children

    assert (a.started_at, a.ended_at) == (NOON + 20, NOON + 30)
    assert (b.queued_at, b.started_at, b.ended_at) == (NOON + 40, NOON + 40, NOON + 100)


def test_a_worker_whose_clock_is_ahead_cannot_end_a_step_in_the_future() -> None:
    span = child(Story(live=True).later(100).report(done("a", 1, started_at=NOON + 9_000, took=10)), "a")
    assert span.started_at == span.ended_at == NOON + 100


def test_a_retried_step_shows_its_attempts() -> None:
    story = Story().reply(errored("flaky"))
    assert tree(story) == [["flaky", "RUNNING", ["Attempt 0", "FAILED"], ["Attempt 1", "QUEUED"]]]
    assert child(story, "flaky").children[1].scheduled_at == NOON + 13 + 1000

    story.due().reply(errored("flaky")).due().reply(done("flaky", 1)).returned(1)
    assert tree(story) == [
        ["flaky", "COMPLETED", ["Attempt 0", "FAILED"], ["Attempt 1", "FAILED"], ["Attempt 2", "COMPLETED"]],
        ["Finalization", "COMPLETED"],
    ]
    attempts = child(story, "flaky").children
    assert [attempt.error is not None for attempt in attempts] == [True, True, False]
    assert [request.attempt for request in story.trace().requests] == [0, 1, 2, 0]


def test_a_step_that_fails_at_once_for_good_shows_the_attempt() -> None:
    story = Story().reply(errored("hopeless", retry=False))
    assert tree(story) == [["hopeless", "FAILED", ["Attempt 0", "FAILED"]]]
    assert child(story, "hopeless").error == error_of("ValueError", "bad")


def test_a_step_retried_in_memory_waits_for_its_timer_without_a_call() -> None:
    story = Story(live=True).report(errored("flaky"))
    assert tree(story) == [["flaky", "RUNNING", ["Attempt 0", "FAILED"], ["Attempt 1", "QUEUED"]]]
    story.fire("flaky").report(done("flaky", 1)).returned(1)
    assert tree(story)[0] == ["flaky", "COMPLETED", ["Attempt 0", "FAILED"], ["Attempt 1", "COMPLETED"]]


def test_planned_steps_wait_for_their_calls_and_run_side_by_side() -> None:
    story = Story().reply(planned("a"), planned("b"))
    assert tree(story) == [["a", "QUEUED"], ["b", "QUEUED"]]
    story.reply(done("b", 2), to="b")
    assert tree(story) == [["a", "QUEUED"], ["b", "COMPLETED"]]
    story.reply(done("a", 1), to="a").returned(3)

    assert [span.name for span in story.trace().root.children] == ["a", "b", "Finalization"]
    assert [request.target_name for request in story.trace().requests] == ["", "a", "b", ""]


def test_a_planned_step_whose_call_breaks_counts_the_attempt() -> None:
    story = Story().reply(planned("a"), planned("b")).raised("Crash", "worker broke", to="a")
    assert tree(story)[0] == ["a", "RUNNING", ["Attempt 0", "FAILED"], ["Attempt 1", "QUEUED"]]
    story.due().reply(done("a", 1), to="a")
    assert tree(story)[0] == ["a", "COMPLETED", ["Attempt 0", "FAILED"], ["Attempt 1", "COMPLETED"]]


def test_a_planned_step_whose_calls_all_break_takes_the_run_with_it() -> None:
    story = Story(max_attempts=1).reply(planned("a"), planned("b")).raised("Crash", "worker broke", to="a")
    assert story.trace().root.status.value == "FAILED"
    assert tree(story) == [["a", "FAILED", ["Attempt 0", "FAILED"]], ["b", "CANCELLED"]]
    assert child(story, "a").error == error_of("Crash", "worker broke")


def test_a_call_that_was_given_back_is_no_attempt() -> None:
    story = Story().reply(planned("a"), planned("b")).lost(to="a", free=True)
    assert tree(story)[0] == ["a", "QUEUED"]
    whole = Story().lost(free=True)
    assert tree(whole) == []
    assert [request.outcome for request in whole.trace().requests] == ["lost", ""]


def test_a_step_whose_result_came_from_another_call_does_not_count_its_own() -> None:
    """The call made for step a is given up, since the function ran a itself and returned."""
    story = Story().reply(planned("a"), planned("b")).raised("Oops", "x", to="b")
    own, story.now = story.call("a"), story.now + 9
    story.entries += [
        journal.CallScheduled(at=story.now, call=JobId("whole")),
        journal.CallEnded(at=story.now + 5, call=JobId("whole"), outcome="answered", started_at=story.now),
        journal.CallEnded(at=story.now + 5, call=own, outcome="superseded"),
        journal.StepCompleted(at=story.now + 5, step=step_id("a"), name="a", call=JobId("whole"), output=b"1"),
        journal.RunCompleted(at=story.now + 5, output=b"1"),
    ]
    assert tree(story) == [
        ["a", "COMPLETED"],
        ["b", "CANCELLED", ["Attempt 0", "FAILED"], ["Attempt 1", "CANCELLED"]],
        ["Finalization", "COMPLETED"],
    ]
    assert [request.outcome for request in story.trace().requests][1] == "superseded"


# waits


def test_a_sleep_waits_until_its_time() -> None:
    story = Story().reply(sleep("nap", 5000))
    span = child(story, "nap")
    assert (span.status.value, span.info, span.ended_at) == ("WAITING", SleepInfo(story.now + 5000), None)

    story.fire("nap")
    span = child(story, "nap")
    assert (span.status.value, span.duration_ms, span.attempts, span.output_id) == ("COMPLETED", 5000, None, None)


def test_a_wait_says_which_event_ended_it() -> None:
    story = Story().reply(wait("pay", "shop/paid", 5000, "async.data.n == 1"))
    assert child(story, "pay").info == WaitInfo("shop/paid", "async.data.n == 1", story.now + 5000)

    story.tell(message.EventMatched(step_id("pay"), b'{"name":"shop/paid"}', "01EVENT"))
    span = child(story, "pay")
    assert span.output == b'{"name":"shop/paid"}'
    assert isinstance(span.info, WaitInfo)
    assert (span.info.found_event, span.info.timed_out) == ("01EVENT", False)


def test_a_wait_that_ran_out_says_so() -> None:
    span = child(Story().reply(wait("pay", "shop/paid", 5000)).fire("pay"), "pay")
    assert isinstance(span.info, WaitInfo)
    assert (span.status.value, span.info.found_event, span.info.timed_out) == ("COMPLETED", None, True)


def test_an_invocation_leads_to_the_run_it_started() -> None:
    story = Story().reply(invoke("ask", "shop-child", 9000))
    asked = event_asked(story, "ask")
    span = story.trace(children={asked: CHILD}).root.children[0]
    assert (span.status.value, span.input) == ("WAITING", b'{"x":1}')
    assert span.info == InvokeInfo("shop-child", asked, story.now + 9000, CHILD)

    story.later(50).tell(message.ChildEnded(step_id("ask"), output=b"42"))
    span = child(story, "ask")
    assert isinstance(span.info, InvokeInfo)
    assert (span.status.value, span.output, span.info.timed_out) == ("COMPLETED", b"42", False)


def test_an_invocation_that_failed_and_one_that_took_too_long_are_told_apart() -> None:
    failed = Story().reply(invoke("ask", "shop-child", 9000))
    failed.tell(message.ChildEnded(step_id("ask"), error=error_of("ValueError", "no")))
    late = Story().reply(invoke("ask", "shop-child", 9000)).fire("ask")

    for story, timed_out in ((failed, False), (late, True)):
        span = child(story, "ask")
        assert isinstance(span.info, InvokeInfo)
        assert (span.status.value, span.info.timed_out, span.children) == ("FAILED", timed_out, ())


# the function itself


def test_a_function_that_fails_for_good_shows_its_attempts_at_the_end() -> None:
    story = Story(max_attempts=2).reply(done("a", 1)).raised("ValueError", "bad")
    assert tree(story) == [
        ["a", "COMPLETED"],
        ["Execution", "RUNNING", ["Attempt 0", "FAILED"], ["Attempt 1", "QUEUED"]],
    ]
    story.due().raised("ValueError", "worse")
    root = story.trace().root
    assert outline(root.children[1]) == ["Finalization", "FAILED", ["Attempt 0", "FAILED"], ["Attempt 1", "FAILED"]]
    assert root.status.value == "FAILED"
    assert root.error == root.children[1].error == error_of("ValueError", "worse")
    assert root.output_id is not None


def test_a_function_that_fails_between_steps_and_goes_on_shows_the_failure_where_it_was() -> None:
    story = Story().reply(done("a", 1)).raised("Oops", "x").due().reply(done("b", 2)).returned(3)
    assert tree(story) == [
        ["a", "COMPLETED"],
        ["Execution", "COMPLETED", ["Attempt 0", "FAILED"], ["Attempt 1", "COMPLETED"]],
        ["b", "COMPLETED"],
        ["Finalization", "COMPLETED"],
    ]


def test_a_function_that_fails_and_then_returns_has_both_in_its_end() -> None:
    story = Story().raised("Oops", "x").due().returned(3)
    assert tree(story) == [["Finalization", "COMPLETED", ["Attempt 0", "FAILED"], ["Attempt 1", "COMPLETED"]]]


def test_a_function_in_memory_that_fails_after_a_step_counts_attempts_anew() -> None:
    story = Story(live=True).raised("Oops", "x").due().report(done("a", 1)).raised("Oops", "y").due().returned(2)
    assert tree(story) == [
        ["Execution", "COMPLETED", ["Attempt 0", "FAILED"], ["Attempt 1", "COMPLETED"]],
        ["a", "COMPLETED"],
        ["Finalization", "COMPLETED", ["Attempt 0", "FAILED"], ["Attempt 1", "COMPLETED"]],
    ]


def test_a_result_from_outside_does_not_settle_a_failing_function() -> None:
    story = Story(live=True).report(wait("pay", "shop/paid", 90_000)).raised("Oops", "x")
    story.tell(message.EventMatched(step_id("pay"), b"{}", "01EVENT"))
    assert tree(story) == [
        ["pay", "COMPLETED"],
        ["Execution", "RUNNING", ["Attempt 0", "FAILED"], ["Attempt 1", "QUEUED"]],
    ]


def test_a_worker_that_is_away_shows_as_lost_requests() -> None:
    story = Story(max_attempts=2).lost().due().lost()
    assert tree(story) == [["Finalization", "FAILED", ["Attempt 0", "FAILED"], ["Attempt 1", "FAILED"]]]
    assert [request.outcome for request in story.trace().requests] == ["lost", "lost"]


def test_a_run_that_exceeds_a_limit_shows_it_at_the_end() -> None:
    story = Story().reply(sleep("nap", 400 * 86_400_000))
    assert tree(story) == [["Finalization", "FAILED", ["Attempt 0", "FAILED"]]]
    assert b"InngestErrTimeoutTooLong" in bytes(str(story.trace().root.error), "utf-8")


def test_steps_and_the_end_in_one_answer_share_its_time() -> None:
    story = Story()
    story.reply(
        done("a", 1, started_at=NOON + 4, took=2),
        op.Completed(step=step_id("end"), output=b"7"),
    )
    a, end = story.trace().root.children
    assert (a.started_at, a.ended_at) == (NOON + 4, NOON + 6)
    assert (end.name, end.started_at, end.ended_at, end.output) == ("Finalization", NOON + 6, NOON + 13, b"7")


# cancelling


def test_cancelling_ends_what_was_going_on() -> None:
    story = Story().reply(done("a", 1)).reply(sleep("nap", 60_000)).later(500)
    story.tell(message.CancelAsked("somebody asked", "01EVENT"))
    trace = story.trace()

    assert outline(trace.root) == ["Run", "CANCELLED", ["a", "COMPLETED"], ["nap", "CANCELLED"]]
    assert trace.root.children[1].ended_at == trace.root.ended_at == story.now
    assert (trace.reason, trace.cancel_event) == ("somebody asked", "01EVENT")


def test_cancelling_before_the_start_stops_the_call_that_was_due() -> None:
    trace = Story(start_at=NOON + 9000).later(5).tell(message.CancelAsked("no")).trace()
    assert outline(trace.root) == ["Run", "CANCELLED"]
    assert [request.outcome for request in trace.requests] == ["stopped"]


def test_cancelling_between_attempts_cancels_the_next() -> None:
    story = Story().reply(errored("flaky")).tell(message.CancelAsked("no"))
    assert tree(story) == [["flaky", "CANCELLED", ["Attempt 0", "FAILED"], ["Attempt 1", "CANCELLED"]]]
    function = Story().raised("Oops", "x").tell(message.CancelAsked("no"))
    assert tree(function) == [["Execution", "CANCELLED", ["Attempt 0", "FAILED"]]]


def test_what_a_completed_run_did_not_wait_for_is_cancelled() -> None:
    story = Story(live=True).report(sleep("slow", 60_000)).report(done("fast", 1)).returned(1)
    assert tree(story) == [["slow", "CANCELLED"], ["fast", "COMPLETED"], ["Finalization", "COMPLETED"]]


# requests, notes, what is going on


def test_every_request_is_told_with_its_worker_and_its_steps() -> None:
    story = Story().reply(done("a", 1), took=40).returned(2, took=7)
    first, second = story.trace().requests

    assert (first.number, first.steps, first.status, first.worker, first.outcome) == (
        1, ("a",), 206, "http://shop", "answered",
    )  # fmt: skip
    assert (first.queue_ms, first.duration_ms, first.ended_at) == (3, 40, NOON + 43)
    assert (second.steps, second.status, second.scheduled_at) == ((), 200, NOON + 43)


def test_who_knows_what_is_going_on_can_say_so() -> None:
    story = Story().reply(planned("a"), planned("b"))
    trace = story.trace(InFlight(story.call("a"), story.now + 5, "worker-1"))

    assert [span.status.value for span in trace.root.children] == ["RUNNING", "QUEUED"]
    assert [(request.worker, request.started_at) for request in trace.requests[1:]] == [
        ("worker-1", story.now + 5),
        ("", None),
    ]
    assert Story().trace(InFlight(Story().call(), NOON + 1)).root.status.value == "RUNNING"


def test_a_step_that_is_running_in_memory_is_seen_before_the_journal_has_it() -> None:
    story = Story(live=True).report(done("a", 1))
    running = RunningStep(step_id("b"), "b", NOON + 2)
    trace = story.trace(InFlight(story.call(), NOON + 1, "w", (running,)))
    assert [(span.name, span.status.value, span.started_at) for span in trace.root.children][1:] == [
        ("b", "RUNNING", NOON + 2)
    ]


def test_news_of_a_call_that_is_over_changes_nothing() -> None:
    story = Story()
    flight = InFlight(story.call(), NOON + 1)
    story.returned(1)
    assert story.trace(flight) == story.trace()


def test_notes_are_kept_with_the_step_they_speak_of() -> None:
    story = Story().reply(done("a", 1))
    story.entries.append(journal.Noted(at=story.now, kind="warning", text="order changed", step=step_id("a")))
    [note] = story.trace().notes
    assert (note.kind, note.text, note.step_name) == ("warning", "order changed", "a")


# ids


def test_an_output_id_leads_back_to_its_span() -> None:
    story = Story().reply(errored("flaky")).due().reply(done("flaky", 1)).returned(2)
    trace = story.trace()
    ids = [span.output_id for span in trace.root.walk()]

    assert all(ids)
    assert len(set(ids)) == len(ids) == 5
    for span in trace.root.walk():
        assert span.output_id is not None
        assert trace.find(read_ref(span.output_id)) == span
        assert span.output_id.isascii()


def test_ids_stay_the_same_while_the_run_goes_on() -> None:
    story = Story().reply(errored("flaky"))
    before = {span.name: span.ref for span in story.trace().root.walk()}
    story.due().reply(done("flaky", 1)).returned(2)
    after = {span.name: span.ref for span in story.trace().root.walk()}
    assert before.items() <= after.items()


@pytest.mark.parametrize("text", ["", "nonsense", "%%%", "é", "AAAA", "x" * 5000])
def test_what_is_no_output_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not the id of an output"):
        read_ref(text)


def test_payloads_are_not_looked_into() -> None:
    large = Blob("ab" * 32, 10_000_000)
    story = Story().reply(op.StepDone(step=step_id("a"), name="a", output=large))
    assert child(story, "a").output == large


def test_every_entry_is_known() -> None:
    """An entry alone after the start of a run: strange, and still no reason to fail."""
    made: dict[object, dict[str, Any]] = {
        journal.CallScheduled: {"call": JobId("c")},
        journal.CallEnded: {"call": JobId("c"), "outcome": "failed"},
        journal.StepRetried: {"step": step_id("s"), "error": b"{}", "retry_at": 1},
        journal.StepFailed: {"step": step_id("s"), "error": b"{}"},
        journal.SleepStarted: {"step": step_id("s"), "until": 1, "timer": JobId("t")},
        journal.WaitStarted: {"step": step_id("s"), "event": "e", "until": 1, "timer": JobId("t")},
        journal.InvokeStarted: {
            "step": step_id("s"), "function": "f", "until": 1, "timer": JobId("t"), "event_id": "e",
        },
        journal.OffloadStarted: {"step": step_id("s"), "request": b"{}", "job": JobId("o")},
        journal.OffloadLost: {"step": step_id("s"), "lost": JobId("o")},
        journal.RunFailed: {"error": b"{}"},
        journal.RunCancelling: {"until": 1},
        journal.Noted: {"kind": "log", "text": "t"},
        journal.StepScheduled: {"step": step_id("s")},
        journal.StepCompleted: {"step": step_id("s")},
        journal.StepReady: {"step": step_id("s")},
        journal.InputEdited: {"step": step_id("s"), "input": b"[]"},
    }  # fmt: skip
    first = journal.RunStarted(function="f", service="s", events=(b"{}",))
    for kind in get_args(journal.Entry):
        if kind is not journal.RunStarted:
            trace = trace_of(RUN, [first, kind(**made.get(kind, {}))])
            assert trace.root.kind is SpanKind.RUN
