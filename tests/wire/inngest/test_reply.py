"""Replies: a success only when it is one, and a name for everything else."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.model.ids import JobId, StepId
from stepwell.model.message import CallInfo, CallLost, Raised, Replied, Returned
from stepwell.model.op import Sleep, StepDone, StepErrored
from stepwell.wire.inngest.reply import (
    MAX_BODY_BYTES,
    Failure,
    Ops,
    Reply,
    Result,
    read_reply,
    respond_error,
    respond_ops,
    respond_result,
    retry_after,
    signed,
    to_message,
)
from stepwell.wire.signature import verify

RECORDED = Path(__file__).parents[1] / "recorded"
NOW = 1_780_000_000_000
SDK = {"X-Inngest-SDK": "inngest-py:v0.5.18", "X-Inngest-Req-Version": "2"}
HASH = StepId("86f7e437faa5a7fce15d1ddcb9eaeaea377667b8")


def read(status: int, body: bytes | object, headers: dict[str, str] | None = None, **more: Any) -> Reply:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_reply(status, SDK if headers is None else headers, text, now=NOW, **more)


def failure(reply: Reply) -> Failure:
    assert isinstance(reply, Failure)
    return reply


def message_of(reply: Reply) -> str:
    return str(json.loads(failure(reply).error)["message"])


def test_a_result_is_canonical() -> None:
    assert read(200, b' {"b": 1.0, "a": null} ') == Result(b'{"a":null,"b":1}', 2)
    assert read(200, b"") == Result(b"null", 2)


@pytest.mark.parametrize("name", ["x-inngest-sdk", "X-Inngest-Sdk", "X-INNGEST-SDK"])
def test_trap_23_header_names_are_read_in_any_case(name: str) -> None:
    assert read(200, b"1", {name: "x"}) == Result(b"1", None)


def test_ops_are_read_from_an_object_or_an_array() -> None:
    op = {"op": "StepRun", "id": HASH, "data": 1}
    expected = Ops((StepDone(step=HASH, output=b"1"),), 2)
    assert read(206, [op]) == read(206, op) == expected
    assert read(206, []) == read(206, [{"op": "None"}]) == Ops((), 2)


def test_trap_29_a_4xx_without_the_header_is_tried_again() -> None:
    for status in (400, 401, 404, 429, 500, 503):
        assert failure(read(status, {"name": "E", "message": "m"})).retry


def test_trap_39_no_retry_ends_the_run_on_the_first_attempt() -> None:
    reply = failure(read(500, {"name": "E", "message": "m"}, {**SDK, "x-inngest-no-retry": "true", "retry-after": "5"}))
    assert (reply.retry, reply.retry_at) == (False, None)
    assert failure(read(400, {}, {**SDK, "x-inngest-no-retry": "false"})).retry


def test_trap_41_the_error_is_kept_as_it_was_sent() -> None:
    error = {"code": "unknown", "message": "m", "name": "E", "stack": None}
    assert json.loads(failure(read(500, error)).error) == error
    assert json.loads(failure(read(500, json.dumps(error).encode())).error) == error
    assert json.loads(failure(read(500, json.dumps(json.dumps(error)).encode())).error) == error


@pytest.mark.parametrize(
    ("body", "says"),
    [(b"boom", "answered HTTP 500: 'boom'"), (b"", "(empty)"), (b'"text"', "text"), (b"\xff", "HTTP 500")],
)
def test_an_error_that_is_no_object_becomes_one(body: bytes, says: str) -> None:
    reply = read(500, body)
    assert says in message_of(reply)
    assert not failure(reply).lost


def test_trap_40_a_streamed_answer_is_unwrapped() -> None:
    inner = json.dumps([{"op": "StepRun", "id": HASH, "data": 1}])
    text = b" \n \n" + json.dumps({"status": 206, "headers": {"x-inngest-req-version": "1"}, "body": inner}).encode()
    assert read(201, text) == Ops((StepDone(step=HASH, output=b"1"),), 1)
    assert read(201, {"status": 200, "headers": {}, "body": {"x": 1}}) == Result(b'{"x":1}', 2)
    assert read(201, {"status": 200, "body": '"text"'}) == Result(b'"text"', 2)
    failed = failure(read(201, {"status": 500, "headers": {"X-Inngest-No-Retry": "true"}, "body": '{"message":"m"}'}))
    assert (failed.retry, failed.error) == (False, b'{"message":"m"}')
    assert json.loads(failure(read(201, {"status": 200, "body": "1", "error": {"message": "e"}})).error) == {
        "message": "e"
    }


@pytest.mark.parametrize(
    "body",
    [
        b"   ",
        b"{",
        b"[]",
        b'{"body":"1"}',
        b'{"status":"200","body":"1"}',
        b'{"status":201,"body":"1"}',
        b'{"status":200,"body":"x"}',
    ],
)
def test_a_streamed_answer_that_was_cut_is_lost(body: bytes) -> None:
    assert failure(read(201, body)).lost


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b'{"a":'),
        (206, b'[{"op":"StepRun"'),
        (200, b"\xff\xfe"),
        (206, b""),
        (206, b"1"),
        (206, b'["x"]'),
        (200, b"[" * 100_000),
        (200, b"NaN"),
    ],
)
def test_f16_what_is_not_whole_json_is_never_a_success(status: int, body: bytes) -> None:
    reply = failure(read(status, body))
    assert (reply.lost, reply.retry, reply.code) == (True, True, "invalid_response")


def test_f16_a_number_that_might_have_been_cut_is_not_believed() -> None:
    assert read(200, b"42", framed=True) == Result(b"42", 2)
    for body in (b"42", b"", b" -1.5 "):
        assert failure(read(200, body, framed=False)).code == "truncated_response"
    assert read(200, b'{"a":1}', framed=False) == Result(b'{"a":1}', 2)
    assert read(201, {"status": 200, "body": "42"}, framed=False) == Result(b"42", 2)


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (502, "http_502", "HTTP 502 Bad Gateway (text/html)"),
        (404, "http_404", "HTTP 404 Not Found"),
        (401, "http_401", "HTTP 401 Unauthorized"),
        (200, "not_sdk", "does the URL of the service lead to its Inngest endpoint?"),
        (206, "not_sdk", "HTTP 206"),
        (201, "not_sdk", "HTTP 201"),
        (599, "http_599", "HTTP 599"),
    ],
)
def test_f64_what_is_no_sdk_is_tried_again_and_named(status: int, code: str, says: str) -> None:
    reply = read(status, b"<html>oops</html>", {"Content-Type": "text/html; charset=utf-8"})
    assert (failure(reply).code, failure(reply).retry, failure(reply).lost) == (code, True, False)
    assert says in message_of(reply)
    assert "<html>oops" in message_of(reply)
    assert json.loads(failure(reply).error)["error"] == f"invalid status code: {status}"


def test_f64_a_proxy_may_say_when() -> None:
    assert failure(read(429, b"slow down", {"Retry-After": "30"})).retry_at == NOW + 30_000


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("3", NOW + 3_000),
        (" 3 ", NOW + 3_000),
        ("0", NOW + 1_000),
        ("-7", NOW + 1_000),
        ("1.5", NOW + 1_500),
        ("9999999", NOW + 86_400_000),
        ("2026-05-28T20:26:50Z", NOW + 10_000),
        ("2026-05-28T20:26:50.250Z", NOW + 10_250),
        ("Thu, 28 May 2026 20:26:50 GMT", NOW + 10_000),
        ("2020-01-01T00:00:00Z", NOW + 1_000),
        ("2030-01-01T00:00:00Z", NOW + 86_400_000),
        ("12345678", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1e5", None),
        ("", None),
        ("٣", None),
    ],
)
def test_trap_30_retry_after_is_read_clamped_and_garbage_ignored(text: str, at: int | None) -> None:
    assert retry_after(text, NOW) == at


def test_retry_headers_reach_the_failed_step() -> None:
    op = {"op": "StepError", "id": HASH, "error": {"message": "m"}}
    later = read(206, [op], {**SDK, "retry-after": "2"})
    assert isinstance(later, Ops)
    assert isinstance(later.ops[0], StepErrored)
    assert later.ops[0].retry_at == NOW + 2_000
    never = read(206, [op], {**SDK, "x-inngest-no-retry": "true"})
    assert isinstance(never, Ops)
    assert isinstance(never.ops[0], StepErrored)
    assert not never.ops[0].retry


@pytest.mark.parametrize("version", ["", "x", "-1", "²", "99999999"])
def test_a_version_that_is_none_is_ignored(version: str) -> None:
    assert read(200, b"1", {**SDK, "X-Inngest-Req-Version": version}) == Result(b"1", None)


def test_f76_an_answer_above_the_limit_names_it_and_is_not_tried_again() -> None:
    reply = read(200, b" " * (MAX_BODY_BYTES + 1))
    assert (failure(reply).code, failure(reply).retry) == ("output_too_large", False)
    assert "8 MiB" in message_of(reply)


def test_f76_too_many_ops_fail_the_run() -> None:
    reply = failure(read(206, [{"op": "StepRun", "id": HASH}] * 1001))
    assert (reply.code, reply.retry, reply.lost) == ("InngestErrFunctionOverflowed", False, False)


def test_a_reply_becomes_a_message() -> None:
    job, info = JobId("J"), CallInfo(status=500)
    assert to_message(job, Ops((), 2), info) == Replied(job, (), 2, info)
    assert to_message(job, Result(b"1", 2), info) == Returned(job, b"1", 2, info)
    assert to_message(job, Failure(b"{}", False, None, 2, "c"), info) == Raised(job, b"{}", False, None, 2, info, "c")
    assert to_message(job, Failure(b"{}", code="c", lost=True), info) == CallLost(job, b"{}", info=info, code="c")


def test_our_own_replies_read_back() -> None:
    sdk = "stepwell-py:v0.1.0"
    ops = (Sleep(step=HASH, name="nap", for_ms=1500),)
    for response, reply in [
        (respond_ops(ops, sdk=sdk), Ops(ops, 2)),
        (respond_result(b'{"a":1}', sdk=sdk), Result(b'{"a":1}', 2)),
        (respond_error(b'{"message":"m"}', sdk=sdk), Failure(b'{"message":"m"}', version=2, code="http_500")),
        (respond_error(b"{}", sdk=sdk, retry=False, retry_at=NOW), Failure(b"{}", False, version=2, code="http_400")),
        (
            respond_error(b"{}", sdk=sdk, retry_at=NOW + 5_250),
            Failure(b"{}", retry_at=NOW + 5_250, version=2, code="http_500"),
        ),
    ]:
        assert read_reply(response.status, response.headers, response.body, now=NOW) == reply
    response = signed(respond_result(b"1", sdk=sdk), key="signkey-test-12345678", now_s=9)
    assert verify(response.body, response.headers["X-Inngest-Signature"], ["signkey-test-12345678"], now_s=9)


@given(st.sampled_from([200, 201, 206, 302, 400, 500]), st.binary(max_size=40), st.booleans())
@settings(max_examples=200, deadline=None)
def test_no_answer_crashes_the_reader(status: int, body: bytes, framed: bool) -> None:
    read_reply(status, SDK, body, now=NOW, framed=framed)


LATER = 1_890_000_000_000  # less than 366 days before the moment that the recorded services sleep until
RESPONSES = [path for path in sorted(RECORDED.glob("*.json")) if '"from": "server"' in path.read_text()]


@pytest.mark.parametrize("recording", RESPONSES, ids=lambda path: path.stem)
def test_what_official_sdks_answered_is_understood(recording: Path) -> None:
    for exchange in json.loads(recording.read_text()):
        request, response = exchange["request"], exchange["response"]
        if exchange["from"] != "server" or request["method"] != "POST":
            continue
        text = json.dumps(response["body"]).encode()
        reply = read_reply(response["status"], response["headers"], text, now=LATER)
        match response["status"]:
            case 206:
                assert isinstance(reply, Ops)
                assert len(reply.ops) == len(response["body"])
                for op, item in zip(reply.ops, response["body"], strict=True):
                    assert op.step == item["id"]
                    assert op.name == item.get("displayName", "")
                    assert type(op).__name__ != "Unknown"
                assert reply.version == 2
                assert reply.odd == ()
            case 200:
                assert isinstance(reply, Result)
                assert json.loads(reply.output) == response["body"]
            case _:
                assert isinstance(reply, Failure)
                assert json.loads(reply.error) == response["body"]
                assert reply.retry is (response["headers"].get("x-inngest-no-retry") != "true")
                assert (reply.retry_at is None) is ("retry-after" not in response["headers"])


def test_a_step_that_returned_half_of_an_emoji_is_told_so() -> None:
    reply = read(206, rb'[{"op": "StepRun", "id": "a", "data": "\ud83d"}]')
    assert isinstance(reply, Failure)
    assert "not valid JSON: \\\\ud83d at byte 39 is a lone surrogate" in reply.error.decode()


def test_a_streamed_result_is_told_of_when_it_was_rounded() -> None:
    reply = read(201, {"status": 200, "headers": {}, "body": {"id": 2**53 + 1}})
    assert isinstance(reply, Result)
    assert reply.output == b'{"id":9007199254740992}'
    assert "9007199254740993, which became 9007199254740992" in reply.odd[0].text


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"<html><head><title>502 Bad Gateway</title></head></html>", "<title>502 Bad Gateway</title>"),
        (b"upstream gateway timed out", "upstream gateway timed out"),
        (b'{"message": "Bad Gateway of the shop"}', "Bad Gateway of the shop"),
    ],
)
def test_what_a_gateway_answers_in_place_of_the_app_is_shown(body: bytes, shown: str) -> None:
    for headers in ({}, SDK):
        assert shown in message_of(read(502, body, dict(headers)))


@pytest.mark.parametrize("op", ["Gateway", "AIGateway", "aigateway"])
@pytest.mark.parametrize("status", [200, 206, 201, 500])
def test_a_malformed_answer_with_requests_for_the_server_is_not_shown(op: str, status: int) -> None:
    ops = f'[{{"op": "{op}", "opts": {{"headers": {{"Authorization": "Bearer secret"}}'
    streamed = json.dumps({"status": 206, "body": ops})[:-1]
    for body in (ops, streamed, f"warning: deprecated\n{ops}"):
        for headers in ({}, SDK):
            message = message_of(read(status, body.encode(), dict(headers)))
            assert "secret" not in message
            assert "(not shown: a request that the server is to make may hold credentials)" in message
