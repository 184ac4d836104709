"""Steps beside one another, steps that fail, very many steps, and steps whose code changed in between."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import stepwell
from stepwell.model import journal
from tests.faults.harness import Server, connected, gathered, reconnected, timed, until
from tests.faults.scripted import Call, Scripted, done, failed, ops, planned, result

pytestmark = pytest.mark.slow


# Parallel steps.


@pytest.mark.parametrize("seed", range(3))
async def test_a_hundred_results_at_the_same_moment_make_one_continuation(server: Server, seed: int) -> None:
    """F33 over HTTP: all branches are held until the last has been called, then answer in any order."""
    names = [f"s{number}" for number in range(100)]
    all_called = asyncio.Event()
    draw = random.Random(seed)
    continued: list[int] = []

    async def answer(call: Call) -> bytes:
        if call.target is not None:
            called.add(call.target)
            if len(called) == 100:
                all_called.set()
            await all_called.wait()
            await asyncio.sleep(draw.uniform(0, 0.01))
            return ops(done(call.target, call.target))
        if not call.steps and not called:
            return ops(*(planned(name) for name in names))
        continued.append(len(call.steps))
        return result(sorted(call.steps)) if len(call.steps) == 100 else ops()

    called: set[str] = set()
    async with Scripted(server, {"f": answer}) as service:
        run = await server.run_of(await server.event("raw/f"))
        ended = await server.completed(run)
        await asyncio.sleep(0.2)

    assert ended["output"] == sorted(names)
    assert continued == [100], "exactly one continuation, and it sees all"
    assert Counter(call.target for call in service.of(run)) == Counter([None, None, *names])


async def test_a_hundred_steps_at_once_in_memory_run_once_each(server: Server) -> None:
    """F33 over our own connection."""
    service = stepwell.Service("hundred")
    executions: list[int] = []

    @service.function(on="hundred/f")
    async def f(ctx: stepwell.Context[Any]) -> int:
        gate = asyncio.Event()

        async def step(number: int) -> int:
            executions.append(number)
            if len(executions) % 100 == 0:
                gate.set()
            await gate.wait()
            return number

        return sum(await asyncio.gather(*(ctx.step.run(f"s{number}", step, number) for number in range(100))))

    async with connected(server, service):
        run = await server.completed(await server.run_of(await server.event("hundred/f")))

    assert run["output"] == 4950
    assert sorted(executions) == list(range(100))


async def test_a_continuation_while_a_slow_branch_runs_does_not_start_it_again(server: Server) -> None:
    """F34: race mode, A takes 0.3 s and C 2 s."""
    race = {"opts": {"parallelMode": "race"}}
    let_go = asyncio.Event()

    async def answer(call: Call) -> bytes:
        if call.target == "A":
            await asyncio.sleep(0.3)
            return ops(done("A", "A", **race))
        if call.target == "C":
            await let_go.wait()
            return ops(done("C", "C", **race))
        if "A" not in call.steps:
            return ops(planned("A", **race), planned("C", **race)) if not call.steps and call.attempt == 0 else ops()
        if "after A" not in call.steps:
            return ops(done("after A"))
        if "C" not in call.steps:
            let_go.set()
            return ops(planned("C", **race))
        return result("both")

    async with Scripted(server, {"f": answer}) as service:
        run = await server.run_of(await server.event("raw/f"))
        ended = await server.completed(run)

    assert ended["output"] == "both"
    assert len(service.of(run, "C")) == 1
    assert len(service.of(run, "A")) == 1


async def test_each_use_of_a_repeated_id_keeps_its_own_result(own: Server) -> None:
    """F35: a loop and two chains beside each other use the same ids; kills make for replays in other orders."""
    service = stepwell.Service("repeated")
    draw = random.Random(35)
    made: dict[tuple[str, str], list[str]] = {}

    @service.function(on="repeated/f", retries=10)
    async def f(ctx: stepwell.Context[Any]) -> list[str]:
        async def work(use: str) -> str:
            await asyncio.sleep(draw.uniform(0, 0.05))
            value = f"{use} #{len(made.setdefault((ctx.run_id, use), []))}"
            made[ctx.run_id, use].append(value)
            return value

        async def chain(name: str) -> list[str]:
            return [await ctx.step.run(name, work, f"{name} {number}") for number in range(6)]

        looped = [await ctx.step.run("item", work, f"item {number}") for number in range(6)]
        left, right = await asyncio.gather(chain("left"), chain("right"))
        again = [await ctx.step.run("item", work, f"item again {number}") for number in range(3)]
        return [*looped, *left, *right, *again]

    async with connected(own, service) as worker:
        sent = await own.send(*({"name": "repeated/f", "data": {}} for _ in range(20)))
        for _ in range(3):
            await asyncio.sleep(draw.uniform(0.15, 0.4))
            await own.restart()
            await reconnected(worker)
        ended = [await own.completed(run, 60) for run in await gathered([own.run_of(one) for one in sent], 10)]

    uses = [
        *(f"item {number}" for number in range(6)),
        *(f"{name} {number}" for name in ("left", "right") for number in range(6)),
        *(f"item again {number}" for number in range(3)),
    ]
    for run in ended:
        assert [value.partition(" #")[0] for value in run["output"]] == uses
        recorded = {one.output for one in await own.journal(run["id"]) if isinstance(one, journal.StepCompleted)}
        assert {f'"{value}"'.encode() for value in run["output"]} == recorded, "the results seen are those recorded"


@pytest.mark.parametrize("handled", [True, False])
async def test_one_branch_that_fails_for_good_leaves_the_decision_to_the_function(
    server: Server, handled: bool
) -> None:
    """F36 over our own connection: four others run meanwhile."""
    service = stepwell.Service("branch")
    finished: list[int] = []

    @service.function(on="branch/f")
    async def f(ctx: stepwell.Context[Any]) -> str:
        async def step(number: int) -> int:
            if number == 2:
                raise stepwell.NonRetriableError("no such card")
            await asyncio.sleep(0.5)
            finished.append(number)
            return number

        branches = (ctx.step.run(f"branch {number}", step, number) for number in range(5))
        found = await asyncio.gather(*branches, return_exceptions=handled)
        return f"{sum(isinstance(one, stepwell.StepError) for one in found)} failed"

    async with connected(server, service):
        run = await server.run_of(await server.event("branch/f"))
        with timed() as took_s:
            ended = await server.ended(run)
        left = await server.left_of(run)
        await asyncio.sleep(0.7)

    assert took_s() < 3, "the function is told of the failure while it is in memory"
    assert left == []
    if handled:
        assert (ended["status"], ended["output"]) == ("COMPLETED", "1 failed")
        assert sorted(finished) == [0, 1, 3, 4]
    else:
        assert ended["status"] == "FAILED"
        assert "no such card" in str(ended["error"])


async def test_no_call_outlives_a_run_whose_branch_failed_for_good(server: Server) -> None:
    """F36 over HTTP: the function gives up while four branches run; their answers come too late."""
    late = asyncio.Event()

    async def answer(call: Call) -> bytes:
        if call.target == "s2":
            return ops(failed("s2", "no such card"))
        if call.target is not None:
            await late.wait()
            return ops(done(call.target))
        if "s2" in call.steps:
            return result("gave up")
        return ops(*(planned(f"s{number}", opts={"parallelMode": "race"}) for number in range(5)))

    async with Scripted(server, {"f": answer}) as service:
        run = await server.run_of(await server.event("raw/f"))
        ended = await server.ended(run, 10)
        left = await server.left_of(run)
        late.set()
        await asyncio.sleep(0.3)
        again = await server.run(run)

    assert (ended["status"], ended["output"], left) == ("COMPLETED", "gave up", [])
    assert again["trace"] == ended["trace"]
    assert len(service.of(run)) == 7


# Long runs.


async def test_a_thousand_steps_take_no_longer_at_the_end_than_at_the_beginning(server: Server) -> None:
    """F37: of 1 KiB each. Judged by the times of the journal, fastest quarter against fastest quarter."""
    service = stepwell.Service("thousand")

    @service.function(on="thousand/f")
    async def f(ctx: stepwell.Context[Any]) -> int:
        async def step(number: int) -> str:
            return f"{number:04}" * 256

        return sum([len(await ctx.step.run("item", step, number)) for number in range(1000)])

    async with connected(server, service):
        run = await server.run_of(await server.event("thousand/f"))
        ended = await server.completed(run, 120)
    at = [one.at for one in await server.journal(run) if isinstance(one, journal.StepCompleted)]
    early, late = at[260] - at[10], at[999] - at[749]
    print(f"steps 10 to 260 took {early} ms, steps 749 to 999 {late} ms")

    assert ended["output"] == 1000 * 1024
    assert len(at) == 1000
    assert late <= 2 * early + 250


async def test_a_run_above_the_limit_of_steps_ends_with_an_error_that_names_it(server: Server) -> None:
    """F37."""
    service = stepwell.Service("endless")

    @service.function(on="endless/f")
    async def f(ctx: stepwell.Context[Any]) -> None:
        async def step() -> int:
            return 1

        while True:
            await ctx.step.run("item", step)

    async with connected(server, service):
        run = await server.run_of(await server.event("endless/f"))
        ended = await server.ended(run, 120)

    assert ended["status"] == "FAILED"
    assert "1000 steps" in str(ended["error"])
    assert await server.left_of(run) == []


# Code that changed.


async def test_recorded_results_stay_with_their_ids_when_the_code_changes(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """F39: 100 runs sleep; meanwhile a step is renamed, one is added, one is gone, one returns another shape."""
    executions: Counter[str] = Counter()

    async def work(name: str, value: Any) -> Any:
        executions[name] += 1
        return value

    def deployed(function: Callable[[stepwell.Context[Any]], Any]) -> stepwell.Service:
        service = stepwell.Service("changed")
        service.function(on="changed/f", id="f")(function)
        return service

    async def before(ctx: stepwell.Context[Any]) -> Any:
        run = ctx.step.run
        number = await run("number", work, "number", ctx.event.data["n"])
        await run("removed", work, "removed", "gone")
        await run("old name", work, "old name", "old")
        await ctx.step.sleep("nap", "8s" if server.nodes else "3s")  # until all have come so far
        return number

    async def after(ctx: stepwell.Context[Any]) -> Any:
        run = ctx.step.run
        added = await run("added", work, "added", "new")
        number = await run("number", work, "number", {"n": "another shape"})
        renamed = await run("new name", work, "new name", "renamed")
        await ctx.step.sleep("nap", "3s")
        return [added, number, renamed]

    async with connected(server, deployed(before), concurrency=200):
        sent = await server.send(*({"name": "changed/f", "data": {"n": n}} for n in range(100)))
        runs = await gathered([server.run_of(one) for one in sent], 10)

        async def all_sleep() -> bool:
            found = (await server.status())["store"]
            return executions["old name"] == 100 and found["jobs"] >= 100 <= found["live_runs"]

        await until("a hundred sleeps", all_sleep, 20)
    async with connected(server, deployed(after), concurrency=200):
        ended = [await server.completed(run) for run in runs]

    assert [run["output"] for run in ended] == [["new", n, "renamed"] for n in range(100)]
    assert executions == dict.fromkeys(("number", "removed", "old name", "added", "new name"), 100)
    assert "has a recorded result that the function did not ask for" in caplog.text
