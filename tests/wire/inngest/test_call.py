"""The call request: canonical as a whole, the same for every SDK, and back."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.model.dispatch import Memo
from stepwell.model.ids import RunId, StepId
from stepwell.model.payload import canonical
from stepwell.wire.inngest.call import (
    MAX_BODY_BYTES,
    Call,
    InvalidCall,
    Ready,
    build_body,
    call_url,
    event_of,
    headers,
    memo_text,
    read_actions,
    read_batch,
    read_call,
    read_memo,
    target_of,
)
from stepwell.wire.signature import verify

RECORDED = Path(__file__).parents[1] / "recorded"
EVENT = b'{"data":{"n":1},"id":"e-7","name":"files/import","ts":1780000000000,"user":{}}'
RUN = RunId("01JZ0000000000000000000001")
A = StepId("86f7e437faa5a7fce15d1ddcb9eaeaea377667b8")
B = StepId("e9d71f5ee7c92d6dc9e92ffdad17b8bd49418f98")


def body(**fields: Any) -> Any:
    return json.loads(build_body(Call(run=RUN, **{"events": (EVENT,), **fields})))


def test_the_body_is_that_of_the_reference() -> None:
    assert body(memos=(Memo(A, "data", b"41"),), stack=(A,), version=2, request="R", job="J") == {
        "ctx": {
            "attempt": 0,
            "max_attempts": 5,
            "disable_immediate_execution": False,
            "env": "",
            "run_id": RUN,
            "step_id": "step",
            "stack": {"stack": [A], "current": 1},
            "request_id": "R",
            "job_id": "J",
            "use_api": False,
        },
        "defers": {},
        "event": json.loads(EVENT),
        "events": [json.loads(EVENT)],
        "steps": {A: {"data": 41}},
        "use_api": False,
        "version": 2,
    }


def test_trap_18_use_api_is_in_both_places_and_the_stack_is_never_null() -> None:
    sent = body()
    assert (sent["use_api"], sent["ctx"]["use_api"], sent["ctx"]["stack"]) == (
        False,
        False,
        {"stack": [], "current": 0},
    )
    large = body(memos=(Memo(A, "data", canonical("x" * MAX_BODY_BYTES)),), stack=(A,))
    assert (large["use_api"], large["ctx"]["use_api"]) == (True, True)
    assert (large["events"], large["steps"], large["event"]) == ([], {}, json.loads(EVENT))
    assert large["ctx"]["stack"] == {"stack": [A], "current": 1}
    assert body(use_api=True)["use_api"] is True


@pytest.mark.parametrize(("version", "sent"), [(-1, -1), (0, -1), (1, 1), (2, 2)])
def test_trap_19_version_is_never_0(version: int, sent: int) -> None:
    assert body(version=version)["version"] == sent


def test_trap_21_fn_id_and_qi_id_are_sent_together_or_not_at_all() -> None:
    names = {"fn_id", "qi_id", "generation_id"}
    assert not names & set(body(request="R", job="J")["ctx"])
    assert not names & set(body(request="R", function="F")["ctx"])
    sent = body(request="R", function="F", job="J", generation=3)["ctx"]
    assert {name: sent[name] for name in names} == {"fn_id": "F", "qi_id": "J", "generation_id": 3}


def test_trap_22_the_signed_bytes_are_the_sent_bytes_and_canonical() -> None:
    memos = (Memo(B, "data", canonical({"b": 1.0, "ü": 1e21, "a": -0.0})), Memo(A, "error", b'{"message":"m"}'))
    call = Call(run=RUN, events=(EVENT,), memos=memos, stack=(B, A), version=2)
    text = build_body(call)
    assert text == canonical(json.loads(text))
    sent = headers(call, text, key="signkey-test-12345678", now_s=1700000000, server_kind="dev")
    assert verify(text, sent["X-Inngest-Signature"], ["signkey-test-12345678"], now_s=1700000000)


def test_the_headers_of_a_call() -> None:
    call = Call(run=RUN, target=A, events=(EVENT,), version=0, request="R", job="J", generation=2)
    assert headers(call, b"", key=None, now_s=0, server_kind="dev") == {
        "Content-Type": "application/json",
        "X-Inngest-Server-Kind": "dev",
        "X-Run-ID": RUN,
        "X-Inngest-Step-ID": A,
        "x-inngest-req-version": "-1",
        "x-request-id": "R",
        "x-inngest-job-id": "J",
        "x-inngest-generation-id": "2",
        "account-id": "00000000-0000-4000-a000-000000000000",
    }


@pytest.mark.parametrize(
    ("memo", "text"),
    [
        (Memo(A, "data", b"41"), b'{"data":41}'),
        (Memo(A, "data", b"null"), b'{"data":null}'),
        (Memo(A, "error", b'{"name":"E"}'), b'{"error":{"name":"E"}}'),
        (Memo(A, "input", b"[1]"), b'{"input":[1]}'),
        (Memo(A, "bare", b"null"), b"null"),
        (Memo(A, "bare", EVENT), EVENT),
    ],
)
def test_trap_25_memo_shapes(memo: Memo, text: bytes) -> None:
    assert memo_text(memo) == text
    assert read_memo(A, text) == memo


@pytest.mark.parametrize("text", [b'{"data":1,"x":2}', b"{}", b"[]", b'{"error":"text"}', b'{"input":1}', b'"data"'])
def test_whatever_is_not_exactly_a_shape_is_the_value_itself(text: bytes) -> None:
    assert read_memo(A, text) == Memo(A, "bare", text)


def test_a_shape_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="not 'other'"):
        memo_text(Memo(A, "other", b"1"))


@pytest.mark.parametrize(
    ("url", "slug", "called"),
    [
        ("http://h/api/inngest", "shop-a", "http://h/api/inngest?fnId=shop-a&stepId=step"),
        ("http://h/x?tenant=%20a&b", "büro a&b/c", "http://h/x?tenant=%20a&b&fnId=b%C3%BCro%20a%26b%2Fc&stepId=step"),
        ("http://h?fnId=old&stepId=old", "new", "http://h/?fnId=new&stepId=step"),
    ],
)
def test_trap_7_the_function_is_encoded_once_and_the_query_kept(url: str, slug: str, called: str) -> None:
    assert call_url(url, slug, None) == called
    assert target_of(called.partition("?")[2]).function == slug


def test_a_targeted_call_names_its_step() -> None:
    url = call_url("http://h/x", "f", A)
    assert url.endswith(f"&stepId={A}")
    target = target_of("a=1&" + url.partition("?")[2] + "&probe=trust")
    assert (target.step, target.probe, target.rest) == (A, "trust", {"a": "1"})
    with pytest.raises(InvalidCall, match="`fnId` is missing"):
        target_of("stepId=step")


def test_a_call_without_a_field_it_must_have_is_refused() -> None:
    for text in (b"", b"{", b"[]", b"\xff", b'{"ctx":{}}', b'{"ctx":{"run_id":"x"}}', b"[" * 100_000):
        with pytest.raises(InvalidCall, match="not a call of a function"):
            read_call(text)
    assert read_call(b'{"ctx":{"run_id":"x","stack":{"stack":null}},"event":{}}').events == (b"{}",)


def test_what_the_api_answers_is_read() -> None:
    assert read_actions(b'{"a": {"data":1}, "b": null}') == {"a": b'{"data":1}', "b": b"null"}
    assert read_batch(b'[{"a":1}, 2]') == (b'{"a":1}', b"2")
    for read in (read_actions, read_batch):
        with pytest.raises(InvalidCall):
            read(b'"x"')
    with pytest.raises(InvalidCall):
        event_of(b"[]")


ids = st.text("0123456789abcdef", min_size=1, max_size=6).map(StepId)
odd_ids = st.text(st.sampled_from('a"ü\uffee\U0001f600'), min_size=1, max_size=3).map(StepId)
values: Any = st.none() | st.integers(-9, 9) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
data = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), values, max_size=3)
memo_values = st.one_of(
    st.tuples(st.just("data"), values.map(canonical)),
    st.tuples(st.just("error"), data.map(canonical)),
    st.tuples(st.just("bare"), values.map(canonical)),
)


@given(
    st.dictionaries(ids, memo_values, max_size=6),
    st.lists(data.map(lambda d: canonical({**d, "name": "x"})), min_size=1, max_size=3),
    st.integers(0, 20),
    st.booleans(),
    st.sampled_from([-1, 1, 2]),
    st.none() | ids,
)
@settings(max_examples=150, deadline=None)
def test_a_call_survives_being_written_and_read(
    memos: dict[StepId, tuple[str, bytes]],
    events: list[bytes],
    attempt: int,
    disabled: bool,
    version: int,
    target: StepId | None,
) -> None:
    call = Call(
        run=RUN,
        target=target,
        attempt=attempt,
        max_attempts=attempt + 1,
        events=tuple(events),
        memos=tuple(Memo(step, shape, value) for step, (shape, value) in memos.items()),
        stack=tuple(memos),
        disable_immediate_execution=disabled,
        version=version,
        request="R",
        function="F",
        job="J",
        generation=attempt + 1,
    )
    text = build_body(call)
    assert text == canonical(json.loads(text))
    assert read_call(text, target=target) == call


@given(st.dictionaries(ids | odd_ids, memo_values), st.lists(st.integers(0, 40)))
@settings(max_examples=150, deadline=None)
def test_what_is_put_together_as_results_come_is_the_same_text(
    memos: dict[StepId, tuple[str, bytes]], calls: list[int]
) -> None:
    """Also for ids of any letters, whose order is that of their UTF-16 code units."""
    all_memos = tuple(Memo(step, shape, value) for step, (shape, value) in memos.items())
    ready = Ready()
    for count in sorted({min(one, len(all_memos)) for one in calls} | {len(all_memos)}):
        some = all_memos[:count]
        for memo in some[len(ready) :]:
            ready.add(memo)
        call = Call(run=RUN, events=(EVENT,), memos=some, stack=tuple(memo.step for memo in some))
        text = build_body(call)
        assert build_body(replace(call, ready=ready)) == text
        assert build_body(replace(call, memos=(), ready=ready)) == text


def test_ready_text_that_is_too_large_stays_out_too() -> None:
    ready = Ready()
    ready.add(Memo(A, "data", b'"' + b"x" * 100 + b'"'))
    text = build_body(Call(run=RUN, events=(EVENT,), stack=(A,), ready=ready), limit_bytes=200)
    sent = json.loads(text)
    assert (sent["use_api"], sent["steps"], sent["ctx"]["stack"]) == (True, {}, {"stack": [A], "current": 1})


CALLS = [path for path in sorted(RECORDED.glob("*.json")) if '"from": "server"' in path.read_text()]


@pytest.mark.parametrize("recording", CALLS, ids=lambda path: path.stem)
def test_what_was_recorded_is_what_we_would_send(recording: Path) -> None:
    for exchange in json.loads(recording.read_text()):
        request = exchange["request"]
        if exchange["from"] != "server" or request["method"] != "POST":
            continue
        call = read_call(canonical(request["body"]), target=target_of(request["path"].partition("?")[2]).step)
        rebuilt = json.loads(build_body(call))
        rebuilt.pop("defers")
        recorded = request["body"]
        for name in ("request_id", "generation_id", "job_id"):
            rebuilt["ctx"].pop(name, None)
            recorded["ctx"].pop(name, None)
        assert rebuilt == recorded
