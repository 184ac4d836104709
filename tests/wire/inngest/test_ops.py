"""Opcodes: every op of the reference, what is forgiven, what is refused, and the round trip."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.model.ids import StepId
from stepwell.model.message import LogLine
from stepwell.model.op import (
    Completed,
    Discover,
    Invoke,
    Op,
    Sleep,
    StepDone,
    StepErrored,
    StepPlanned,
    Unknown,
    WaitForEvent,
)
from stepwell.model.payload import canonical
from stepwell.wire.inngest.ops import (
    MAX_ODD,
    MAX_OPS,
    MAX_STEP_OUTPUT_BYTES,
    InvalidOps,
    TooManyOps,
    odd_members,
    read_ops,
    write_ops,
)

NOW = 1_780_000_000_000
HASH = StepId("86f7e437faa5a7fce15d1ddcb9eaeaea377667b8")


def read(*items: dict[str, Any], retry: bool = True, retry_at: int | None = None) -> tuple[Op, ...]:
    return read_ops(list(items), now=NOW, retry=retry, retry_at=retry_at)


def one(op: str, **fields: Any) -> Op:
    (found,) = read({"op": op, "id": HASH, "displayName": "a", **fields})
    return found


def test_a_step_that_ran_is_read_with_all_it_says() -> None:
    op = one(
        "StepRun",
        name="a",
        data={"b": 1.0, "a": [None]},
        error=None,
        opts={"type": "step.ai.wrap", "input": [{"x": 1}], "parallelMode": "race"},
        userland={"id": "a", "index": 2},
        timing={"a": 1780000000000000000, "b": 12_500_000},
        metadata=[],
    )
    assert op == StepDone(
        step=HASH,
        name="a",
        index=2,
        output=b'{"a":[null],"b":1}',
        kind="step.ai.wrap",
        input=b'[{"x":1}]',
        started_at=NOW,
        duration_ms=12.5,
        race=True,
    )


@pytest.mark.parametrize("spelling", ["StepRun", "steprun", "STEPRUN"])
def test_the_spelling_of_an_op_does_not_matter(spelling: str) -> None:
    assert one(spelling) == StepDone(step=HASH, name="a")


def test_trap_26_a_step_that_returns_nothing_returns_null() -> None:
    assert one("StepRun") == one("StepRun", data=None) == StepDone(step=HASH, name="a", output=b"null")


def test_the_old_step_op_is_the_value_itself() -> None:
    assert one("Step", data=1) == StepDone(step=HASH, name="a", output=b"1", bare=True)


@pytest.mark.parametrize(
    "fields", [{"name": "1m"}, {"opts": {"duration": "1m"}}, {"name": "9h", "opts": {"duration": "60s"}}]
)
def test_trap_24_a_sleeps_duration_may_be_in_name_or_opts(fields: dict[str, Any]) -> None:
    assert one("Sleep", **fields) == Sleep(step=HASH, name="a", for_ms=60_000)


@pytest.mark.parametrize(
    "fields",
    [{"name": "x/y", "opts": {"timeout": ""}}, {"opts": {"event": "x/y"}}, {"name": "no", "opts": {"event": "x/y"}}],
)
def test_trap_24_a_waits_event_may_be_in_name_or_opts(fields: dict[str, Any]) -> None:
    assert one("WaitForEvent", **fields) == WaitForEvent(step=HASH, name="a", event="x/y")


@pytest.mark.parametrize(
    ("text", "for_ms", "until"),
    [
        ("0", 0, None),
        ("500ms", 500, None),
        ("1.5us", 1, None),
        ("1h30m", 5_400_000, None),
        ("1h30m15.5s", 5_415_500, None),
        ("2w", 1_209_600_000, None),
        ("-5s", 0, None),
        ("2026-09-01", 0, 1788220800000),
        ("2026-09-01T00:00:00.250Z", 0, 1788220800250),
        ("1999-01-01T00:00:00Z", 0, 915148800000),
        ("Tue, 01 Sep 2026 00:00:00 GMT", 0, 1788220800000),
    ],
)
def test_a_time_is_a_duration_or_a_date(text: str, for_ms: int, until: int | None) -> None:
    assert one("Sleep", name=text) == Sleep(step=HASH, name="a", for_ms=for_ms, until=until)


@pytest.mark.parametrize("text", ["366d", "2027-05-29T20:26:40Z"])
def test_366_days_may_be_slept(text: str) -> None:
    assert isinstance(one("Sleep", name=text), Sleep)


@pytest.mark.parametrize("text", ["366d1s", "2027-05-29T20:26:41Z"])
@pytest.mark.parametrize("op", ["Sleep", "WaitForEvent", "InvokeFunction"])
def test_longer_is_refused_with_the_limit(op: str, text: str) -> None:
    unknown = one(op, name=text, opts={"timeout": text, "event": "x", "function_id": "f"})
    assert isinstance(unknown, Unknown)
    assert "InngestErrTimeoutTooLong" in unknown.reason
    assert "366 days" in unknown.reason


def test_a_wait_is_read() -> None:
    op = one("WaitForEvent", opts={"event": "orders/paid", "timeout": "1h", "if": "async.data.id == event.data.id"})
    assert op == WaitForEvent(
        step=HASH, name="a", event="orders/paid", expression="async.data.id == event.data.id", for_ms=3_600_000
    )


def test_an_empty_timeout_is_due_at_once() -> None:
    assert one("WaitForEvent", name="x", opts={"timeout": ""}) == WaitForEvent(step=HASH, name="a", event="x", for_ms=0)


@pytest.mark.parametrize("payload", [None, {}, {"data": None, "user": None, "v": ""}])
def test_trap_37_an_invoke_may_lack_its_data(payload: object) -> None:
    op = one("InvokeFunction", opts={"function_id": "my-app-child", "payload": payload})
    assert op == Invoke(step=HASH, name="a", function="my-app-child")
    assert isinstance(op, Invoke)
    assert (op.data, op.for_ms) == (b"{}", 365 * 86_400_000)


def test_a_step_error_keeps_the_object_as_the_sdk_wrote_it() -> None:
    error = {"name": "ValueError", "message": "nope", "stack": None, "code": "unknown"}
    op = one("StepError", error=error)
    assert op == StepErrored(step=HASH, name="a", error=canonical(error))


def test_what_forbids_a_retry() -> None:
    error = {"name": "E", "message": "m"}
    raw = {"op": "StepError", "id": HASH, "error": error}
    for op in (
        one("StepFailed", error=error),
        one("StepError", error={**error, "noRetry": True}),
        read(raw, retry=False, retry_at=NOW)[0],
    ):
        assert isinstance(op, StepErrored)
        assert (op.retry, op.retry_at) == (False, None)
    (later,) = read(raw, retry_at=NOW + 5)
    assert isinstance(later, StepErrored)
    assert (later.retry, later.retry_at) == (True, NOW + 5)


@pytest.mark.parametrize("error", [None, "text", 7, ...])
def test_a_step_error_without_an_error_object_is_still_one(error: object) -> None:
    op = one("StepError", **({} if error is ... else {"error": error}))
    assert isinstance(op, StepErrored)
    assert isinstance(op.error, bytes)
    assert json.loads(op.error)["name"] == "Error"


def test_plans_discovery_and_completion_are_read() -> None:
    assert one("StepPlanned", opts={"type": "step.sendEvent"}) == StepPlanned(
        step=HASH, name="a", kind="step.sendEvent"
    )
    assert one("DiscoveryRequest") == Discover(step=HASH, name="a")
    assert one("RunComplete", data=[1]) == Completed(step=HASH, name="a", output=b"[1]")


def test_trap_34_an_empty_branch_has_no_ops() -> None:
    assert read() == ()
    assert read({"op": "None"}, {"op": "none", "id": ""}) == ()


@pytest.mark.parametrize("timing", [{"a": 10**40, "b": 1}, {"a": 1, "b": 10**40}, {"a": -1e300, "b": 0}, {"a": 1}])
def test_times_that_no_store_can_hold_are_left_out(timing: dict[str, Any]) -> None:
    assert one("StepRun", timing=timing, userland={"index": 10**40}) == StepDone(step=HASH, name="a")


def test_a_name_is_cut_to_what_the_eye_can_read() -> None:
    (op,) = read({"op": "StepRun", "id": HASH, "displayName": "x" * 5000})
    assert op.name == "x" * 1000


def test_a_single_object_is_a_list_of_one() -> None:
    assert read_ops({"op": "StepRun", "id": HASH}, now=NOW) == (StepDone(step=HASH),)


@pytest.mark.parametrize("op", ["WaitForSignal", "SyncRunComplete", "DeferAdd", "DeferAbort"])
def test_an_op_of_a_later_stage_is_named(op: str) -> None:
    unknown = one(op, opts={})
    assert isinstance(unknown, Unknown)
    assert op.lower() in unknown.reason.lower()
    assert "not supported by this server yet" in unknown.reason


def test_f38_an_unknown_operation_is_named_with_its_step() -> None:
    unknown = one("TimeTravel")
    assert unknown == Unknown(
        step=HASH,
        name="a",
        reason="step 'a': the op 'TimeTravel' is not known to this server; update it, or pin the SDK",
    )


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"id": HASH}, "without the field `op`"),
        ({"op": 3, "id": HASH}, "without the field `op`"),
        ({"op": "StepRun"}, "`id` must be the hashed id"),
        ({"op": "StepRun", "id": 5}, "`id` must be the hashed id"),
        ({"op": "StepRun", "id": "x" * 256}, "may have 255"),
        ({"op": "Sleep", "id": HASH}, "must say how long"),
        ({"op": "Sleep", "id": HASH, "name": "soon"}, "not a duration"),
        ({"op": "Sleep", "id": HASH, "name": "2026-13-01"}, "not a duration"),
        ({"op": "WaitForEvent", "id": HASH}, "must name the event"),
        ({"op": "WaitForEvent", "id": HASH, "name": "w", "opts": {"if": "true"}}, "`opts.event` must name the event"),
        ({"op": "WaitForEvent", "id": HASH, "name": "x", "opts": {"timeout": 5}}, "is a number and must be text"),
        ({"op": "WaitForEvent", "id": HASH, "opts": {"event": "x" * 513}}, "may have 512 bytes"),
        ({"op": "InvokeFunction", "id": HASH, "opts": {}}, "must name the function"),
        (
            {"op": "InvokeFunction", "id": HASH, "opts": {"function_id": "f", "payload": []}},
            "an array and must be an object",
        ),
        ({"op": "InvokeFunction", "id": HASH, "opts": {"function_id": "f", "payload": {"data": 1}}}, "payload.data"),
        ({"op": "StepRun", "id": HASH, "opts": {"input": "x" * (4 << 20)}}, "may have 4 MiB"),
    ],
)
def test_an_op_that_cannot_be_read_says_why(item: dict[str, Any], says: str) -> None:
    (unknown,) = read(item)
    assert isinstance(unknown, Unknown)
    assert says in unknown.reason


@pytest.mark.parametrize("field", ["opts", "userland", "timing", "displayName", "name", "metadata"])
@pytest.mark.parametrize("odd", [None, 1, "x", [], {"a": "x", "b": "y", "index": -1, "id": 4, "type": 3}])
def test_odd_values_of_fields_that_do_not_matter_are_harmless(field: str, odd: object) -> None:
    (op,) = read({"op": "StepRun", "id": HASH, field: odd})
    assert isinstance(op, StepDone)


def test_f76_a_step_result_above_the_limit_fails_the_step_and_names_it() -> None:
    assert isinstance(one("StepRun", data="x" * (MAX_STEP_OUTPUT_BYTES - 2)), StepDone)
    op = one("StepRun", data="x" * (MAX_STEP_OUTPUT_BYTES - 1))
    assert isinstance(op, StepErrored)
    assert isinstance(op.error, bytes)
    assert op.retry is False
    assert "a step may return 4 MiB" in json.loads(op.error)["message"]


@pytest.mark.parametrize("value", [None, 1, "x", [1], [None], [[]]])
def test_what_holds_no_ops_is_refused(value: object) -> None:
    with pytest.raises(InvalidOps):
        read_ops(value, now=NOW)


def test_too_many_ops_name_the_limit() -> None:
    item = {"op": "StepRun", "id": HASH}
    assert len(read(*[item] * MAX_OPS)) == MAX_OPS
    with pytest.raises(TooManyOps, match="1001 ops and may have 1000"):
        read(*[item] * (MAX_OPS + 1))


def test_an_unknown_op_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="unknown op"):
        write_ops([Unknown(step=HASH, reason="r")])


# The round trip

letters = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | letters,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(letters, inner, max_size=3),
    max_leaves=6,
)
payloads = values.map(canonical)
objects = st.dictionaries(letters, values, max_size=3).map(canonical)
common: dict[str, Any] = {
    "step": st.text("0123456789abcdef", min_size=1, max_size=40).map(StepId),
    "name": letters,
    "index": st.integers(0, 99),
}
kinds = st.sampled_from(["step.run", "step.ai.wrap", "step.sendEvent"])
timing: dict[str, Any] = {"started_at": st.integers(1, 2**42), "duration_ms": st.integers(0, 2**40).map(float)}
races: dict[str, Any] = {"race": st.booleans()}
lengths: dict[str, Any] = {"for_ms": st.integers(0, 366 * 86_400_000)}
moments: dict[str, Any] = {"until": st.integers(0, NOW + 366 * 86_400_000)}
names = letters.filter(bool)
inputs = st.none() | st.lists(values, max_size=3).map(canonical)


def builds(op: type[Op], /, **fields: Any) -> st.SearchStrategy[Op]:
    return st.builds(op, **common, **fields)


operations = st.one_of(
    builds(StepDone, output=payloads, kind=kinds, bare=st.booleans(), input=inputs, **timing, **races),
    builds(StepErrored, error=objects, kind=kinds, retry=st.just(False), **timing, **races),
    builds(StepPlanned, kind=kinds, input=inputs, **races),
    builds(Sleep, **lengths, **races),
    builds(Sleep, **moments, **races),
    builds(WaitForEvent, event=names, expression=st.none() | names, **lengths, **races),
    builds(WaitForEvent, event=names, **moments, **races),
    builds(Invoke, function=names, data=objects, user=objects, v=st.none() | names, **lengths, **races),
    builds(Discover),
    builds(Completed, output=payloads),
)


@given(st.lists(operations, max_size=4))
@settings(max_examples=150, deadline=None)
def test_ops_survive_being_written_and_read(ops: list[Op]) -> None:
    text = write_ops(ops)
    assert text == canonical(json.loads(text))
    assert list(read_ops(json.loads(text), now=NOW)) == ops


@given(values)
@settings(max_examples=150, deadline=None)
def test_no_value_makes_the_reader_crash(value: object) -> None:
    try:
        read_ops(value, now=NOW)
    except InvalidOps:
        pass
    read_ops([{"op": "StepRun", "id": HASH, "opts": value, "userland": value, "timing": value, "data": value}], now=NOW)
    read_ops([{"op": "InvokeFunction", "id": HASH, "opts": {"function_id": "f", "payload": value}}], now=NOW)


def odd(*items: object) -> dict[str, str]:
    """What is told about each odd member."""
    return {line.about: line.text for line in odd_members(list(items), now=NOW)}


def test_members_that_this_server_knows_are_not_odd() -> None:
    known: dict[str, object] = {
        "id": "a",
        "op": "StepRun",
        "name": "a",
        "displayName": "a",
        "data": {"anything": 1},
        "error": None,
        "opts": {"type": "step.run", "input": [1], "parallelMode": "race", "stackLine": 3},
        "userland": {"id": "a", "index": 0},
        "timing": {"a": 1, "b": 2},
        "metadata": [],
    }
    assert odd(known) == {}
    assert odd({"id": "a", "op": "InvokeFunction", "opts": {"payload": {"data": {"x": 1}, "user": {}, "v": "1"}}}) == {}
    for not_an_op in (None, 5, "x", list[object]()):
        assert odd(not_an_op) == {}
    assert odd({"opts": 5, "op": "StepRun"}, {"opts": {"payload": 5}}) == {}


def test_members_that_it_does_not_know_are_told_once_with_their_first_value() -> None:
    (line,) = odd_members([{"id": "a", "op": "StepRun", "colour": {"r": 1}}, {"id": "b", "colour": 2}], now=NOW)
    assert line == LogLine(
        NOW,
        "warning",
        "the field 'colour' of the op StepRun is unknown to this server and has no effect: {\"r\":1}",
        StepId("a"),
        "op.colour",
    )
    assert odd_members({"op": "Sleep", "id": "a", "later": 1}, now=NOW)[0].about == "op.later"
    found = odd({"id": "a", "op": "InvokeFunction", "opts": {"wait": "long", "payload": {"meta": {"sessions": {}}}}})
    assert found.keys() == {"op.opts.wait", "op.opts.payload.meta"}
    assert "is not passed on by this server yet" in found["op.opts.payload.meta"]
    assert "is not passed on" in odd({"id": "a", "op": "StepRun", "metadata": [{"kind": "userland.x"}]})["op.metadata"]


def test_many_and_large_odd_members_are_told_briefly() -> None:
    found = odd({"id": "a", "op": "StepRun", **{f"x{n}": "y" * 100_000 for n in range(1000)}}, {"z" * 1000: "\ud800"})
    assert len(found) == MAX_ODD
    assert all(len(text) < 400 for text in found.values())
    (about,) = odd({"op": "StepRun", "z" * 1000: "\ud800"})
    assert len(about) < 80
