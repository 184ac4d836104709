"""Large and too large: work is delayed or refused by name, never lost, and nobody else suffers for it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx2
import pytest

import stepwell
from stepwell.model.event import DEV_ENV
from stepwell.store.base import EventQuery
from tests.faults.harness import CEILING_BYTES, ENDED, MIB, Server, WorkerProgram, connected, timed
from tests.faults.scripted import HEADERS, Call, Scripted, done, ops, response, result
from tests.fleet import nodes_wanted

pytestmark = pytest.mark.slow


# Large results.


@pytest.mark.parametrize(
    ("runs", "seconds"),
    [
        pytest.param(8 if nodes_wanted() else 20, 120, id="F75-fifth"),
        pytest.param(100, 500, id="F75", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("over", ["connection", "http"])
async def test_many_runs_with_large_results_are_delayed_and_do_not_fail(
    own: Server, tmp_path: Any, over: str, runs: int, seconds: float
) -> None:
    """F75: ten steps of 2 MiB each; small runs beside them go on."""
    service = stepwell.Service("small")

    @service.function(on="small/f")
    async def f(ctx: stepwell.Context[Any]) -> int:
        async def step() -> int:
            return 1

        return await ctx.step.run("small", step)

    async def large(call: Call) -> bytes:
        for number in range(10):
            if f"s{number}" not in call.steps and not call.body["use_api"]:
                return ops(done(f"s{number}", f"{call.run}{number}" * (2 * MIB // 27)))
        if not call.body["use_api"]:
            return result(len(call.steps))
        # Too large to come with the call: a real SDK asks for what there is, and so does this one.
        async with httpx2.AsyncClient(base_url=own.url, timeout=120) as http:
            known = (await http.get(f"/v0/runs/{call.run}/actions")).content.count(b'{"data":')
        return result(10) if known == 10 else ops(done(f"s{known}", f"{call.run}{known}" * (2 * MIB // 27)))

    worker = WorkerProgram("large", own, tmp_path)
    try:
        async with connected(own, service), Scripted(own, {"large": large}):
            await own.serves("large-f")
            with timed() as alone_s:
                await own.completed(await own.run_of(await own.event("small/f")))
            name = "large/f" if over == "connection" else "raw/large"
            begun = time.monotonic()
            sent = await own.send(*({"name": name, "data": {"n": n}} for n in range(runs)))
            latencies = []
            while await own.count("large-f", "raw-large", statuses=ENDED) < runs:
                assert time.monotonic() - begun < seconds, own.explain()
                with timed() as small_s:
                    await own.completed(await own.run_of(await own.event("small/f")))
                latencies.append(small_s())
                await asyncio.sleep(0.1)
            took_s = time.monotonic() - begun
            ended = [await own.run(await own.run_of(one)) for one in sent]
    finally:
        await worker.stop()
    peak = own.memory()
    slow = sorted(latencies)[int(len(latencies) * 0.95)]
    print(
        f"{runs} runs in {took_s:.1f} s, {peak / MIB:.0f} MiB at most, {len(latencies)} small runs, "
        f"95 of 100 within {slow * 1000:.0f} ms, {max(latencies) * 1000:.0f} ms at most"
    )

    assert [run["status"] for run in ended] == ["COMPLETED"] * runs
    assert [run["output"] for run in ended] == [10] * runs
    assert peak < CEILING_BYTES, f"{peak / MIB:.0f} MiB"
    assert slow < 6 + 10 * alone_s(), f"and {alone_s():.2f} s when it is alone"


# Too large.


async def refused(server: Server, body: object, status: int, *words: str) -> None:
    """A post of events is refused, by an error that has these words."""
    answer = await server.http.post("/e/faults", json=body)
    said = answer.json()
    assert answer.status_code == status, said
    assert all(word in said["error"] for word in words), said["error"][:300]


async def goes_on(server: Server) -> None:
    """Somebody else's run is not held up."""
    service = stepwell.Service("other")

    @service.function(on="other/f")
    async def f(ctx: stepwell.Context[Any]) -> str:
        return "fine"

    async with connected(server, service):
        with_events = await server.run_of(await server.event("other/f"))
        assert (await server.completed(with_events, 10))["output"] == "fine"


