"""Intake of events, seeds, and the events that the server makes of runs."""

import json
from itertools import count
from typing import Any

import pytest

from stepwell.model.errors import TooLarge
from stepwell.model.ids import Instant
from stepwell.wire.inngest.errors import own_error
from stepwell.wire.inngest.event import (
    MAX_EVENTS,
    Intake,
    Seed,
    invoked_event,
    read_event,
    read_events,
    read_seed,
)

NOW = 1_780_000_000_000


def intake(body: object, seed: Seed | None = None) -> Intake:
    numbers = count(1)

    def draw(at: Instant) -> str:
        return f"{next(numbers):026d}"

    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_events(text, now=NOW, draw=draw, seed=seed)


def body_of(event: dict[str, Any]) -> Any:
    (read,) = intake(event).events
    assert isinstance(read.body, bytes)
    return json.loads(read.body)


def test_the_seed_gives_the_ids_of_the_vector() -> None:
    seed = read_seed("1743130137367,eii2YKXRVTJPuA==")
    assert seed is not None
    assert intake([{"name": "a"}, {"name": "b"}], seed).ids == (
        "01JQDAE4RQF8MBCR55T5AK4KXS",
        "01JQDAE4RQF8MBCR55T5AK4KXT",
    )
    assert seed.ulid(0) < seed.ulid(1)


def test_a_seed_that_overflows_wraps_around() -> None:
    assert Seed(0, b"\0" * 6 + b"\xff" * 4).ulid(1) == "0" * 26


@pytest.mark.parametrize(
    "header", [None, "", "x", "1,", "1,!!!!", "1,AAAA", ",eii2YKXRVTJPuA==", "999999999999999,eii2YKXRVTJPuA=="]
)
def test_an_invalid_seed_is_ignored(header: str | None) -> None:
    assert read_seed(header) is None


def test_an_event_is_completed() -> None:
    assert body_of({"name": "a/b"}) == {"data": {}, "id": "0" * 25 + "1", "name": "a/b", "ts": NOW, "user": {}}
    (event,) = intake({"name": "a/b", "id": "mine", "v": "2", "user": None, "data": None}).events
    assert event.body == b'{"data":{},"id":"mine","name":"a/b","ts":%d,"user":{},"v":"2"}' % NOW
    assert (event.id, event.internal_id, event.received_at) == ("mine", "0" * 25 + "1", NOW)


def test_trap_10_what_came_before_a_bad_event_stays_accepted() -> None:
    result = intake([{"name": "ok"}, {"name": ""}, {"name": ""}])
    assert len(result.ids) == 1
    assert "event 1 of 3: event name is empty" in str(result.error)


def test_trap_11_ids_are_internal_not_the_users() -> None:
    assert intake({"name": "a", "id": "mine"}).ids == ("0" * 25 + "1",)


@pytest.mark.parametrize("ts", [0, None, 0.0])
def test_trap_13_no_time_means_now(ts: object) -> None:
    assert body_of({"name": "a", "ts": ts})["ts"] == NOW


def test_trap_14_events_of_one_megabyte_are_accepted() -> None:
    result = intake([{"name": "a", "data": {"x": "y" * 1_000_000}}] * 8)
    assert len(result.events) == 8
    assert result.error is None


@pytest.mark.parametrize("name", ["inngest/x", "Inngest/function.failed"])
def test_trap_17_reserved_names_are_refused_whatever_their_case(name: str) -> None:
    assert "keeps for itself" in str(intake({"name": name}).error)


def test_trap_42_user_is_an_object_and_v_is_absent() -> None:
    assert "v" not in body_of({"name": "a", "v": ""})
    assert body_of({"name": "a"})["user"] == {}


def test_unknown_fields_are_kept_and_reported() -> None:
    result = intake([{"name": "a/b", "zzz": {"b": 1, "a": [None]}, "A": 7}, {"name": "a/c", "meta": {}, "v": "2"}])
    first, second = result.events
    assert first.body == b'{"A":7,"data":{},"id":"%b","name":"a/b","ts":%d,"user":{},"zzz":{"a":[null],"b":1}}' % (
        first.key.encode(),
        NOW,
    )
    assert isinstance(second.body, bytes)
    assert json.loads(second.body).keys() == {"data", "id", "name", "ts", "user", "v"}
    assert result.unknown == {("a/b", "zzz"), ("a/b", "A")}


