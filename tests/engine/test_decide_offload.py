"""Requests that the server makes: from the op to the result, and what is done when one is lost."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.engine.decide import ASKED_AGAIN
from stepwell.engine.run import Phase
from stepwell.engine.trace import trace_of
from stepwell.model import effect, journal, message, op
from stepwell.model.ids import JobId
from stepwell.model.job import RunStatus
from stepwell.model.offload import INFER, Exchange, Sealed
from tests.engine.decide_cases import NOON, SECOND, Story, a, done, planned, sleep

SEALED = Sealed("https://example.com/?key=secret")


def fetch(name: str, *, sealed: Sealed | None = None, **details: Any) -> op.Offload:
    return op.Offload(step=a(name), name=name, request=b'{"url":"https://example.com/"}', sealed=sealed, **details)


def job_of(story: Story, name: str) -> JobId:
    job = story.run.steps[a(name)].timer
    assert job is not None
    return job


def ended(story: Story, name: str, *, status: int = 200, **details: Any) -> message.OffloadEnded:
    job = job_of(story, name)
    return message.OffloadEnded(a(name), job, Exchange(job=job, status=status), **details)


def lost(story: Story, name: str, *, made: bool = True, held: bool = False) -> message.OffloadLost:
    return message.OffloadLost(a(name), job_of(story, name), made=made, held=held)


def test_a_request_becomes_an_entry_and_a_job() -> None:
    story = Story()
    story.reply(fetch("rates", sealed=SEALED))
    (started,) = story.did(effect.StartOffload)
    assert (started.step, started.attempt, started.due, started.sealed) == (a("rates"), 0, NOON, SEALED)
    (entry,) = [one for one in story.last.entries if isinstance(one, journal.OffloadStarted)]
    assert (entry.job, entry.sealed, entry.request) == (started.job, True, b'{"url":"https://example.com/"}')
    assert "secret" not in repr(story.last)
    assert story.run.open == {a("rates")}
    assert story.calls() == []


@pytest.mark.parametrize("live", [False, True])
def test_its_answer_is_the_result_and_the_function_goes_on(live: bool) -> None:
    story = Story(live=live)
    if live:
        story.report(fetch("rates"))
    else:
        story.reply(fetch("rates"))
    story.tell(ended(story, "rates", output=b'{"status_code":404}'))
    assert story.run.steps[a("rates")].output == b'{"status_code":404}'
    assert story.did(effect.StopOffload) == [effect.StopOffload(a("rates"))]
    if live:
        assert [one.step for one in story.did(effect.Deliver)] == [a("rates")]
    else:
        assert story.calls() == [None]


def test_the_same_answer_twice_is_recorded_once() -> None:
    story = Story()
    story.reply(fetch("rates"))
    answer = ended(story, "rates", output=b"1")
    story.tell(answer)
    assert story.tell(answer).entries == ()


def test_an_error_worth_it_is_tried_again_until_no_attempt_is_left() -> None:
    story = Story(max_attempts=3)
    story.reply(fetch("rates"))
    for attempt in (1, 2):
        story.tell(ended(story, "rates", status=0, error=b'{"name":"E"}', retry=True))
        (again,) = story.did(effect.StartOffload)
        assert again.attempt == attempt
        assert again.due > story.now
        assert job_of(story, "rates") == again.job
    story.tell(ended(story, "rates", status=0, error=b'{"name":"E"}', retry=True))
    assert story.kinds()[0] == "StepFailed"
    assert story.run.steps[a("rates")].phase is Phase.FAILED
    assert story.calls() == [None]


def test_retry_after_decides_when() -> None:
    story = Story()
    story.reply(fetch("rates"))
    story.tell(ended(story, "rates", status=429, error=b"{}", retry=True, retry_at=NOON + 7 * SECOND))
    (again,) = story.did(effect.StartOffload)
    assert again.due == NOON + 7 * SECOND


def test_a_final_error_is_not_tried_again() -> None:
    story = Story()
    story.reply(fetch("rates"))
    story.tell(ended(story, "rates", error=b'{"name":"E"}'))
    assert story.run.steps[a("rates")].error == b'{"name":"E"}'


def test_an_answer_worth_another_attempt_is_the_result_when_none_is_left() -> None:
    story = Story(max_attempts=2)
    story.reply(fetch("rates"))
    story.tell(ended(story, "rates", status=503, output=b"503", error=b"{}", retry=True))
    assert story.kinds() == ["StepRetried"]
    story.tell(ended(story, "rates", status=503, output=b"503", error=b"{}", retry=True))
    assert story.run.steps[a("rates")].output == b"503"


def test_only_answers_count_for_the_key() -> None:
    """The same key until an answer came: without one, the receiver may have done it."""
    story = Story()
    story.reply(fetch("rates"))
    step = story.run.steps[a("rates")]
    story.tell(ended(story, "rates", status=0, error=b"{}", retry=True))
    story.tell(lost(story, "rates"))
    assert step.answered == 0
    cut = Exchange(job=job_of(story, "rates"), status=200, cut=True)
    story.tell(message.OffloadEnded(a("rates"), cut.job, cut, error=b"{}", retry=True))
    assert step.answered == 0, "it said 200 and broke off: what was done must not be done once more"
    story.tell(ended(story, "rates", status=500, error=b"{}", retry=True))
    assert step.answered == 1


def test_a_lost_request_without_credentials_is_made_again() -> None:
    story = Story()
    story.reply(fetch("rates"))
    before = job_of(story, "rates")
    story.tell(lost(story, "rates"))
    (again,) = story.did(effect.StartOffload)
    assert (again.attempt, again.due, again.sealed) == (0, story.now, None)
    assert again.job != before
    assert story.tell(message.OffloadLost(a("rates"), before, made=True, held=False)).entries == ()


def test_one_whose_credentials_are_at_hand_too() -> None:
    story = Story()
    story.reply(fetch("rates", sealed=SEALED))
    story.tell(lost(story, "rates", held=True))
    assert len(story.did(effect.StartOffload)) == 1


def test_one_whose_credentials_are_gone_is_asked_for_again_over_http() -> None:
    story = Story()
    story.reply(fetch("rates", sealed=SEALED))
    story.tell(lost(story, "rates"))
    (call,) = story.did(effect.CallWorker)
    assert call.target is None
    assert story.run.steps[a("rates")].phase is Phase.ASKING
    assert isinstance(story.last.entries[-1], journal.CallScheduled)
    assert story.last.entries[-1].reason == ASKED_AGAIN
    story.reply(fetch("rates", sealed=SEALED))
    assert len(story.did(effect.StartOffload)) == 1
    story.tell(ended(story, "rates", output=b"1"))
    assert story.run.steps[a("rates")].output == b"1"


def test_attempts_go_on_counting_after_the_function_was_asked() -> None:
    story = Story(max_attempts=2)
    story.reply(fetch("rates", sealed=SEALED))
    story.tell(ended(story, "rates", status=500, error=b"{}", retry=True))
    story.tell(lost(story, "rates", made=False))
    story.reply(fetch("rates", sealed=SEALED))
    assert story.did(effect.StartOffload)[0].attempt == 1
    story.tell(ended(story, "rates", status=500, error=b"{}", retry=True))
    assert story.run.steps[a("rates")].phase is Phase.FAILED


def test_a_function_in_memory_is_told_to_ask_again() -> None:
    story = Story(live=True)
    story.report(fetch("rates", sealed=SEALED))
    story.tell(lost(story, "rates"))
    (told,) = story.did(effect.DeliverRetry)
    assert told.step == a("rates")
    story.report(fetch("rates", sealed=SEALED), number=2)
    assert len(story.did(effect.StartOffload)) == 1


def test_a_function_that_left_memory_is_called_again() -> None:
    story = Story(live=True)
    story.report(fetch("rates", sealed=SEALED))
    call = story.run.live_call()
    assert call is not None
    story.tell(message.Suspended(call.id, story.run.news))
    story.tell(lost(story, "rates"))
    assert story.calls() == [None]


def test_in_a_group_the_others_are_waited_for() -> None:
    story = Story()
    story.reply(fetch("rates", sealed=SEALED), planned("b"))
    story.tell(lost(story, "rates"))
    story.reply(fetch("rates", sealed=SEALED), planned("b"))
    story.reply(done("b"), to="b")
    assert story.calls() == []
    story.tell(ended(story, "rates", output=b"1"))
    assert story.calls() == [None]


def test_a_step_that_the_function_does_not_come_to_any_more_fails() -> None:
    story = Story()
    story.reply(fetch("rates", sealed=SEALED), planned("b"))
    story.tell(lost(story, "rates"))
    story.reply(planned("b"))
    assert b"CredentialsLost" in (story.run.steps[a("rates")].error or b"")  # type: ignore[operator]
    story.reply(done("b"), to="b")
    assert story.calls() == [None]


def test_a_call_that_began_before_is_not_the_answer_to_being_asked() -> None:
    story = Story(version=1)
    story.reply(fetch("rates", sealed=SEALED), sleep("nap"))
    story.tell(story.timer("nap"))  # the function is being called when the request is lost
    story.tell(lost(story, "rates"))
    assert len(story.run.calls) == 1
    story.reply()
    assert story.run.steps[a("rates")].phase is Phase.ASKING
    assert story.calls() == [None]


def test_the_end_of_the_run_stops_the_request() -> None:
    story = Story()
    story.reply(fetch("rates"))
    story.tell(message.CancelAsked("enough"))
    assert story.run.status is RunStatus.CANCELLED
    assert story.did(effect.StopOffload) == [effect.StopOffload(a("rates"))]
    late = message.OffloadEnded(a("rates"), JobId("x"), Exchange(job=JobId("x")), output=b"1")
    assert story.tell(late).entries == ()


def test_the_journal_tells_the_same_to_another_node() -> None:
    story = Story()
    story.reply(fetch("rates", sealed=SEALED, kind=INFER))
    story.tell(ended(story, "rates", status=500, error=b"{}", retry=True))
    story.tell(lost(story, "rates"))
    story.reply(fetch("rates", sealed=SEALED, kind=INFER))
    assert story.folded().steps == story.run.steps
    assert story.folded().open == story.run.open


def test_the_trace_has_attempts_and_tells_of_what_is_unknown() -> None:
    story = Story()
    story.reply(fetch("rates", sealed=SEALED))
    story.tell(ended(story, "rates", status=500, error=b'{"name":"E"}', retry=True), after=SECOND)
    story.tell(lost(story, "rates"), after=SECOND)
    story.reply(fetch("rates", sealed=SEALED))
    story.tell(ended(story, "rates", output=b"1"), after=SECOND)
    trace = trace_of(story.run.id, story.entries)
    (span,) = [child for child in trace.root.children if child.name == "rates"]
    assert span.attempts == 2
    assert [child.error for child in span.children] == [b'{"name":"E"}', None]
    assert span.exchange is not None
    assert span.exchange.status == 200
    assert span.input == b'{"url":"https://example.com/"}'
    assert "unknown" in trace.notes[0].text
    assert "asked for them again" in trace.notes[0].text
