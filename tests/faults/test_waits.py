"""Waits for events and children: what comes early, late, twice, at the same moment, or not at all."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any

import httpx2
import pytest

import stepwell
from stepwell.model import journal
from stepwell.model.dispatch import Dispatch
from stepwell.model.ids import StepId
from stepwell.model.op import Op, WaitForEvent
from tests.faults.backlog import Backlog
from tests.faults.harness import CEILING_BYTES, ENDED, MIB, Server, connected, gathered, reconnected, until
from tests.faults.scripted import Call, Scripted, done, ops, result, wait
from tests.fleet import nodes_wanted

pytestmark = pytest.mark.slow


async def send(server: Server, name: str, **data: Any) -> str:
    """Send an event from within a step, as any program would."""
    async with httpx2.AsyncClient(base_url=server.url) as http:
        answer = await http.post("/e/from-a-step", json={"name": name, "data": data})
    assert answer.status_code == 200
    return str(answer.json()["ids"][0])


async def runs_of(server: Server, events: list[str], seconds: float = 30) -> list[str]:
    return await gathered([server.run_of(event, seconds) for event in events], 10)


async def waiting(server: Server, count: int, seconds: float = 30) -> None:
    """Wait until the server has stored so many waits."""

    async def look() -> bool:
        return await server.waits() == count

    await until(f"{count} waits", look, seconds, server.explain)


# An event that comes before its wait.


@pytest.mark.parametrize("over", ["connection", "http"])
async def test_an_event_that_a_step_sends_is_not_missed_by_the_wait_after_it(server: Server, over: str) -> None:
    """F22."""
    service = stepwell.Service("early")

    async def answer(call: Call) -> bytes:
        if "ask" not in call.steps:
            await send(server, "early/answer", order=call.data["order"])
            await asyncio.sleep(0.1)  # so that it is stored and matched long before the wait
            return ops(done("ask"))
        if "answer" not in call.steps:
            return ops(wait("answer", "early/answer", "20s", "async.data.order == event.data.order"))
        return result(call.steps["answer"] and call.steps["answer"]["data"])

    @service.function(on="early/f")
    async def f(ctx: stepwell.Context[Any]) -> Any:
        await ctx.step.run("ask", send, server, "early/answer", order=ctx.event.data["order"])
        found = await ctx.step.wait_for_event("answer", "early/answer", timeout="20s", match="data.order")
        return found and found.data

    async with connected(server, service), Scripted(server, {"f": answer}):
        name = "early/f" if over == "connection" else "raw/f"
        sent = await server.send(*({"name": name, "data": {"order": f"{over} {n}"}} for n in range(20)))
        runs = [await server.completed(run, 15) for run in await runs_of(server, sent)]

    assert [run["output"] for run in runs] == [{"order": f"{over} {n}"} for n in range(20)]


async def test_waits_that_are_being_stored_when_the_server_is_killed_end_with_their_event_or_in_time(
    own: Server,
) -> None:
    """F23: the server is killed while 200 runs begin to wait, and again while half of them get their event."""
    service = stepwell.Service("stored")
    timeout = f"{10 + 3 * own.lease_s:g}s"  # so that what a killed node had to match is matched in time

    @service.function(on="stored/f")
    async def f(ctx: stepwell.Context[Any]) -> str:
        found = await ctx.step.wait_for_event("paid", "stored/paid", timeout=timeout, match="data.n")
        return "timeout" if found is None else "paid"

    async with connected(own, service, concurrency=300) as worker:
        sent = await own.send(*({"name": "stored/f", "data": {"n": n}} for n in range(200)))
        await asyncio.sleep(0.05)
        await own.restart()
        await reconnected(worker)
        runs = await runs_of(own, sent)
        await waiting(own, 200)
        await own.send(*({"name": "stored/paid", "data": {"n": n}} for n in range(0, 200, 2)))
        await own.restart()
        ended = [await own.completed(run) for run in runs]

    assert [run["output"] for run in ended] == ["paid", "timeout"] * 100


async def test_an_event_and_a_timeout_at_the_same_moment_make_one_outcome(server: Server) -> None:
    """F24: 1,000 waits are due at T, and their events come around T."""
    count = 1_000

    async def answer(call: Call) -> bytes:
        if "w" not in call.steps:
            left = call.data["at"] - time.time()
            return ops(wait("w", "tie/paid", f"{max(1, round(left * 1000))}ms", "async.data.n == event.data.n"))
        return result("timeout" if call.steps["w"] is None else "paid")

    async with Scripted(server, {"tie": answer}, name="raw") as service:
        at = time.time() + 6
        sent = await server.send(*({"name": "raw/tie", "data": {"n": n, "at": at}} for n in range(count)))
        await waiting(server, count)
        for start in range(0, count, 100):  # a hundred before, the others around and after
            await asyncio.sleep(max(0.0, at - 0.010 + start / 100 * 0.002 - time.time()))
            await server.send(*({"name": "tie/paid", "data": {"n": n}} for n in range(start, start + 100)))
        await server.all_ended(30)
        runs = {row.id: row.status.value for row in await server.rows("raw-tie")}

    assert Counter(runs.values()) == {"COMPLETED": count}
    assert len(sent) == count
    outcomes: Counter[str] = Counter()
    for run in runs:
        (found,) = [one for one in await server.journal(run) if isinstance(one, journal.StepCompleted)]
        outcomes["paid" if found.event else "timeout"] += 1
        seen = {str(call.steps["w"] is not None) for call in service.of(run) if "w" in call.steps}
        assert seen == {str(found.event is not None)}, "what the function saw is what is recorded, at every call"
    print(outcomes)
    assert outcomes["paid"] > 0, "those whose events came before"


async def test_one_of_two_events_ends_a_wait_and_both_start_their_functions(server: Server) -> None:
    """F25."""
    service = stepwell.Service("two")

    @service.function(on="two/f")
    async def f(ctx: stepwell.Context[Any]) -> Any:
        found = await ctx.step.wait_for_event("answer", "two/answer", timeout="20s")
        await ctx.step.sleep("a moment for the other, and for the next", "500ms")
        return found and found.data["n"]

    @service.function(on="two/answer")
    async def on_answer(ctx: stepwell.Context[Any]) -> Any:
        return ctx.event.data["n"]

    async with connected(server, service):
        for _ in range(5):
            run = await server.run_of(await server.event("two/f"))
            await waiting(server, 1)
            sent = await server.send({"name": "two/answer", "data": {"n": 1}}, {"name": "two/answer", "data": {"n": 2}})
            ended = await server.completed(run)
            started = [await server.completed(one) for one in await runs_of(server, sent)]
            results = [one for one in await server.journal(run) if isinstance(one, journal.StepCompleted) and one.event]

            assert ended["output"] in (1, 2)
            assert len(results) == 1
            assert [one["output"] for one in started] == [1, 2]


@pytest.mark.parametrize(
    "waits",
    [
        pytest.param(1_000 if nodes_wanted() else 5_000, id="F26-tenth"),
        pytest.param(50_000, id="F26", marks=pytest.mark.long),
    ],
)
async def test_one_event_for_very_many_waits_is_accepted_at_once_and_resumes_those_that_match(
    unstarted: Server, waits: int
) -> None:
    """F26: half of them match."""
    server = unstarted

    def play(dispatch: Dispatch) -> Op:
        # Both sides are in the expression, so that every wait has to be asked: no index helps.
        expression = "async.data.side == event.data.side || async.data.everybody == true"
        return WaitForEvent(
            step=StepId("w"), name="w", event="wide/answer", expression=expression, for_ms=7 * 86_400_000
        )

    async def answer(call: Call) -> bytes:
        return result("resumed")

    service = Scripted(server, {"f": answer})
    async with Backlog(server, service.url, {"f": play}) as backlog:
        await backlog.lay("f", ({"side": "left" if n % 2 else "right", "n": n} for n in range(waits)))
    await service.listen()
    try:
        await server.start(within=60)
        assert await server.waits() == waits
        await server.event("warm/up")
        begun = time.monotonic()
        await server.event("wide/answer", side="left")
        accepted_s = time.monotonic() - begun
        worst_s = 0.0
        while await server.count(statuses=ENDED) < waits // 2:
            asked = time.monotonic()
            await server.event("other/event")
            worst_s = max(worst_s, time.monotonic() - asked)
            assert time.monotonic() - begun < 60 + waits / 100, server.explain()
            await asyncio.sleep(0.1)
        took_s = time.monotonic() - begun
        await asyncio.sleep(0.5)
        peak = server.memory()
        print(
            f"accepted in {accepted_s * 1000:.0f} ms, {waits // 2} resumed in {took_s:.1f} s, another event took "
            f"{worst_s * 1000:.0f} ms at most, {peak / MIB:.0f} MiB at most"
        )
        assert accepted_s <= 0.2
        assert peak < CEILING_BYTES
        resumed = {call.data["side"] for call in service.calls}
        assert (len(service.calls), resumed) == (waits // 2, {"left"})
        assert await server.count(statuses=["COMPLETED"]) == waits // 2
        assert await server.waits() == waits // 2
    finally:
        await service.close()


# What comes when nobody waits any more.


async def test_a_timer_of_a_cancelled_run_and_of_a_lost_race_does_nothing(server: Server) -> None:
    """F27."""
    service = stepwell.Service("ignored")
    executions: list[str] = []

    @service.function(on="ignored/cancelled")
    async def cancelled(ctx: stepwell.Context[Any]) -> None:
        await ctx.step.sleep("nap", "1s")

    @service.function(on="ignored/race")
    async def race(ctx: stepwell.Context[Any]) -> str:
        async def note(what: str) -> str:
            executions.append(what)
            await asyncio.sleep(0.1)
            return what

        nap = asyncio.ensure_future(ctx.step.sleep("nap", "1s"))
        quick = asyncio.ensure_future(ctx.step.run("quick", note, "quick"))
        first, rest = await asyncio.wait({nap, quick}, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        assert first == {quick}
        await ctx.step.sleep("longer", "2s")
        return await ctx.step.run("last", note, "last")

    async with connected(server, service):
        stopped = await server.run_of(await server.event("ignored/cancelled"))
        going_on = await server.run_of(await server.event("ignored/race"))
        await asyncio.sleep(0.3)
        assert (await server.http.post(f"/api/runs/{stopped}/cancel")).status_code == 200
        await asyncio.sleep(1.2)
        assert (await server.run(stopped))["status"] == "CANCELLED"
        assert (await server.completed(going_on))["output"] == "last"

    assert executions == ["quick", "last"]


async def test_a_wait_that_lost_its_race_is_gone_and_a_later_event_does_nothing(server: Server) -> None:
    """F30."""
    service = stepwell.Service("lost")

    @service.function(on="lost/f")
    async def f(ctx: stepwell.Context[Any]) -> str:
        async def work() -> str:
            await asyncio.sleep(0.5)
            return "worked"

        step = asyncio.ensure_future(ctx.step.run("work", work))
        event = asyncio.ensure_future(ctx.step.wait_for_event("answer", "lost/answer", timeout="4h"))
        ended, left = await asyncio.wait({step, event}, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        return str(ended.pop().result())

    async with connected(server, service):
        run = await server.run_of(await server.event("lost/f"))
        await waiting(server, 1)
        ended = await server.completed(run, 5)
        left = await server.left_of(run)
        await server.event("lost/answer")
        await asyncio.sleep(0.3)
        again = await server.run(run)

    assert ended["output"] == "worked"
    assert left == []
    assert again["trace"] == ended["trace"]


# Children.


async def test_a_child_that_ends_at_once_wakes_its_parent(server: Server) -> None:
    """F28."""
    service = stepwell.Service("family")

    @service.function(on="family/child")
    async def child(ctx: stepwell.Context[Any]) -> int:
        return int(ctx.event.data["n"]) * 2

    @service.function(on="family/parent")
    async def parent(ctx: stepwell.Context[Any]) -> int:
        return int(await ctx.step.invoke("child", child, data={"n": ctx.event.data["n"]}))

    async with connected(server, service):
        sent = await server.send(*({"name": "family/parent", "data": {"n": n}} for n in range(100)))
        ended = [await server.completed(run) for run in await runs_of(server, sent)]

    assert [run["output"] for run in ended] == [2 * n for n in range(100)]


async def test_parents_wake_when_the_server_is_killed_right_after_the_end_of_their_child(own: Server) -> None:
    """F29 with one server: it is killed while children end, again and again."""
    service = stepwell.Service("family")
    draw = random.Random(29)

    @service.function(on="family/child")
    async def child(ctx: stepwell.Context[Any]) -> int:
        async def work() -> int:
            await asyncio.sleep(0.2 + 0.01 * (int(ctx.event.data["n"]) % 40))
            return int(ctx.event.data["n"])

        return await ctx.step.run("work", work)

    @service.function(on="family/parent")
    async def parent(ctx: stepwell.Context[Any]) -> int:
        found = await asyncio.gather(
            *(ctx.step.invoke(f"child {one}", child, data={"n": ctx.event.data["n"] + one}) for one in range(4))
        )
        return sum(found)

    async with connected(own, service) as worker:
        sent = await own.send(*({"name": "family/parent", "data": {"n": n}} for n in range(50)))
        for _ in range(4):
            await asyncio.sleep(draw.uniform(0.1, 0.5))
            await own.restart()
            await reconnected(worker)
        restarted = time.monotonic()
        ended = [await own.completed(run, 60) for run in await runs_of(own, sent)]
        took_s = time.monotonic() - restarted

    assert [run["output"] for run in ended] == [4 * n + 6 for n in range(50)]
    print(f"all parents ended {took_s:.1f} s after the last start")
    assert await own.count("family-child") == 200


async def test_a_function_that_invokes_itself_is_stopped_at_the_depth_limit(server: Server) -> None:
    """F32: with a clear error, while the server answers others."""
    service = stepwell.Service("runaway")

    @service.function(on="runaway/f", retries=0)
    async def f(ctx: stepwell.Context[Any]) -> int:
        return 1 + int(await ctx.step.invoke("again", "runaway/f", data={}))

    @service.function(on="runaway/other")
    async def other(ctx: stepwell.Context[Any]) -> str:
        return "fine"

    async with connected(server, service):
        begun = time.monotonic()
        run = await server.run_of(await server.event("runaway/f"))
        assert (await server.completed(await server.run_of(await server.event("runaway/other")), 5))["output"] == "fine"
        assert time.monotonic() - begun < 5
        ended = await server.ended(run, 60)
        await server.all_ended(10)
        count = await server.count("runaway-f")

    assert ended["status"] == "FAILED"
    assert "depth" in str(ended["error"])
    assert count == 51, "itself and fifty below"


# Expressions that fail.


async def test_waits_whose_expression_fails_do_not_match_and_say_why(server: Server) -> None:
    """F31."""
    expressions = ["async.data.n == event.data.n"] * 8 + ["async.data.nothing.here == 1", "async.data.n < 'seven'"]

    async def answer(call: Call) -> bytes:
        if "w" not in call.steps:
            return ops(wait("w", "odd/answer", "1h", expressions[call.data["number"]]))
        return result(call.data["number"])

    async with Scripted(server, {"odd": answer}):
        events = [{"name": "raw/odd", "data": {"number": number, "n": 7}} for number in range(10)]
        runs = await runs_of(server, await server.send(*events))
        await waiting(server, 10)
        await server.event("odd/answer", n=7)
        ended = [await server.completed(run) for run in runs[:8]]
        left = [(await server.run(run))["status"] for run in runs[8:]]
        for run in runs[8:]:
            assert (await server.http.post(f"/api/runs/{run}/cancel")).status_code == 200
        said = server.said()

    assert [run["output"] for run in ended] == list(range(8))
    assert left == ["RUNNING", "RUNNING"]
    assert "event 'odd/answer' does not match 'async.data.nothing.here'" in said
    assert "async.data.n < 'seven'" in said