def meta_of(meta: object) -> object:
    return body_of({"name": "a", "meta": meta}).get("meta", "none")


@pytest.mark.parametrize(
    ("meta", "kept"),
    [
        (None, "none"),
        ({}, "none"),
        ({"sessions": {}}, "none"),
        ({"sessions": {"chat": "c1", "user": 7}}, {"sessions": {"chat": "c1", "user": "7"}}),
        ({"propagated_sessions": {"chat": "c1"}}, {"sessions": {"chat": "c1"}}),
        (
            {
                "propagated_sessions": {"chat": "c1", "user": "u1", "shop": "s1"},
                "sessions": {"chat": "c2", "shop": None},
            },
            {"sessions": {"chat": "c2", "user": "u1"}},
        ),
        ({"propagated_sessions": {"chat": "c1"}, "sessions": None}, "none"),
        ({"sessions": {"chat": "c1"}, "colour": "red"}, {"sessions": {"chat": "c1"}, "colour": "red"}),
    ],
)
def test_the_sessions_of_an_event_are_kept_as_functions_see_them(meta: object, kept: object) -> None:
    assert meta_of(meta) == kept


def test_a_member_of_meta_that_no_reference_knows_is_reported() -> None:
    result = intake({"name": "a/b", "meta": {"sessions": {"chat": "c1"}, "colour": 1}, "meta.x": 2})
    assert result.unknown == {("a/b", "meta.colour"), ("a/b", "meta.x")}
    (event,) = result.events
    assert isinstance(event.body, bytes)
    assert json.loads(event.body)["meta.x"] == 2


@pytest.mark.parametrize(
    ("meta", "says"),
    [
        ([], "meta must be a JSON object"),
        ("x", "meta must be a JSON object"),
        ({"sessions": []}, "must be a JSON object of names and ids"),
        ({"propagated_sessions": "x"}, "must be a JSON object of names and ids"),
        ({"sessions": {"chat": True}}, "'chat' must be the id of a session"),
        ({"sessions": {"chat": {}}}, "'chat' must be the id of a session"),
        ({"sessions": {"chat": ""}}, "'chat' must be the id of a session"),
        ({"sessions": {"": "c1"}}, "has 0 bytes and may have 1 to 128"),
        ({"sessions": {"ü" * 65: "c1"}}, "has 130 bytes and may have 1 to 128"),
        ({"sessions": {"chat": "c" * 513}}, "has 513 bytes and may have 1 to 512"),
        ({"sessions": {f"s{n}": "1" for n in range(6)}}, "has 6 sessions and may have 5"),
        ({"notes": "x" * 33_000}, "may have 32 KiB"),
    ],
)
def test_sessions_that_cannot_be_kept_are_refused_with_the_limit(meta: object, says: str) -> None:
    error = intake({"name": "a", "meta": meta}).error
    assert error is not None
    assert says in str(error)
    assert error.field == "meta"


def test_unknown_fields_before_a_bad_event_are_reported_and_those_of_the_bad_one_are_not() -> None:
    result = intake([{"name": "a/b", "x" * 500: 1}, {"name": "", "zzz": 1}])
    assert result.unknown == {("a/b", "x" * 60 + " ...")}


def test_an_unknown_field_counts_for_the_size_of_its_event() -> None:
    assert isinstance(intake({"name": "a", "zzz": "x" * 4_000_000}).error, TooLarge)


def test_a_name_of_a_field_that_json_does_not_have_is_refused_like_a_value() -> None:
    for field in (b'"zzz": "\\ud800"', b'"\\ud800": 1'):
        result = intake(b'{"name": "a", %b}' % field)
        assert result.events == ()
        assert result.error is not None


