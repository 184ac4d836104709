"""What a rerun keeps of the record of an ended run, and what becomes of an edited input."""

from typing import Any

import pytest

from stepwell.engine.decide import Beginning, begin, decide
from stepwell.engine.rerun import Again, again, edited_request, find_step, input_to_give, recorded_steps
from stepwell.engine.run import CLOCKS_AGREE_MS, Run, fold
from stepwell.engine.trace import trace_of
from stepwell.model import effect, journal, message, op
from stepwell.model.ids import EventKey, JobId, RunId, StepId, step_id
from stepwell.model.journal import Entry
from stepwell.model.offload import FETCH, INFER, Exchange, Sealed
from stepwell.model.payload import canonical, decode

NOW = 1_800_000_000_000
OLD, NEW = RunId("01OLD000000000000000000000"), RunId("01NEW000000000000000000000")
CHILD_EVENT = "01CHILD0000000000000000000"


def done(name: str, index: int = 0, **details: Any) -> journal.StepCompleted:
    return journal.StepCompleted(
        at=NOW, step=step_id(name, index), name=name, index=index, output=canonical(f"{name}:{index}"), **details
    )


def a_record() -> list[Entry]:
    """A run that slept, waited, invoked, asked a model and wrapped another, and failed at the end."""
    nap, paid, call, ask = step_id("nap"), step_id("paid"), step_id("call"), step_id("ask")
    timer = JobId("timer")
    return [
        journal.RunStarted(at=NOW, function="f", service="s", events=(b"{}",), event_keys=(EventKey("E"),)),
        journal.CallScheduled(at=NOW, call=JobId("c1")),
        done("first", kind="step.run", input=b"[1]", call=JobId("c1"), duration_ms=7.0),
        journal.SleepStarted(at=NOW, step=nap, until=NOW + 1, timer=timer, name="nap"),
        journal.StepCompleted(at=NOW, step=nap, bare=True),
        journal.WaitStarted(at=NOW, step=paid, event="paid", until=NOW + 9, timer=timer, name="paid"),
        journal.StepCompleted(at=NOW, step=paid, output=b'{"name":"paid"}', bare=True, event="EV"),
        journal.InvokeStarted(
            at=NOW, step=call, function="g", until=NOW, timer=timer, event_id=CHILD_EVENT, name="call", input=b"{}"
        ),
        journal.StepFailed(at=NOW, step=call, error=b'{"name":"E"}', kind="step.invoke"),
        journal.OffloadStarted(
            at=NOW, step=ask, request=b'{"body":{"model":"a"}}', job=JobId("j"), kind=INFER, name="ask", sealed=True
        ),
        done("aside", kind="step.run"),
        journal.StepCompleted(
            at=NOW, step=ask, output=b"{}", name="ask", kind=INFER, exchange=Exchange(job=JobId("j"), cost_usd="1")
        ),
        done("draft", kind="step.ai.wrap", blocked="its argument 'client' is of the type Client"),
        done("draft", 1, kind="step.ai.wrap", input=b'[{"model":"a"}]'),
        journal.StepFailed(at=NOW, step=step_id("end"), error=b'{"name":"E"}', name="end", input=b"[2]"),
        journal.RunFailed(at=NOW, error=b'{"name":"E"}'),
    ]


def from_step(name: str, edited: bytes | None = None, entries: list[Entry] | None = None, run: RunId = OLD) -> Again:
    record = a_record() if entries is None else entries
    step = find_step(recorded_steps(record), name)
    assert step is not None
    return again(run, record, NOW + 5, step=step, edited=edited)


def begun(anew: Again, *, live: bool = False) -> tuple[Run, list[Entry], tuple[effect.Effect, ...]]:
    beginning = Beginning(
        run=NEW,
        env="env",
        shard=0,
        function="f",
        service="s",
        events=(b"{}",),
        event_keys=(EventKey("E"),),
        event_name="e",
        max_attempts=4,
        again=anew,
    )
    run, decision = begin(beginning, NOW + 5, live=live)
    return run, list(decision.entries), decision.effects


