"""Calls that are lost, repeated, late, cut short or answered by somebody else: one result a step, whatever comes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import stepwell
from stepwell.model import journal
from stepwell.wire import worker as frames
from tests.faults.harness import Server, WorkerProgram, connected, until
from tests.faults.peer import Peer, step_done
from tests.faults.proxy import Proxy
from tests.faults.scripted import HEADERS, Call, Scripted, done, ops, planned, response, result, sleep, wait

pytestmark = pytest.mark.slow


async def outcomes(server: Server, run: str) -> list[str]:
    """How the calls of a run ended, in order, as its journal has it."""
    return [entry.outcome for entry in await server.journal(run) if isinstance(entry, journal.CallEnded)]


async def steps_then_result(call: Call) -> bytes:
    """A function of two steps, `a` and `b`, that returns both."""
    for step in ("a", "b"):
        if step not in call.steps:
            return ops(done(step, f"{step} of {call.run}"))
    return result([call.steps["a"]["data"], call.steps["b"]["data"]])


# The service goes away in the middle.


@pytest.mark.parametrize("how", ["reset", "gone"])
async def test_a_step_whose_service_goes_away_in_the_middle_is_tried_again(server: Server, how: str) -> None:
    """F10 over HTTP: the connection is reset; the process is gone for a second."""
    broken = asyncio.Event()
    started = asyncio.Event()

    async def answer(call: Call) -> bytes | None:
        if "a" in call.steps:
            return result(call.steps["a"]["data"])
        if call.attempt == 0 and not broken.is_set():
            started.set()
            await broken.wait()
            return None
        return ops(done("a", call.attempt))

    async with Scripted(server, {"f": answer}) as service:
        run = await server.run_of(await server.event("raw/f"))
        await started.wait()
        broken.set()
        if how == "gone":
            await service.close()
            await asyncio.sleep(1.5)
            await service.listen()
        ended = await server.completed(run)

    assert ended["output"] >= 1, "the attempt counts on"
    assert (await outcomes(server, run))[0] == "lost"
    assert [call.attempt for call in service.of(run)][:2] == [0, 1] or how == "gone"


async def test_a_step_whose_worker_is_killed_in_the_middle_runs_again_on_another(
    server: Server, tmp_path: Path
) -> None:
    """F10 over our own connection: SIGKILL of the process that runs the step."""
    first = WorkerProgram("slow", server, tmp_path)
    await server.serves("slow-nap")
    run = await server.run_of(await server.event("slow/nap", seconds=1.0))
    await until("the step", lambda: len(first.ledger()) == 1, 10, first.tail)
    first.kill()
    second = WorkerProgram("slow", server, tmp_path)
    try:
        ended = await server.completed(run)
    finally:
        await second.stop()

    assert ended["output"] == "rested"
    assert [line.step for line in second.ledger()] == ["nap", "nap"], "one execution was lost, one counts"
    assert (await outcomes(server, run))[0] == "lost"


async def test_a_late_report_of_a_call_that_was_made_again_is_refused(server: Server) -> None:
    """F11: the connection of a call is lost, the call is made again, and the first execution reports after all."""
    async with Peer(server) as early, Peer(server) as late:
        await early.greet("early")
        run = await server.run_of(await server.event("peer/f"))
        first = await early.call()
        await late.greet("late")
        await early.drop()
        second = await late.call()
        await late.send(frames.Report(call=first.call, number=1, ops=(step_done("a", b'"too late"'),)))
        refusal = await late.expect(frames.Stop)
        await late.send(frames.Report(call=second.call, number=1, ops=(step_done("a", b'"in time"'),)))
        await late.expect(frames.Ack)
        await late.send(frames.Returned(call=second.call, output=b'"over"'))
        await server.completed(run)

        assert (refusal.call, refusal.reason) == (first.call, "stale")
        assert second.call != first.call
        assert await outcomes(server, run) == ["lost", "answered"], "both executions can be seen"
        results = [entry for entry in await server.journal(run) if isinstance(entry, journal.StepCompleted)]
        assert [(entry.call, entry.output) for entry in results] == [(second.call, b'"in time"')]


async def test_a_step_longer_than_the_lease_of_its_server_runs_once(server: Server) -> None:
    """F12: the lease on its call is renewed while it runs, and used in the end."""
    executions = []
    service = stepwell.Service("long")

    @service.function(on="long/f")
    async def f(ctx: stepwell.Context[Any]) -> int:
        async def step() -> int:
            executions.append(ctx.attempt)
            await asyncio.sleep(4.5)  # a lease lasts 10 s and is renewed every 3.3 s
            return 1

        return await ctx.step.run("long", step)

    async with connected(server, service):
        run = await server.completed(await server.run_of(await server.event("long/f")), 30)

    assert run["output"] == 1
    assert executions == [0]


# A proxy that repeats and reorders.


async def test_frames_that_come_twice_change_nothing(server: Server) -> None:
    """F15 on our own connection: each frame of the worker is delivered twice, at once or after the next one."""
    executions: list[str] = []
    service = stepwell.Service("twice")

    @service.function(on="twice/f")
    async def f(ctx: stepwell.Context[Any]) -> list[int]:
        async def step(number: int) -> int:
            executions.append(f"{ctx.run_id} {number}")
            return number

        return [await ctx.step.run(f"step {number}", step, number) for number in range(5)]

    async with Proxy(server, repeats=True) as proxy, connected(proxy.as_server(), service):
        runs = [await server.run_of(await server.event("twice/f")) for _ in range(20)]
        ended = [await server.completed(run) for run in runs]

    assert proxy.repeated > 50
    assert all(run["output"] == [0, 1, 2, 3, 4] for run in ended)
    assert len(executions) == len(set(executions)) == 100


async def test_frames_in_the_wrong_order_cost_a_repeated_call_and_nothing_else(server: Server) -> None:
    """F15: two frames of the worker change places now and then; the connection is closed and the call made again."""
    service = stepwell.Service("order")

    @service.function(on="order/f")
    async def f(ctx: stepwell.Context[Any]) -> list[int]:
        async def step(number: int) -> int:
            await asyncio.sleep(0.01 * number)
            return number

        numbers = range(5)
        found = await asyncio.gather(*(ctx.step.run(f"step {number}", step, number) for number in numbers))
        return [*found, await ctx.step.run("last", step, 5)]

    async with Proxy(server, swaps=3) as proxy, connected(proxy.as_server(), service):
        runs = [await server.run_of(await server.event("order/f")) for _ in range(5)]
        ended = [await server.completed(run, 60) for run in runs]

    assert proxy.swapped == 3
    assert all(run["output"] == [0, 1, 2, 3, 4, 5] for run in ended)


async def test_an_answer_over_http_that_comes_twice_is_taken_once(server: Server) -> None:
    """F15 over HTTP: every answer is written twice on its connection, so the second meets whatever comes next."""

    async def answer(call: Call) -> bytes:
        right = await steps_then_result(call)
        return right + right

    async with Scripted(server, {"f": answer}):
        runs = [await server.run_of(await server.event("raw/f")) for _ in range(20)]
        ended = [await server.completed(run, 60) for run in runs]

    assert [run["output"] for run in ended] == [[f"a of {run}", f"b of {run}"] for run in runs]


async def test_an_answer_that_comes_again_in_place_of_the_next_one_does_no_harm(server: Server) -> None:
    """F15 over HTTP: the repeated answer is there before that of the next call, and is taken for it."""
    latest = [b""]

    async def answer(call: Call) -> bytes:
        right = await steps_then_result(call)
        before, latest[0] = latest[0], right
        return before + right

    async with Scripted(server, {"f": answer}):
        run = await server.run_of(await server.event("raw/f"))
        ended = await server.completed(run, 60)

    assert ended["output"] == [f"a of {run}", f"b of {run}"]


# Answers that are cut short.

CHUNKED = (
    b"HTTP/1.1 206 Because\r\ncontent-type: application/json\r\nx-inngest-sdk: py:v0.5.18\r\n"
    b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
)
CLOSING = {**HEADERS, "connection": "close"}


def _cut(keep: int) -> bytes:
    head, _, body = response(206, [done("a", "x" * 2000)], CLOSING).partition(b"\r\n\r\n")
    return head + b"\r\n\r\n" + body[:keep]


def _promised(more: int) -> bytes:
    text = b'[{"op":"StepRun","id":"a","displayName":"a","data":1}]'
    head = (
        f"HTTP/1.1 206 Because\r\nx-inngest-sdk: py:v0.5.18\r\nconnection: close\r\ncontent-length: {len(text) + more}"
    )
    return head.encode() + b"\r\n\r\n" + text


def _open_ended(text: bytes) -> bytes:
    return b"HTTP/1.1 200 Because\r\nx-inngest-sdk: py:v0.5.18\r\nconnection: close\r\n\r\n" + text


CUT = {
    "in the middle of the body": _cut(1000),
    "before the body": _cut(0),
    "a Content-Length above the body": _promised(7),
    "a Content-Length below the body": _promised(-7),
    "a broken chunk": CHUNKED + b"3e8\r\n" + b"[" * 10,
    "a chunk of no size": CHUNKED + b"xyz\r\n[]\r\n0\r\n\r\n",
    "no last chunk": CHUNKED + b"2\r\n[]\r\n",
    "the beginning of a number": _open_ended(b"12"),  # of 12345, and valid JSON by itself
    "nothing, where a result belongs": _open_ended(b""),
}


@pytest.mark.parametrize("cut", list(CUT))
async def test_an_answer_that_is_cut_short_is_never_a_result(server: Server, cut: str) -> None:
    """F16."""

    async def answer(call: Call) -> bytes:
        if call.attempt == 0 and not call.steps:
            return CUT[cut]
        return result(call.steps["a"]["data"]) if call.steps else ops(done("a", "whole"))

    async with Scripted(server, {"f": answer}) as service:
        run = await server.run_of(await server.event("raw/f"))
        ended = await server.completed(run)

    assert ended["output"] == "whole"
    assert [call.attempt for call in service.of(run)] == [0, 1, 0]
    assert (await outcomes(server, run))[0] in ("lost", "failed")


# Things that touch a run while a step runs.


@pytest.mark.parametrize("over", ["http", "connection"])
async def test_a_running_step_is_not_started_again_by_what_else_happens_to_its_run(server: Server, over: str) -> None:
    """F21: a timer, an event and a cancel come while step A runs."""
    executions: list[str] = []
    running = asyncio.Event()
    let_go = asyncio.Event()

    async def work() -> str:
        executions.append("A")
        running.set()
        await let_go.wait()
        return "A"

    service = stepwell.Service("busy")

    @service.function(on="busy/f", retries=0)
    async def f(ctx: stepwell.Context[Any]) -> str:
        found, _, paid = await asyncio.gather(
            ctx.step.run("A", work),
            ctx.step.sleep("nap", "300ms"),
            ctx.step.wait_for_event("paid", "busy/paid", timeout="1m"),
        )
        return f"{found} {paid and paid.name}"

    async def answer(call: Call) -> bytes:
        if call.target == "A":
            return ops(done("A", await work()))
        if not {"A", "nap", "paid"} & set(call.steps) and call.target is None and call.attempt == 0 and not seen:
            seen.append(call.run)
            return ops(planned("A"), sleep("nap", "300ms"), wait("paid", "busy/paid", "1m"))
        return result("A busy/paid") if {"A", "nap", "paid"} <= set(call.steps) else ops()

    seen: list[str] = []
    async with connected(server, service), Scripted(server, {"f": answer}):
        name = "raw/f" if over == "http" else "busy/f"
        for finally_cancelled in (False, True):
            executions.clear()
            seen.clear()
            running.clear()
            let_go.clear()
            run = await server.run_of(await server.event(name))
            await running.wait()
            await asyncio.sleep(0.5)  # the timer fires
            await server.event("busy/paid")
            await asyncio.sleep(0.5)
            assert executions == ["A"]
            if finally_cancelled:
                assert (await server.http.post(f"/api/runs/{run}/cancel")).status_code == 200
                await asyncio.sleep(0.5)
            let_go.set()
            ended = await server.ended(run)
            assert ended["status"] == ("CANCELLED" if finally_cancelled else "COMPLETED"), ended
            assert finally_cancelled or ended["output"] == "A busy/paid"
            assert executions == ["A"]


# What is no result at all.


async def test_an_operation_that_the_server_does_not_know_fails_the_run_and_is_named(server: Server) -> None:
    """F38."""

    async def answer(call: Call) -> bytes:
        return ops({"op": "Teleport", "id": "t", "displayName": "beam me up"})

    async with Scripted(server, {"f": answer}) as service:
        run = await server.ended(await server.run_of(await server.event("raw/f")))
        await asyncio.sleep(1.5)

    assert run["status"] == "FAILED"
    assert "Teleport" in str(run["error"] if "error" in run else run["output"])
    assert len(service.calls) == 1, "no retry storm"


HTML = {"content-type": "text/html"}
ODD: dict[str, tuple[bytes, str]] = {
    "502 with HTML": (response(502, headers=HTML, raw=b"<html><h1>Bad Gateway</h1></html>"), "again"),
    "404 of something else": (response(404, headers=HTML, raw=b"<html>no such page</html>"), "again"),
    "401 of something else": (response(401, headers=HTML, raw=b"who are you?"), "again"),
    "200 with HTML of something else": (response(200, headers=HTML, raw=b"<html>hello</html>"), "again"),
    "200 with HTML of an SDK": (response(200, headers={**HEADERS, **HTML}, raw=b"<html>hello</html>"), "again"),
    "a redirect that turns into GET": (response(302, headers={"location": "/elsewhere"}, raw=b""), "failed or again"),
    "429 with Retry-After": (response(429, {"message": "slow down"}, {**HEADERS, "retry-after": "3"}), "after 3 s"),
    "500 without retry": (
        response(500, {"name": "Error", "message": "never"}, {**HEADERS, "x-inngest-no-retry": "true"}),
        "failed",
    ),
}


@pytest.mark.parametrize("odd", list(ODD))
async def test_odd_answers_are_told_apart_and_never_taken_for_results(server: Server, odd: str) -> None:
    """F64."""
    first, verdict = ODD[odd]

    async def answer(call: Call) -> bytes:
        return result("right") if call.attempt else first

    async with Scripted(server, {"f": answer}) as service:
        run = await server.run_of(await server.event("raw/f"))
        ended = await server.ended(run)
    calls = service.of(run)

    if verdict == "failed":
        assert (ended["status"], len(calls)) == ("FAILED", 1)
        assert "never" in str(ended)
    elif ended["status"] == "FAILED":
        assert verdict == "failed or again"
        assert "redirect" in str(ended).lower()
    else:
        assert ended["status"] == "COMPLETED"
        assert ended["output"] == "right"
        assert [call.attempt for call in calls] == [0, 1]
        pause = calls[1].at - calls[0].at
        assert pause >= 0.9
        if verdict == "after 3 s":
            assert 2.8 <= pause <= 6


async def test_a_redirect_that_keeps_the_method_is_followed(server: Server) -> None:
    """F64."""
    async with Scripted(server, {"f": steps_then_result}, name="home") as home:

        async def answer(call: Call) -> bytes:
            return response(307, headers={"location": home.url + "?fnId=home-f&stepId=step"}, raw=b"")

        async with Scripted(server, {"f": answer}, name="raw") as away:
            run = await server.completed(await server.run_of(await server.event("raw/f")))

    assert len(home.calls) == len(away.calls) == 3
    assert run["output"][0] == f"a of {run['id']}"


async def test_a_service_without_tls_behind_an_https_address_is_named(server: Server) -> None:
    """F64."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    service = Scripted(server, {"f": steps_then_result}, retries=0)
    service.url = service.url.replace("http://", "https://")
    async with await asyncio.start_server(refuse, "127.0.0.1", service.port):
        await service.register()
        run = await server.ended(await server.run_of(await server.event("raw/f")))

    assert run["status"] == "FAILED"
    assert "TLS" in str(run)


@pytest.mark.long
async def test_an_answer_after_seventy_seconds_is_still_an_answer(server: Server) -> None:
    """F64: calls may take up to two hours."""

    async def answer(call: Call) -> bytes:
        await asyncio.sleep(70)
        return result("at last")

    async with Scripted(server, {"f": answer}) as service:
        run = await server.completed(await server.run_of(await server.event("raw/f")), 120)

    assert run["output"] == "at last"
    assert len(service.calls) == 1
