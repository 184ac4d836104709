"""A replay: which answer each call gets (section 5.3 of the Inngest wire protocol, from the SDK's side)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import stepwell
from stepwell.model.dispatch import Memo
from stepwell.model.ids import StepId, step_id
from stepwell.model.op import Op, Sleep, StepDone, StepErrored, StepPlanned
from stepwell.model.payload import canonical
from stepwell.sdk.outcome import Outcome, Raised, Replied, Returned
from stepwell.sdk.replay import ReplayCall, ReplayExecution
from tests.sdk.recorder import RUN, Server, an_event

Ctx = stepwell.Context[Any]
SyncCtx = stepwell.SyncContext[Any]


async def value(result: Any = "x") -> Any:
    return result


async def answer(handler: Callable[..., Any], memos: dict[str, Any] | None = None, **members: Any) -> Outcome:
    function: Any = stepwell.Service("shop").function(on="test/started")(handler)
    recorded = tuple(
        one if isinstance(one, Memo) else Memo(step_id(name), "data", canonical(one))
        for name, one in (memos or {}).items()
    )
    call = ReplayCall(run=RUN, attempt=0, max_attempts=5, events=(an_event(),), memos=recorded, **members)
    return await asyncio.wait_for(ReplayExecution(function, call).run(), 10)


def kinds(outcome: Outcome) -> list[tuple[type[Op], str, bool]]:
    assert isinstance(outcome, Replied), outcome
    return [(type(op), getattr(op, "name", ""), getattr(op, "race", False)) for op in outcome.ops]


async def test_one_new_step_is_run_in_the_same_call() -> None:
    async def body(ctx: Ctx) -> Any:
        return await ctx.step.run("a", value, 41) + 1

    outcome = await answer(body)
    assert kinds(outcome) == [(StepDone, "a", False)]
    assert await answer(body, {"a": 41}) == Returned(b"42")


async def test_one_new_step_is_planned_when_immediate_execution_is_off() -> None:
    async def body(ctx: Ctx) -> Any:
        return await ctx.step.run("a", value, 41)

    assert kinds(await answer(body, plan_only=True)) == [(StepPlanned, "a", False)]


async def test_several_steps_are_planned_and_waits_named_beside_them() -> None:
    async def body(ctx: Ctx) -> None:
        await asyncio.gather(ctx.step.run("a", value), ctx.step.sleep("nap", "1m"), ctx.step.run("b", value))

    outcome = await answer(body)
    assert kinds(outcome) == [(StepPlanned, "a", False), (Sleep, "nap", False), (StepPlanned, "b", False)]


async def test_a_targeted_call_runs_that_step_alone() -> None:
    async def body(ctx: Ctx) -> None:
        await asyncio.gather(ctx.step.run("a", value, "A"), ctx.step.run("b", value, "B"))

    outcome = await answer(body, target=step_id("b"), plan_only=True)
    assert isinstance(outcome, Replied)
    (op,) = outcome.ops
    assert isinstance(op, StepDone)
    assert (op.name, op.output) == ("b", b'"B"')


async def test_a_targeted_step_runs_though_a_recorded_result_would_end_its_race() -> None:
    async def body(ctx: Ctx) -> None:
        one, two = asyncio.create_task(ctx.step.run("a", value)), asyncio.create_task(ctx.step.run("b", value))
        await asyncio.wait({one, two}, return_when=asyncio.FIRST_COMPLETED)
        two.cancel()

    assert kinds(await answer(body, {"a": 1}, target=step_id("b"))) == [(StepDone, "b", True)]


async def test_a_targeted_step_that_is_gone_is_an_error_that_says_so() -> None:
    async def body(ctx: Ctx) -> None:
        await ctx.step.run("new", value)

    outcome = await answer(body, target=step_id("old"))
    assert isinstance(outcome, Raised)
    assert b"step_unexpected" in outcome.error
    assert b"'new'" in outcome.error


async def test_a_failing_step_is_an_op_and_a_failing_function_an_error() -> None:
    async def fails() -> None:
        raise ValueError("no")

    async def body(ctx: Ctx) -> None:
        await ctx.step.run("a", fails)

    outcome = await answer(body)
    assert kinds(outcome) == [(StepErrored, "a", False)]
    failed = Memo(step_id("a"), "error", canonical({"name": "ValueError", "message": "no"}))
    final = await answer(body, {"a": failed})
    assert isinstance(final, Raised)
    assert not final.retry


async def test_a_gather_of_bare_steps_is_joined_and_chains_race() -> None:
    async def joined(ctx: Ctx) -> None:
        await asyncio.gather(ctx.step.run("a", value), ctx.step.run("b", value))

    async def grouped(ctx: Ctx) -> None:
        async with asyncio.TaskGroup() as group:
            for name in "ab":
                group.create_task(ctx.step.run(name, value))

    async def chains(ctx: Ctx) -> None:
        async def chain(name: str) -> None:
            await ctx.step.run(name, value)
            await ctx.step.run(name + "2", value)

        await asyncio.gather(chain("a"), chain("b"))

    async def first(ctx: Ctx) -> None:
        tasks = [asyncio.create_task(ctx.step.run(name, value)) for name in "ab"]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    for body, race in ((joined, False), (grouped, False), (chains, True), (first, True)):
        assert kinds(await answer(body)) == [(StepPlanned, "a", race), (StepPlanned, "b", race)]


async def test_a_step_that_may_be_running_elsewhere_is_planned_again_and_not_run() -> None:
    async def body(ctx: Ctx) -> None:
        await asyncio.gather(ctx.step.run("a", value), ctx.step.run("b", value))

    assert kinds(await answer(body, {"a": 1})) == [(StepPlanned, "b", False)]


async def test_chains_in_race_mode_need_a_call_for_each_step_and_not_more_runs() -> None:
    ran: list[str] = []

    async def mark(name: str) -> None:
        ran.append(name)

    async def body(ctx: Ctx) -> None:
        async def chain(name: str) -> None:
            await ctx.step.run(f"{name}1", mark, f"{name}1")
            await ctx.step.run(f"{name}2", mark, f"{name}2")

        await asyncio.gather(chain("a"), chain("b"))

    function: Any = stepwell.Service("shop").function(on="test/started")(body)
    recorded = await Server(function).run_replay()
    assert isinstance(recorded.outcome, Returned)
    assert sorted(ran) == ["a1", "a2", "b1", "b2"]
    assert recorded.calls <= 10


async def test_a_linear_function_takes_one_call_more_than_it_has_steps() -> None:
    async def body(ctx: Ctx) -> None:
        for number in range(5):
            await ctx.step.run("load", value, number)

    function: Any = stepwell.Service("shop").function(on="test/started")(body)
    assert (await Server(function).run_replay()).calls == 6


async def test_sync_parallel_steps_are_planned_as_a_plain_join() -> None:
    def body(ctx: SyncCtx) -> Any:
        return ctx.step.parallel([lambda: ctx.step.run("a", lambda: 1), lambda: ctx.step.run("b", lambda: 2)])

    assert kinds(await answer(body)) == [(StepPlanned, "a", False), (StepPlanned, "b", False)]
    assert await answer(body, {"a": 1, "b": 2}) == Returned(b"[1,2]")


async def test_a_recorded_value_of_another_type_is_a_retried_error_that_says_so() -> None:
    async def number() -> int:
        return 1

    async def body(ctx: Ctx) -> None:
        await ctx.step.run("a", number)

    outcome = await answer(body, {"a": "text"})
    assert isinstance(outcome, Raised)
    assert outcome.retry
    assert b"the recorded result of step 'a' does not read as what the code expects now" in outcome.error


@pytest.mark.parametrize("shape", ["data", "bare"])
async def test_memo_shapes_read_alike(shape: str) -> None:
    async def body(ctx: Ctx) -> Any:
        return await ctx.step.run("a", value)

    assert await answer(body, {"a": Memo(step_id("a"), shape, b"null")}) == Returned(b"null")


async def test_edited_arguments_run_the_step() -> None:
    async def body(ctx: Ctx) -> Any:
        return await ctx.step.run("a", value, 1)

    outcome = await answer(body, {"a": Memo(step_id("a"), "input", b"[7]")}, target=step_id("a"))
    assert isinstance(outcome, Replied)
    (op,) = outcome.ops
    assert isinstance(op, StepDone)
    assert (op.output, op.input) == (b"7", b"[7]")


async def test_a_result_is_not_portable_only_if_it_is_the_functions() -> None:
    async def body(ctx: Ctx) -> Any:
        return {1, 2}

    outcome = await answer(body)
    assert isinstance(outcome, Raised)
    assert not outcome.retry
    assert b"the result of function 'shop-body'" in outcome.error


def test_a_step_id_counts_from_the_second_use() -> None:
    assert step_id("a", 2) == StepId("20276a922b7f092ff864f0fedcec18a7ff3bfeab")


@pytest.mark.parametrize("target", [None, "slow"])
async def test_a_function_that_gives_up_on_its_step_still_answers(target: str | None) -> None:
    async def body(ctx: Ctx) -> str:
        try:
            async with asyncio.timeout(0.02):
                await ctx.step.run("slow", asyncio.sleep, 30)
        except TimeoutError:
            return str(await ctx.step.run("instead", value))
        return "slow"

    outcome = await answer(body, target=step_id(target) if target else None)
    if target is None:
        assert kinds(outcome) == [(StepDone, "instead", False)]
    else:
        assert isinstance(outcome, Raised)


async def test_the_result_of_a_racing_step_says_so() -> None:
    async def body(ctx: Ctx) -> None:
        tasks = [asyncio.create_task(ctx.step.run(name, value)) for name in "ab"]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    assert kinds(await answer(body, target=step_id("a"))) == [(StepDone, "a", True)]