def test_a_record_tells_of_each_step_its_kind_and_its_input() -> None:
    steps = {step.shown: step for step in recorded_steps(a_record()).values()}
    assert list(steps) == ["first", "nap", "paid", "call", "ask", "aside", "draft", "draft:1", "end"]
    assert [step.kind for step in steps.values()] == [
        "step.run", "step.sleep", "step.waitForEvent", "step.invoke", INFER, "step.run", "step.ai.wrap",
        "step.ai.wrap", "step.run",
    ]  # fmt: skip
    assert steps["ask"].input == b'{"body":{"model":"a"}}'
    assert steps["ask"].sealed
    assert steps["draft"].input is None
    assert steps["draft"].blocked.startswith("its argument 'client'")
    assert (steps["draft:1"].input, steps["draft:1"].blocked) == (b'[{"model":"a"}]', "")
    assert (steps["end"].failed, steps["end"].input) == (True, b"[2]")
    assert not steps["call"].offloaded
    assert steps["ask"].offloaded


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("draft", "draft"),
        ("draft:1", "draft:1"),
        (step_id("draft", 1), "draft:1"),
        ("draft:2", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_a_step_is_found_by_its_name_its_use_and_its_id(wanted: str, found: str | None) -> None:
    step = find_step(recorded_steps(a_record()), wanted)
    assert (step.shown if step is not None else None) == found


def test_a_step_whose_worker_hashes_otherwise_is_found_by_its_name() -> None:
    other = journal.StepCompleted(at=NOW, step=StepId("other"), name="odd", index=2)
    step = find_step(recorded_steps([*a_record(), other]), "odd:2")
    assert step is not None
    assert step.id == "other"


def test_what_was_recorded_before_the_step_is_kept_in_order_and_says_where_it_is_from() -> None:
    kept = from_step("ask").entries
    assert [(type(entry).__name__, entry.name) for entry in kept] == [  # type: ignore[union-attr]
        ("StepCompleted", "first"),
        ("StepCompleted", "nap"),
        ("StepCompleted", "paid"),
        ("StepFailed", "call"),
        ("StepCompleted", "aside"),
    ]
    assert {(entry.origin, entry.at) for entry in kept} == {(OLD, NOW + 5)}  # type: ignore[union-attr]
    first, nap, paid, call, _ = kept
    assert isinstance(first, journal.StepCompleted)
    assert (first.output, first.input, first.call, first.duration_ms) == (b'"first:0"', b"[1]", None, 0)
    assert isinstance(nap, journal.StepCompleted)
    assert (nap.bare, nap.kind) == (True, "step.sleep")
    assert isinstance(paid, journal.StepCompleted)
    assert (paid.bare, paid.event) == (True, "EV")
    assert isinstance(call, journal.StepFailed)
    assert (call.error, call.kind, call.input) == (b'{"name":"E"}', "step.invoke", b"{}")


def test_a_request_that_is_kept_was_not_made_again_and_costs_nothing_more() -> None:
    asked = next(entry for entry in from_step("draft").entries if getattr(entry, "name", "") == "ask")
    assert isinstance(asked, journal.StepCompleted)
    assert asked.exchange is None
    assert asked.input == b'{"body":{"model":"a"}}'


def test_a_step_that_never_had_a_result_keeps_all_others() -> None:
    record = [entry for entry in a_record() if getattr(entry, "name", "") != "end"][:-1]
    record += [journal.StepScheduled(at=NOW, step=step_id("late"), name="late"), journal.RunCancelled(at=NOW)]
    assert len(from_step("late", entries=record).entries) == 8


def test_from_the_beginning_nothing_is_kept() -> None:
    assert again(OLD, a_record(), NOW, step=None) == Again(OLD, None, ())


def test_what_is_kept_twice_says_where_it_happened_first() -> None:
    _, entries, _ = begun(from_step("ask"))
    entries.append(done("ask", kind=INFER))
    twice = from_step("ask", entries=entries, run=NEW).entries
    assert {entry.origin for entry in twice} == {OLD}  # type: ignore[union-attr]


@pytest.mark.parametrize("live", [False, True])
def test_a_new_run_begins_with_what_is_kept_and_does_none_of_it_again(live: bool) -> None:
    run, entries, effects = begun(from_step("ask", b'{"model":"b"}'), live=live)
    assert isinstance(entries[0], journal.RunStarted)
    assert (entries[0].origin, entries[0].from_step) == (OLD, step_id("ask"))
    assert [type(entry).__name__ for entry in entries[1:]] == [
        "StepCompleted", "StepCompleted", "StepCompleted", "StepFailed", "StepCompleted", "InputEdited",
        "CallScheduled",
    ]  # fmt: skip
    assert [type(one) for one in effects] == [effect.CallWorker]  # no timer, no wait, no child, no event
    assert run.stack == [step_id(name) for name in ("first", "nap", "paid", "call", "aside")]
    assert not run.open
    assert run.covered == run.news == 5
    assert fold(run.row(), entries) == run


def test_an_event_that_ended_a_kept_wait_ends_no_other() -> None:
    run, _, _ = begun(from_step("ask"))
    assert run.taken == {"EV"}
    assert run.look_since() == NOW + 5 - CLOCKS_AGREE_MS  # since it was made, not since the other run


def test_an_edited_input_is_given_until_the_step_has_a_result() -> None:
    run, _, _ = begun(from_step("draft:1", b'[{"model":"b"}]'))
    edit = input_to_give(run)
    assert edit is not None
    assert (edit.step, edit.input, edit.kind) == (step_id("draft", 1), b'[{"model":"b"}]', "step.ai.wrap")
    (call,) = run.calls
    failed = op.StepErrored(step=edit.step, name="draft", index=1, error=b"{}", kind="step.ai.wrap")
    decide(run, message.Replied(call, (failed,), version=2), NOW + 6, live=False)
    assert input_to_give(run) is edit
    (call,) = run.calls
    saved = op.StepDone(step=edit.step, name="draft", index=1, kind="step.ai.wrap")
    decide(run, message.Replied(call, (saved,), version=2), NOW + 7, live=False)
    assert input_to_give(run) is None


@pytest.mark.parametrize(("live", "target"), [(False, step_id("draft", 1)), (True, None)])
def test_a_worker_that_forgets_the_function_is_asked_for_the_edited_step_alone(
    live: bool, target: StepId | None
) -> None:
    run, _, effects = begun(from_step("draft:1", b'[{"model":"b"}]'), live=live)
    (call,) = effects
    assert isinstance(call, effect.CallWorker)
    assert call.target == target
    assert set(run.open) == ({target} if target is not None else set())


def test_an_edited_request_is_given_to_no_function() -> None:
    run, _, _ = begun(from_step("ask", b'{"model":"b"}'))
    assert run.edit is not None
    assert input_to_give(run) is None


def test_the_trace_says_what_is_kept_and_what_is_edited() -> None:
    run, entries, _ = begun(from_step("ask", b'{"model":"b"}'))
    (call,) = run.calls
    asked = op.Offload(step=step_id("ask"), name="ask", request=b'{"body":{"model":"b"}}', kind=INFER)
    entries += decide(run, message.Replied(call, (asked,), version=2), NOW + 6, live=False).entries
    trace = trace_of(NEW, entries)
    assert (trace.origin, trace.from_step) == (OLD, "ask")
    spans = {span.name: span for span in trace.root.children}
    assert [spans[name].origin for name in ("first", "nap", "call", "ask")] == [OLD, OLD, OLD, None]
    assert [spans[name].edited for name in ("first", "ask")] == [False, True]
    assert spans["first"].input == b"[1]"


# requests


def offload(request: dict[str, Any], *, kind: str = INFER, sealed: Sealed | None = None) -> op.Offload:
    return op.Offload(step=step_id("ask"), name="ask", request=canonical(request), kind=kind, sealed=sealed, race=True)


def edited(one: op.Offload, edit: object) -> tuple[dict[str, Any], Sealed | None]:
    assert isinstance(one.request, bytes)
    changed = edited_request(one, one.request, canonical(edit))
    assert (changed.step, changed.name, changed.kind, changed.race) == (one.step, one.name, one.kind, one.race)
    assert isinstance(changed.request, bytes)
    return decode(changed.request), changed.sealed


def test_the_body_of_an_inference_is_replaced_and_the_key_stays() -> None:
    sealed = Sealed("https://api.openai.com/v1/chat", (("x-key", "k"),), "sk")
    request = {
        "url": "https://api.openai.com/v1/chat",
        "format": "openai-chat",
        "exact": True,
        "body": {"model": "a", "n": 1},
    }
    members, kept = edited(offload(request, sealed=sealed), {"model": "b"})
    assert members == request | {"body": {"model": "b"}}
    assert kept == sealed


@pytest.mark.parametrize(
    ("format", "url", "expected"),
    [
        ("gemini", "https://g/v1beta/models/old:generateContent", "https://g/v1beta/models/new-1:generateContent"),
        (
            "azure-openai",
            "https://a/openai/deployments/old/chat/completions?api-version=1",
            "https://a/openai/deployments/new-1/chat/completions?api-version=1",
        ),
    ],
)
def test_a_model_that_stands_in_the_address_is_changed_there(format: str, url: str, expected: str) -> None:
    secret = url.replace("https://", "https://user:pw@")
    shown = url.replace("https://", "https://***@")
    one = offload({"url": shown, "format": format, "body": {"x": 1}}, sealed=Sealed(secret, (), "k"))
    members, sealed = edited(one, {"model": "new-1", "x": 2})
    assert members["body"] == {"x": 2}
    assert members["url"] == expected.replace("https://", "https://***@")
    assert sealed == Sealed(expected.replace("https://", "https://user:pw@"), (), "k")


def test_parts_of_a_fetch_are_replaced_and_hidden_headers_are_those_of_the_function() -> None:
    sealed = Sealed("https://shop/a", (("Authorization", "Bearer k"), ("accept", "x"), ("X-Gone", "z")))
    request = {
        "url": "https://shop/a",
        "method": "GET",
        "headers": {"Authorization": "***", "accept": "x", "X-Gone": "***"},
        "body_base64": "AA==",
        "echo": "digest",
    }
    edit = {
        "method": "POST",
        "body": "new",
        "url": "https://shop/b",
        "headers": {"authorization": "***", "accept": "y"},
    }
    members, kept = edited(offload(request, kind=FETCH, sealed=sealed), edit)
    assert members == {
        "url": "https://shop/b",
        "method": "POST",
        "headers": {"authorization": "***", "accept": "y"},
        "body": "new",
        "echo": "digest",
    }
    assert kept is not None
    assert (kept.url, dict(kept.headers)) == ("https://shop/b", {"authorization": "Bearer k", "accept": "y"})


def test_credentials_go_to_no_other_host() -> None:
    sealed = Sealed("https://shop/a", (("Authorization", "Bearer k"), ("accept", "x")))
    request = {"url": "https://shop/a", "method": "GET", "headers": {"Authorization": "***", "accept": "x"}}
    members, kept = edited(offload(request, kind=FETCH, sealed=sealed), {"url": "https://elsewhere/a"})
    assert kept is None
    assert members["url"] == "https://elsewhere/a"
    assert members["headers"] == {"accept": "x"}