def test_inngest_data_of_a_sender_is_dropped() -> None:
    assert body_of({"name": "a", "data": {"_inngest": {"fn_id": "x"}, "n": 1}})["data"] == {"n": 1}


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ({}, "name is empty"),
        ({"name": 1}, "name must be text"),
        ({"name": "é" * 257}, "514 bytes and may have 512"),
        ({"name": "a", "data": []}, "data must be a JSON object"),
        ({"name": "a", "user": "x"}, "user must be a JSON object"),
        ({"name": "a", "id": 7}, "id must be text"),
        ({"name": "a", "id": "x" * 1025}, "the 1024 bytes it may have"),
        ({"name": "a", "v": 7}, "v must be text"),
        ({"name": "a", "ts": "now"}, "ts must be an integer"),
        ({"name": "a", "ts": True}, "ts must be an integer"),
        ({"name": "a", "ts": False}, "ts must be an integer"),
        ({"name": "a", "ts": 1780000000}, "not in seconds"),
        ({"name": "a", "ts": 4102444800001}, "outside 1980 to 2100"),
        ("text", "an event is a JSON object"),
        (None, "an event is a JSON object"),
    ],
)
def test_a_bad_event_says_what_is_wrong(event: object, says: str) -> None:
    result = intake(event)
    assert result.events == ()
    assert says in str(result.error)


@pytest.mark.parametrize("body", [b"", b"{", b"name=a", b"\xff", b'{"name":"a","data":{"x":NaN}}', b"[" * 100_000])
def test_a_body_that_is_not_json_is_an_error_and_no_crash(body: bytes) -> None:
    assert "send one event as a JSON object" in str(intake(body).error)


def test_too_many_events_name_the_limit_and_accept_none() -> None:
    assert len(intake([{"name": "a"}] * MAX_EVENTS).events) == MAX_EVENTS
    result = intake([{"name": "a"}] * (MAX_EVENTS + 1))
    assert result.events == ()
    assert "5001 events and may have 5000" in str(result.error)


def test_f76_an_event_above_the_limit_names_it() -> None:
    result = intake({"name": "a", "data": {"x": "y" * (3 << 20)}})
    assert isinstance(result.error, TooLarge)
    assert "may have 3 MiB" in str(result.error)


def test_an_invoke_by_api_may_have_the_servers_own_name() -> None:
    event = read_event({"data": {"x": 1}}, now=NOW, key="k", name="inngest/function.invoked")
    assert event.name == "inngest/function.invoked"


# System events


def test_trap_37_an_invoke_may_lack_data_and_keeps_what_it_has() -> None:
    event = invoked_event(id="I", at=NOW, function="my-app-child", data=b"null")
    assert json.loads(event.data) == {"_inngest": {"fn_id": "my-app-child"}}
    encrypted = b'{"_inngest":1,"encrypted":{"__ENCRYPTED__":true,"data":"x"}}'
    event = invoked_event(
        id="I", at=NOW, function="c", data=encrypted, correlation_id="r.s", expire=NOW + 1, name="call", v="1"
    )
    assert json.loads(event.body())["data"] == {
        "encrypted": {"__ENCRYPTED__": True, "data": "x"},
        "_inngest": {"fn_id": "c", "correlation_id": "r.s", "expire": NOW + 1, "name": "call"},
    }


def test_our_own_error_names_the_status() -> None:
    assert json.loads(own_error("X", "m", status=502))["error"] == "invalid status code: 502"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (rb'{"name": "a/b", "data": {"cut": "\ud83d"}}', r"\ud83d at byte 33"),
        (rb'{"name": "a/b", "data": {"cut": "\uDE00 rest"}}', r"\uDE00 at byte 33"),
        (rb'{"name": "a/b", "data": {"cut": "\\\ud83d\ud83d\ude00"}}', r"\ud83d at byte 35"),
    ],
)
def test_half_of_an_emoji_is_called_that(text: bytes, where: str) -> None:
    error = str(intake(text).error)
    assert error.startswith(f"the body is not valid JSON: {where} is a lone surrogate, half of a letter that needs two")


@pytest.mark.parametrize(
    "text", [rb'{"name": "\ud83d\ude00', rb'{"name": "\ud83d', rb'{"name": "\ud83d\ud', rb'{"name": "\\ud83d ']
)
def test_a_text_that_ends_too_soon_is_called_that(text: bytes) -> None:
    assert "truncated" in str(intake(text).error)