async def test_an_event_above_its_limit_is_refused_by_name(server: Server) -> None:
    """F76: one event, a batch of them, their number, a body of any kind."""
    large = {"name": "too/large", "data": {"text": "x" * (3 * MIB)}}
    await refused(server, large, 413, "3 MiB", "reference")
    await refused(server, [{"name": "fits/in"}, large], 413, "event 1 of 2", "3 MiB")
    await refused(server, [{"name": "too/many"}] * 5001, 400, "5001 events", "5000")
    await refused(server, [large] * 6, 413, "16 MiB", "max_body_bytes")
    await goes_on(server)

    async with server.stored() as on:
        stored = await on.events(EventQuery(env=DEV_ENV, names=("too/large", "too/many", "fits/in")))
    assert [event.name for event in stored] == ["fits/in"]


@pytest.mark.parametrize("over", ["connection", "http"])
async def test_a_step_result_above_its_limit_fails_by_name_and_is_not_tried_again(server: Server, over: str) -> None:
    """F76."""
    service = stepwell.Service("heavy")
    executions: list[str] = []

    @service.function(on="heavy/f")
    async def f(ctx: stepwell.Context[Any]) -> str:
        async def step() -> str:
            executions.append("heavy")
            return "x" * (4 * MIB + 1)

        return await ctx.step.run("heavy", step)

    async def answer(call: Call) -> bytes:
        if "heavy" in call.steps:
            return response(500, call.steps["heavy"]["error"], {**HEADERS, "x-inngest-no-retry": "true"})
        executions.append("heavy")
        return ops(done("heavy", "x" * (4 * MIB + 1)))

    async with connected(server, service), Scripted(server, {"f": answer}):
        run = await server.run_of(await server.event("heavy/f" if over == "connection" else "raw/f"))
        ended = await server.ended(run)
        await goes_on(server)

    assert ended["status"] == "FAILED"
    assert "4 MiB" in str(ended["error"])
    assert executions == ["heavy"]


@pytest.mark.parametrize("over", ["connection", "http"])
async def test_results_above_the_limit_of_a_run_together_fail_it_by_name(server: Server, over: str) -> None:
    """F76: the state of one run."""
    service = stepwell.Service("hoard")

    @service.function(on="hoard/f")
    async def f(ctx: stepwell.Context[Any]) -> None:
        async def step(number: int) -> str:
            return f"{number:04}" * (MIB * 3 // 4)

        for number in range(20):
            await ctx.step.run(f"s{number}", step, number)

    async def answer(call: Call) -> bytes:
        number = len(server_steps.setdefault(call.run, []))
        server_steps[call.run].append(number)
        return ops(done(f"s{number}", f"{number:04}" * (MIB * 3 // 4)))

    server_steps: dict[str, list[int]] = {}
    async with connected(server, service), Scripted(server, {"f": answer}) as scripted:
        run = await server.run_of(await server.event("hoard/f" if over == "connection" else "raw/f"))
        ended = await server.ended(run, 60)
        calls = len(scripted.calls)
        await goes_on(server)
        assert len(scripted.calls) == calls

    assert ended["status"] == "FAILED"
    assert "32 MiB" in str(ended["error"])


@pytest.mark.parametrize("over", ["connection", "http", "http, without an end"])
async def test_an_answer_above_its_limit_fails_the_run_by_name_and_is_not_tried_again(
    server: Server, over: str
) -> None:
    """F76: what a function returns, and whatever else a service answers."""
    service = stepwell.Service("verbose")

    @service.function(on="verbose/f")
    async def f(ctx: stepwell.Context[Any]) -> str:
        return "x" * (8 * MIB + 1)

    async def answer(call: Call) -> bytes:
        if over == "http":
            return result("x" * (8 * MIB + 1))
        head = b"HTTP/1.1 200 Because\r\nx-inngest-sdk: py:v0.5.18\r\ntransfer-encoding: chunked\r\n\r\n"
        return head + (b"100000\r\n" + b"x" * MIB + b"\r\n") * 20

    async with connected(server, service), Scripted(server, {"f": answer}) as scripted:
        run = await server.run_of(await server.event("verbose/f" if over == "connection" else "raw/f"))
        ended = await server.ended(run)
        await goes_on(server)

    assert ended["status"] == "FAILED"
    assert "8 MiB" in str(ended["error"])
    assert len(scripted.calls) <= 1


async def test_what_was_sent_compressed_counts_as_it_unpacks(server: Server) -> None:
    """F76: a body that is small on the way."""
    import gzip

    packed = gzip.compress(b'{"name":"too/large","data":{"text":"' + b"x" * (17 * MIB) + b'"}}')
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    answer = await server.http.post("/e/faults", content=packed, headers=headers)

    assert answer.status_code == 413
    assert "max_body_bytes" in answer.json()["error"]
    await goes_on(server)
