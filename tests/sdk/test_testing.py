"""`stepwell.testing.run`: functions in a test, in memory and in no time."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import stepwell
from stepwell.sdk.client.errors import RunFailed
from stepwell.testing import NotAnswered, NotRepeatable, run, run_async

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@dataclass
class Order:
    id: str
    amount: int = 5


@dataclass
class Receipt:
    order: str
    paid: int


service = stepwell.Service("shop")
placed = stepwell.event("shop/order.placed", Order)
paid = stepwell.event("shop/order.paid", Receipt)
ORDER = placed(Order("o1"))


async def charge(order: Order) -> Receipt:
    return Receipt(order.id, order.amount)


@service.function(on=placed)
async def ship(ctx: stepwell.Context[Order]) -> Receipt:
    receipt = await ctx.step.run("charge", charge, ctx.event.data)
    await ctx.step.sleep("cool-off", timedelta(days=365))
    await ctx.step.send_event("tell", paid(receipt))
    return receipt


@service.function(on=placed)
async def await_payment(ctx: stepwell.Context[Order]) -> int | None:
    payment = await ctx.step.wait_for_event("payment", paid, match="data.id", timeout="3d")
    if payment is None:
        payment = await ctx.step.wait_for_event(
            "late", paid, condition="async.data.order == event.data.id", timeout="3d"
        )
    return None if payment is None else payment.data.paid


@service.function(on="shop/total")
async def total(ctx: stepwell.Context[Any]) -> int:
    await ctx.step.sleep("count", "1h")
    return int(ctx.event.data["n"]) * 2


@service.function(on=placed)
async def with_total(ctx: stepwell.Context[Order]) -> str:
    try:
        return str(await ctx.step.invoke("total", total, data={"n": 4}, timeout="2h"))
    except stepwell.StepError as err:
        return f"{err.name}: {err.message}"


@service.function(on=stepwell.cron("@daily"))
async def nightly(ctx: stepwell.Context[None]) -> str:
    return f"{ctx.now().isoformat()} {ctx.event.id}"


@service.function(on=placed)
def blocking(ctx: stepwell.SyncContext[Order]) -> list[str]:
    ctx.step.sleep("nap", "1h")
    return ctx.step.parallel([lambda: ctx.step.run("a", lambda: "a"), lambda: ctx.step.run("b", lambda: "b")])


def test_a_year_of_sleep_takes_no_time() -> None:
    began = time.monotonic()
    finished = run(ship, ORDER)

    assert finished.output == Receipt("o1", 5)
    assert finished.error is None
    assert finished.took == timedelta(days=365)
    assert time.monotonic() - began < 60


def test_what_steps_did_is_known_by_their_ids() -> None:
    finished = run(ship, ORDER)

    assert list(finished.steps) == ["charge", "cool-off", "tell"]
    assert finished.steps["charge"].completed
    assert finished.steps["charge"].output == Receipt("o1", 5)
    assert finished.steps["charge"].attempts == 1
    assert finished.steps["cool-off"].attempts == 0
    assert finished.entries == 1
    with pytest.raises(KeyError, match="there are: charge, cool-off, tell"):
        finished.steps["refund"]


def test_sent_events_are_kept() -> None:
    (event,) = run(ship, ORDER).events_sent

    assert (event.name, event.data) == ("shop/order.paid", {"order": "o1", "paid": 5})


def test_a_value_can_stand_for_a_step() -> None:
    assert run(ship, ORDER, steps={"charge": Receipt("other", 1)}).output == Receipt("other", 1)


def test_a_callable_can_stand_for_a_step_and_gets_its_arguments() -> None:
    assert run(ship, ORDER, steps={"charge": lambda order: Receipt(order.id, 0)}).output == Receipt("o1", 0)


def test_an_error_can_stand_for_a_step_and_is_retried() -> None:
    finished = run(ship, ORDER, steps={"charge": ConnectionError("no bank")})

    assert finished.steps["charge"].attempts == 5
    assert not finished.steps["charge"].completed
    assert isinstance(finished.steps["charge"].error, stepwell.StepError)
    assert finished.error is not None
    assert (finished.error.name, finished.error.message, finished.error.step) == (
        "ConnectionError",
        "no bank",
        "charge",
    )
    assert finished.took > timedelta(minutes=1), "the pauses between attempts"
    with pytest.raises(RunFailed, match="no bank"):
        finished.output


def test_a_wait_ends_with_the_event_that_matches() -> None:
    payment = stepwell.Event("shop/order.paid", {"order": "o1", "paid": 3, "id": "o1"})
    other = stepwell.Event("shop/order.paid", {"order": "o2", "paid": 4, "id": "o2"})

    finished = run(await_payment, ORDER, events=[other, payment])
    assert finished.output == 3
    assert finished.took == timedelta(0)


def test_a_wait_runs_out_when_nothing_comes() -> None:
    finished = run(await_payment, ORDER)

    assert finished.output is None
    assert finished.steps["payment"].completed
    assert finished.steps["payment"].output is None
    assert finished.took == timedelta(days=6)


def test_an_event_with_a_time_comes_then() -> None:
    late = stepwell.Event("shop/order.paid", {"order": "o1", "paid": 3}, ts=NOON + timedelta(days=4))
    too_late = stepwell.Event("shop/order.paid", {"order": "o1", "paid": 3}, ts=NOON + timedelta(days=7))

    assert run(await_payment, ORDER, events=[late], at=NOON).output == 3
    assert run(await_payment, ORDER, events=[too_late], at=NOON).output is None


def test_a_function_of_the_same_service_is_invoked() -> None:
    finished = run(with_total, ORDER)

    assert finished.output == "8"
    assert finished.took == timedelta(hours=1)


def test_an_answer_can_stand_for_an_invoked_function() -> None:
    assert run(with_total, ORDER, invoke={"total": 7}).output == "7"
    assert run(with_total, ORDER, invoke={"shop-total": lambda data: data["n"]}).output == "4"
    assert run(with_total, ORDER, invoke={"total": ValueError("no")}).output == "ValueError: no"


def test_an_invoked_function_that_nobody_knows_is_named() -> None:
    @stepwell.Service("other").function(on=placed)
    async def elsewhere(ctx: stepwell.Context[Order]) -> int:
        return await ctx.step.invoke("total", total, data={"n": 4})

    with pytest.raises(NotAnswered, match=r"step 'total' invokes 'shop-total'.*functions="):
        run(elsewhere, ORDER)
    assert run(elsewhere, ORDER, functions=[total]).output == 8


def test_an_invocation_times_out() -> None:
    @stepwell.Service("other").function(on=placed)
    async def impatient(ctx: stepwell.Context[Order]) -> str:
        try:
            await ctx.step.invoke("total", total, data={"n": 4}, timeout="1m")
        except stepwell.StepError as err:
            return err.name
        return "in time"

    finished = run(impatient, ORDER, functions=[total])
    assert finished.output == "InngestInvokeTimeoutError"
    assert finished.took == timedelta(minutes=1)


def test_a_function_on_a_schedule_needs_no_event() -> None:
    assert run(nightly, at=NOON).output == "2026-01-01T12:00:00+00:00 2026-01-01T12:00:00Z"


def test_plain_functions_run_too() -> None:
    finished = run(blocking, ORDER, crash_after_each_step=True)

    assert finished.output == ["a", "b"]
    assert finished.took == timedelta(hours=1)


def test_the_first_of_several_is_decided_by_the_virtual_clock() -> None:
    @stepwell.Service("x").function(on=placed)
    async def race(ctx: stepwell.Context[Order]) -> str:
        naps = [asyncio.create_task(ctx.step.sleep(name, name), name=name) for name in ("2h", "1h")]
        done, left = await asyncio.wait(naps, return_when=asyncio.FIRST_COMPLETED)
        for one in left:
            one.cancel()
        return done.pop().get_name()

    assert run(race, ORDER, crash_after_each_step=True).output == "1h"


def test_a_body_that_fails_is_entered_again_with_its_steps() -> None:
    @stepwell.Service("x").function(on=placed, retries=2)
    async def flaky(ctx: stepwell.Context[Order]) -> int:
        await ctx.step.run("charge", charge, ctx.event.data)
        if ctx.attempt < 2:
            raise ValueError("not yet")
        return ctx.attempt

    finished = run(flaky, ORDER)
    assert finished.output == 2
    assert finished.entries == 3
    assert finished.steps["charge"].attempts == 1


async def test_a_test_that_is_a_coroutine_awaits() -> None:
    assert (await run_async(ship, ORDER)).output == Receipt("o1", 5)
    with pytest.raises(RuntimeError, match="run_async"):
        run(ship, ORDER)


# With a crash after each step


def test_a_durable_function_survives_a_crash_after_each_step() -> None:
    entered: list[int] = []

    @stepwell.Service("x").function(on=placed)
    async def durable(ctx: stepwell.Context[Order]) -> list[Any]:
        entered.append(1)
        one, two = await asyncio.gather(
            ctx.step.run("charge", charge, ctx.event.data), ctx.step.invoke("total", total, data={"n": 1})
        )
        await ctx.step.sleep("nap", "1d")
        return [one.paid, two, str(ctx.uuid4())]

    finished = run(durable, ORDER, functions=[total], crash_after_each_step=True)
    assert finished.output[:2] == [5, 2]
    assert len(entered) == 1 + 4


def test_a_variable_that_a_step_changes_is_noticed() -> None:
    @stepwell.Service("x").function(on=placed)
    async def forgetful(ctx: stepwell.Context[Order]) -> list[str]:
        found: list[str] = []

        async def load() -> None:
            found.append("loaded")

        await ctx.step.run("load", load)
        return found

    assert run(forgetful, ORDER).output == ["loaded"]
    with pytest.raises(NotRepeatable, match=r'x-forgetful.*returns \[\] instead of: it returns \["loaded"\]'):
        run(forgetful, ORDER, crash_after_each_step=True)


def test_a_step_that_needs_the_memory_of_an_earlier_one_is_noticed() -> None:
    @stepwell.Service("x").function(on=placed, retries=0)
    async def forgetful(ctx: stepwell.Context[Order]) -> str:
        held: dict[str, str] = {}

        async def log_in() -> None:
            held["token"] = "t"

        async def call() -> str:
            return held["token"]

        await ctx.step.run("log-in", log_in)
        return await ctx.step.run("call", call)

    with pytest.raises(NotRepeatable, match=r"step 'call' fails: .*'token'"):
        run(forgetful, ORDER, crash_after_each_step=True)


def test_a_path_that_the_clock_decides_is_noticed() -> None:
    entered: list[int] = []

    @stepwell.Service("x").function(on=placed)
    async def wandering(ctx: stepwell.Context[Order]) -> str:
        entered.append(1)
        return await ctx.step.run(f"step-{len(entered)}", lambda: "done")

    with pytest.raises(NotRepeatable, match="only after a crash it comes to"):
        run(wandering, ORDER, crash_after_each_step=True)
