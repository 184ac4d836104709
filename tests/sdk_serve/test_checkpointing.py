"""A function served over HTTP goes on after a step that the server has recorded, and stops when it is told to."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

import stepwell
from stepwell.model.ids import step_id
from stepwell.sdk.serve.handler import Handler
from stepwell.sdk.serve.reporting import WITHOUT_S
from stepwell.sdk.serve.settings import serve_settings
from stepwell.wire.inngest.reply import Response
from tests.sdk_client.scripted import Asked, Reply, Scripted, scripted
from tests.sdk_serve.exchanges import KEY, NOW, OTHER_KEY, RUN, a_call

OFFER: dict[str, Any] = {"fn_id": "f-1", "qi_id": f"{RUN}.2", "generation_id": 3, "request_id": "r-1"}
ran: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


async def value(result: Any) -> Any:
    ran.append(str(result))
    return result


def plain_value(result: Any) -> Any:
    ran.append(str(result))
    return result


async def fails(name: str, error: Exception) -> None:
    ran.append(name)
    raise error


def a_service(**options: Any) -> stepwell.Service:
    service = stepwell.Service("s", **options)

    @service.function(on="t/e")
    async def linear(ctx: stepwell.Context[Any]) -> int:
        total = 0
        for number in range(4):
            total += await ctx.step.run(f"s{number}", value, number)
        return total

    @service.function(on="t/e")
    def blocking(ctx: stepwell.SyncContext[Any]) -> Any:
        first = ctx.step.run("first", plain_value, 1)
        both = ctx.step.parallel([lambda: ctx.step.run("a", plain_value, "a"), lambda: ctx.step.run("b", value, "b")])
        return [first, *both, ctx.step.run("last", plain_value, 2)]

    @service.function(on="t/e")
    async def joined(ctx: stepwell.Context[Any]) -> Any:
        first = await ctx.step.run("first", value, "first")
        many = await asyncio.gather(*[ctx.step.run(f"many {n}", value, n) for n in range(50)])
        return [first, sum(many), await ctx.step.run("last", value, "last")]

    @service.function(on="t/e", id="limited", concurrency=2)
    async def limited(ctx: stepwell.Context[Any]) -> Any:
        return await asyncio.gather(*[ctx.step.run(f"many {n}", value, n) for n in range(3)])

    @service.function(on="t/e")
    async def branches(ctx: stepwell.Context[Any]) -> Any:
        async def branch(name: str) -> str:
            await ctx.step.run(f"{name}1", value, f"{name}1")
            return str(await ctx.step.run(f"{name}2", value, f"{name}2"))

        await ctx.step.run("first", value, "first")
        return await asyncio.gather(branch("a"), branch("b"))

    @service.function(on="t/e")
    async def naps(ctx: stepwell.Context[Any]) -> str:
        await ctx.step.run("before", value, "before")
        await asyncio.gather(ctx.step.sleep("nap", "1h"), ctx.step.run("beside", value, "beside"))
        return "rested"

    @service.function(on="t/e")
    async def failing(ctx: stepwell.Context[Any]) -> Any:
        await ctx.step.run("before", value, "before")
        await ctx.step.run("bad", fails, "bad", stepwell.RetryAfterError(timedelta(seconds=30), "busy"))
        return await ctx.step.run("after", value, "after")

    @service.function(on="t/e")
    async def some_fail(ctx: stepwell.Context[Any]) -> Any:
        return await asyncio.gather(
            ctx.step.run("a", value, "a"),
            ctx.step.run("b", fails, "b", ValueError("again")),
            ctx.step.run("c", fails, "c", stepwell.NonRetriableError("never")),
            ctx.step.run("d", value, "d"),
        )

    @service.function(on="t/e")
    async def raising(ctx: stepwell.Context[Any]) -> Any:
        await ctx.step.run("before", value, "before")
        raise ValueError("of the function")

    return service


async def answered(
    server: Scripted, slug: str, *, service: stepwell.Service | None = None, **call: Any
) -> tuple[Response, Any]:
    handler = Handler(service or a_service(), serve_settings(dev=True, url=server.url, environment={}))
    try:
        response = await handler.handle(a_call(f"s-{slug}", **{**OFFER, **call}))
    finally:
        await handler.close()
    return response, json.loads(response.body)


def reported(server: Scripted) -> list[list[str]]:
    """The steps of each report, by name."""
    return [[op["displayName"] for op in asked.json()["steps"]] for asked in server.to(f"/v1/checkpoint/{RUN}/async")]


def always(status: int) -> Callable[[Asked], Reply]:
    return lambda asked: Reply(status, {"error": "as told"})


def names(ops: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(op["op"], op["displayName"]) for op in ops]


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted(always(200)) as server:
        yield server


async def test_a_sequence_is_one_call_and_a_report_for_each_step(server: Scripted) -> None:
    response, result = await answered(server, "linear")
    assert (response.status, result) == (200, 6)
    assert reported(server) == [["s0"], ["s1"], ["s2"], ["s3"]]
    sent = server.asked[0].json()
    assert {name: sent[name] for name in ("run_id", "fn_id", "qi_id", "generation_id", "request_id")} == {
        "run_id": RUN,
        **OFFER,
    }
    (op,) = sent["steps"]
    assert (op["op"], op["id"], op["data"]) == ("StepRun", step_id("s0", 0), 0)
    assert op["timing"]["a"] >= sent["request_started_at"] * 1_000_000


async def test_code_after_a_step_waits_for_the_answer_to_its_report() -> None:
    seen: list[list[str]] = []

    def script(asked: Asked) -> Reply:
        seen.append(list(ran))
        return Reply()

    with scripted(script) as server:
        await answered(server, "linear")
    assert seen == [["0"], ["0", "1"], ["0", "1", "2"], ["0", "1", "2", "3"]]


async def test_a_sync_function_goes_on_too(server: Scripted) -> None:
    response, result = await answered(server, "blocking")
    assert (response.status, result) == (200, [1, "a", "b", 2])
    assert sorted(itertools.chain.from_iterable(reported(server))) == ["a", "b", "first", "last"]
    assert sorted(ran) == ["1", "2", "a", "b"]


async def test_steps_that_are_joined_run_in_the_same_call_and_are_reported_together(server: Scripted) -> None:
    response, result = await answered(server, "joined")
    assert (response.status, result) == (200, ["first", sum(range(50)), "last"])
    assert len(ran) == 52
    told = reported(server)
    assert sorted(itertools.chain.from_iterable(told)) == sorted(["first", "last", *[f"many {n}" for n in range(50)]])
    assert len(told) < 10


@pytest.mark.parametrize(
    ("slug", "options"),
    [("limited", {}), ("joined", {"checkpointing": stepwell.Checkpointing(parallel=False)})],
)
async def test_steps_that_are_to_be_spread_are_planned(server: Scripted, slug: str, options: Any) -> None:
    steps = {"first": {"data": "first"}} if slug == "joined" else {}
    response, ops = await answered(server, slug, service=a_service(**options), steps=steps)
    assert response.status == 206
    assert {op["op"] for op in ops} == {"StepPlanned"}
    assert ran == []


async def test_branches_are_planned_for_one_may_go_on_before_the_other(server: Scripted) -> None:
    response, ops = await answered(server, "branches")
    assert response.status == 206
    assert [(op["op"], op["displayName"], op["opts"].get("parallelMode")) for op in ops] == [
        ("StepPlanned", "a1", "race"),
        ("StepPlanned", "b1", "race"),
    ]
    assert reported(server) == [["first"]]


async def test_what_the_function_waits_for_is_in_the_answer(server: Scripted) -> None:
    response, ops = await answered(server, "naps")
    assert response.status == 206
    assert names(ops) == [("Sleep", "nap"), ("StepPlanned", "beside")]
    assert reported(server) == [["before"]]


async def test_a_step_that_fails_is_in_the_answer_with_its_time(server: Scripted) -> None:
    response, ops = await answered(server, "failing")
    assert response.status == 206
    assert names(ops) == [("StepError", "bad")]
    assert response.headers["Retry-After"]
    assert reported(server) == [["before"]]
    assert ran == ["before", "bad"]


async def test_of_several_steps_those_that_fail_are_in_the_answer_when_all_have_ended(server: Scripted) -> None:
    response, ops = await answered(server, "some-fail")
    assert response.status == 206
    assert sorted(ran) == ["a", "b", "c", "d"]
    told = list(itertools.chain.from_iterable(reported(server)))
    found = names(ops) + [("reported", name) for name in told]
    assert sorted(name for _, name in found) == ["a", "b", "c", "d"]
    assert {("StepError", "b"), ("StepFailed", "c")} <= set(names(ops))
    assert response.headers["x-inngest-no-retry"] == "false"


async def test_a_function_that_raises_after_a_report_answers_its_error(server: Scripted) -> None:
    response, error = await answered(server, "raising")
    assert (response.status, error["message"]) == (500, "of the function")
    assert reported(server) == [["before"]]


async def test_a_call_that_is_stale_stops_the_function() -> None:
    with scripted(always(409)) as server:
        response, error = await answered(server, "linear")
    assert (response.status, error["code"]) == (500, "stopped")
    assert ran == ["0"]
    assert len(server.asked) == 1


async def test_a_stale_call_stops_the_thread_of_a_sync_function() -> None:
    with scripted(always(409)) as server:
        response, _ = await answered(server, "blocking")
    assert response.status == 500
    assert ran == ["1"]


@pytest.mark.parametrize(
    ("statuses", "tries"),
    [((500,), 5), ((503,), 5), ((404,), 1), ((501,), 1), ((413,), 1), ((400,), 1)],
)
async def test_what_cannot_be_reported_is_in_the_answer(
    statuses: tuple[int, ...], tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepwell.sdk.client.requests.FIRST_PAUSE_S", 0.001)
    with scripted(always(statuses[0])) as server:
        response, ops = await answered(server, "linear")
    assert response.status == 206
    assert names(ops) == [("StepRun", "s0")]
    assert len(server.asked) == tries
    assert ran == ["0"]


async def test_a_report_that_gets_through_in_the_end_costs_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwell.sdk.client.requests.FIRST_PAUSE_S", 0.001)
    replies = itertools.cycle([Reply(503), Reply(cut=True), Reply()])
    with scripted(lambda asked: next(replies)) as server:
        response, result = await answered(server, "linear")
    assert (response.status, result) == (200, 6)
    assert ran == ["0", "1", "2", "3"]


async def test_where_reports_do_not_arrive_none_is_tried_for_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with scripted(always(501)) as server:
        handler = Handler(a_service(), serve_settings(dev=True, url=server.url, environment={}))
        now = [0.0]
        monkeypatch.setattr(handler._reporting, "_now_s", lambda: now[0])
        now[0] = 1.0
        with caplog.at_level(logging.WARNING, "stepwell.serve"):
            for _ in range(3):
                response = await handler.handle(a_call("s-linear", **OFFER))
                assert names(json.loads(response.body)) == [("StepRun", "s0")]
        assert len(server.asked) == 1
        now[0] += WITHOUT_S + 1
        await handler.handle(a_call("s-linear", **OFFER))
        assert len(server.asked) == 2
        await handler.close()
    assert server.url in next(record.message for record in caplog.records if "STEPWELL_URL" in record.message)


@pytest.mark.parametrize(
    "call",
    [
        {"fn_id": None},
        {"qi_id": None},
        {"attempt": 1},
        {"disable_immediate_execution": True},
        {"target": "s0"},
    ],
)
async def test_a_call_that_offers_no_reports_is_answered_step_by_step(server: Scripted, call: dict[str, Any]) -> None:
    response, ops = await answered(server, "linear", **call)
    assert response.status == 206
    assert [op["displayName"] for op in ops] == ["s0"]
    assert server.asked == []


async def test_a_service_may_want_no_reports(server: Scripted) -> None:
    _, ops = await answered(server, "linear", service=a_service(checkpointing=False))
    assert names(ops) == [("StepRun", "s0")]
    assert server.asked == []


async def test_a_call_that_took_its_time_is_answered_with_the_step_that_was_running(server: Scripted) -> None:
    service = stepwell.Service("s", checkpointing=stepwell.Checkpointing(max_runtime="100ms"))

    @service.function(on="t/e")
    async def slow(ctx: stepwell.Context[Any]) -> None:
        for number in range(10):
            await ctx.step.run(f"s{number}", asyncio.sleep, 0.06)

    response, ops = await answered(server, "slow", service=service)
    assert response.status == 206
    assert names(ops) == [("StepRun", f"s{len(reported(server))}")]
    assert 1 <= len(reported(server)) < 3


async def test_recorded_steps_are_handed_out_before_new_ones_are_run_and_reported(server: Scripted) -> None:
    response, result = await answered(server, "linear", steps={"s0": {"data": 10}, "s1": {"data": 20}})
    assert (response.status, result) == (200, 35)
    assert ran == ["2", "3"]
    assert reported(server) == [["s2"], ["s3"]]


async def test_reports_carry_the_key_and_the_older_one_if_that_is_refused() -> None:
    def script(asked: Asked) -> Reply:
        return Reply(401 if asked.headers["authorization"] == first else 200)

    from stepwell.wire.signature import bearer_hash

    first = f"Bearer {bearer_hash(OTHER_KEY)}"
    environment = {"STEPWELL_SIGNING_KEY": OTHER_KEY, "STEPWELL_SIGNING_KEY_FALLBACK": KEY}
    with scripted(script) as server:
        handler = Handler(a_service(), serve_settings(url=server.url, environment=environment), now_s=lambda: NOW)
        response = await handler.handle(a_call("s-linear", key=KEY, **OFFER))
        await handler.close()
    assert response.status == 200
    assert [asked.headers["authorization"] == first for asked in server.asked] == [True, False] * 4


async def test_a_bug_in_reporting_does_not_leave_the_call_without_an_answer(
    server: Scripted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> bytes:
        raise RuntimeError("a bug")

    monkeypatch.setattr("stepwell.sdk.serve.reporting.write_checkpoint", broken)
    _, ops = await answered(server, "linear")
    assert names(ops) == [("StepRun", "s0")]
    assert "a bug" in caplog.text


def test_a_runtime_that_is_none_is_refused() -> None:
    with pytest.raises(stepwell.DefinitionError, match="max_runtime"):
        stepwell.Checkpointing(max_runtime="soon")
