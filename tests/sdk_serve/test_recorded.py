"""Our service answers what the official SDK answered to the same requests, where both mean the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stepwell.model.op import StepErrored
from stepwell.sdk.serve.handler import Handler
from stepwell.sdk.serve.settings import serve_settings
from stepwell.wire.inngest.reply import Failure, Ops, Response, Result, read_reply
from tests.sdk_client.scripted import Asked, Reply, scripted
from tests.sdk_serve.exchanges import recorded
from tests.sdk_serve.twin import service

CALLS = """
completion completion-null function-error function-error-last-attempt invoke-function invoke-function-failed
invoke-function-timeout non-retriable retry-after sleep sleep-until
step-error step-error-caught step-error-escaped step-planned-alone step-planned-race
step-run step-run-repeated-id step-run-second step-run-without-result step-targeted-race
unknown-function unknown-step wait-for-event wait-for-event-matched
""".split()


def a_handler(url: str = "http://127.0.0.1:1") -> Handler:
    return Handler(service, serve_settings(dev=True, url=url, framework="fast_api", environment={}))


@pytest.mark.parametrize("name", CALLS)
async def test_the_answer_to_a_recorded_call_means_what_the_official_answer_means(name: str) -> None:
    request, expected, _ = recorded(f"python-{name}")
    response = await a_handler().handle(request)
    assert meaning_of(response) == meaning_of(official(expected))


@pytest.mark.parametrize(
    ("name", "retry"), [("non-retriable-step", False), ("retry-after-step", True), ("step-error-last-attempt", True)]
)
async def test_a_step_that_chose_its_retries_is_reported_as_a_step(name: str, retry: bool) -> None:
    # The official SDK reports the first two as errors of the whole function, and counts attempts for the server.
    request, expected, _ = recorded(f"python-{name}")
    response = await a_handler().handle(request)
    reply = read_reply(response.status, response.headers, response.body, now=NOW_MS)
    assert isinstance(reply, Ops)
    (op,) = reply.ops
    assert isinstance(op, StepErrored)
    assert op.retry is retry
    sent = expected["body"][0]["error"] if isinstance(expected["body"], list) else expected["body"]
    assert json.loads(op.error)["message"] == sent["message"]  # type: ignore[arg-type]
    official_reply = read_reply(
        expected["status"], expected["headers"], json.dumps(expected["body"]).encode(), now=NOW_MS
    )
    if name == "retry-after-step":
        assert isinstance(official_reply, Failure)
        assert op.retry_at is not None


async def test_state_that_is_too_large_for_a_request_is_fetched() -> None:
    request, expected, asked = recorded("python-use-api")
    answers = {one["request"]["path"]: one["response"]["body"] for one in asked}
    with scripted(lambda asked: Reply(value=answers[asked.path])) as server:
        response = await a_handler(server.url).handle(request)
    assert meaning_of(response) == meaning_of(official(expected))
    assert sorted(one.path for one in server.asked) == sorted(answers)


async def test_state_that_cannot_be_fetched_is_an_error_that_is_tried_again() -> None:
    request, _, _ = recorded("python-use-api")
    gone = {"error": "runtime state is no longer available", "status": 410}
    with scripted(lambda asked: Reply(410, gone)) as server:
        response = await a_handler(server.url).handle(request)
    assert response.status == 500
    assert "no longer available" in response.body.decode()


async def test_a_send_in_a_step_is_one_request_with_ids_that_a_repetition_would_share() -> None:
    request, expected, _ = recorded("python-send-event")

    def accept(asked: Asked) -> Reply:
        return Reply(value={"ids": ["01K0SENT000000000000000000"], "status": 200})

    with scripted(accept) as server:
        first = await a_handler(server.url).handle(request)
        await a_handler(server.url).handle(request)
    assert meaning_of(first) == meaning_of(official(expected))
    one, other = (asked.json() for asked in server.asked)
    assert one == other
    assert one[0]["name"] == "fastapi/linear"
    assert one[0]["id"]


async def test_introspection_has_the_official_fields() -> None:
    request, expected, _ = recorded("python-introspection")
    response = await a_handler().handle(request)
    body = json.loads(response.body)
    assert body.keys() == expected["body"].keys()
    assert body["mode"] == "dev"
    assert body["function_count"] == len(service.functions)


async def test_registration_says_what_the_official_registration_says() -> None:
    exchanges = json.loads((_path("python-register")).read_text())
    (official_one,) = [one["request"]["body"] for one in exchanges if one["from"] == "sdk"]
    with scripted(lambda asked: Reply(value={"ok": True, "modified": True, "status": 200})) as server:
        request, _, _ = recorded("python-introspection")
        put = type(request)("PUT", request.url, request.headers, b"")
        response = await a_handler(server.url).handle(put)
    assert response.status == 200
    assert json.loads(response.body)["modified"] is True
    (asked,) = server.asked
    assert asked.path == "/fn/register"
    assert asked.headers["x-inngest-expected-server-kind"] == "dev"
    ours = asked.json()
    by_id = {one["id"]: one for one in ours["functions"]}
    for function in official_one["functions"]:
        if function["id"] not in by_id:
            continue
        mine = by_id[function["id"]]
        assert mine["triggers"] == function["triggers"]
        assert mine["steps"] == function["steps"]
    assert ours["appName"] == official_one["appname"]
    assert ours["url"] == official_one["url"]


def _path(name: str) -> Any:
    from tests.sdk_serve.exchanges import RECORDED

    return RECORDED / f"{name}.json"


def official(response: dict[str, Any]) -> Response:
    body = response["body"]
    return Response(response["status"], json.dumps(body).encode(), response["headers"])


NOW_MS = 1_780_000_000_000


def meaning_of(response: Response) -> Any:
    """What a server makes of an answer, less what two SDKs may differ in: inputs, timing, tracebacks, wording."""
    reply = read_reply(response.status, response.headers, response.body, now=NOW_MS)
    if isinstance(reply, Ops):
        return [_op(op) for op in reply.ops]
    if isinstance(reply, Result):
        return json.loads(reply.output)
    error = json.loads(reply.error)
    ours_alone = error.get("code") in {"step_unexpected", "function_not_found"}
    shown = error["code"] if ours_alone else (error["name"], error["message"])
    return ("failed", reply.retry, reply.retry_at is not None, shown)


def _op(op: Any) -> Any:
    kept = {
        name: getattr(op, name)
        for name in ("step", "name", "index", "output", "retry", "race", "event", "expression", "function")
        if hasattr(op, name)
    }
    if hasattr(op, "error"):
        error = json.loads(op.error)
        kept["error"] = (error["name"], error["message"])
        kept["retried_at_its_own_time"] = op.retry_at is not None
    if hasattr(op, "data"):
        kept["data"] = json.loads(op.data)
    if getattr(op, "until", None) is not None and op.name == "until":
        kept["until"] = op.until
    return (type(op).__name__, kept)
