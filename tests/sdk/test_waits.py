"""Waits that cannot work: too long, no duration, or ended by an event whose data is something else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

import stepwell
from stepwell.model.dispatch import Memo
from stepwell.model.ids import StepId
from stepwell.sdk.outcome import Raised
from tests.sdk.recorder import Mode, Server, an_event

Ctx = stepwell.Context[Any]

MODES: list[Mode] = ["live", "evicted", "replay"]


@dataclass
class Paid:
    amount: int


order_paid = stepwell.event("shop/order.paid", Paid)
malformed = Memo(StepId(""), "bare", an_event("shop/order.paid", amount="a lot"))


async def too_long(ctx: Ctx) -> None:
    await ctx.step.sleep("x", "400d")


async def too_patient(ctx: Ctx) -> None:
    await ctx.step.wait_for_event("x", order_paid, timeout=timedelta(days=400))


async def too_slow(ctx: Ctx) -> None:
    await ctx.step.invoke("x", "shop/other", timeout="400d")


def too_long_in_a_thread(ctx: stepwell.SyncContext[Any]) -> None:
    ctx.step.sleep("x", "400d")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("handler", [too_long, too_patient, too_slow, too_long_in_a_thread])
async def test_a_wait_beyond_the_limit_is_refused_at_the_call(handler: Any, mode: Mode) -> None:
    function: Any = stepwell.Service("shop").function(on="test/started")(handler)
    recorded = await Server(function).run(mode)
    assert isinstance(recorded.outcome, Raised)
    assert not recorded.outcome.retry
    assert recorded.error["message"].startswith("step 'x' asks to ")
    assert "400 days; the limit is 366 days" in recorded.error["message"]
    assert recorded.ops == []


async def test_a_wait_of_just_the_limit_is_asked_for() -> None:
    async def body(ctx: Ctx) -> int:
        await ctx.step.sleep("x", "366d")
        return 1

    recorded = await Server(stepwell.Service("shop").function(on="test/started")(body)).run_replay()
    assert recorded.output == 1


@pytest.mark.parametrize(
    ("length", "says"),
    [
        (7, "step 'x': 7 is not a duration; write timedelta(seconds=7) or \"7s\""),
        (1.5, "step 'x': 1.5 is not a duration; write timedelta(seconds=1.5) or \"1.5s\""),
        (None, "step 'x': None is not a duration; write timedelta(hours=1) or \"1h\""),
        ("soon", "step 'x': 'soon' is not a duration; write a number and a unit"),
        ("-1h", "step 'x': a duration cannot be negative: '-1h'"),
    ],
)
async def test_what_is_no_duration_is_refused_with_what_to_write(length: Any, says: str) -> None:
    async def body(ctx: Ctx) -> None:
        await ctx.step.sleep("x", length)

    recorded = await Server(stepwell.Service("shop").function(on="test/started")(body)).run_live()
    assert isinstance(recorded.outcome, Raised)
    assert not recorded.outcome.retry
    assert recorded.error["message"].startswith(says)


async def waits(ctx: Ctx) -> Any:
    return await ctx.step.wait_for_event("paid", order_paid, timeout="1h")


def waits_in_a_thread(ctx: stepwell.SyncContext[Any]) -> Any:
    return ctx.step.wait_for_event("paid", order_paid, timeout="1h")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("handler", [waits, waits_in_a_thread])
async def test_an_event_that_is_not_of_its_type_fails_the_run_and_says_what_came(handler: Any, mode: Mode) -> None:
    function: Any = stepwell.Service("shop").function(on="test/started")(handler)
    recorded = await Server(function, answers={"paid": malformed}).run(mode)
    assert isinstance(recorded.outcome, Raised)
    assert not recorded.outcome.retry
    assert recorded.error["name"] == "EventNotValid"
    assert recorded.error["message"].startswith(
        "step 'paid' waited for event 'shop/order.paid' with Paid as its data, and the data that came is not that: "
        '{"amount":"a lot"} ('
    )


async def catches(ctx: Ctx) -> str:
    try:
        await ctx.step.wait_for_event("paid", order_paid, timeout="1h")
    except stepwell.EventNotValid:
        return await ctx.step.run("instead", lambda: "by hand")
    return "paid"


def catches_in_a_branch(ctx: stepwell.SyncContext[Any]) -> str:
    def branch() -> str:
        try:
            ctx.step.wait_for_event("paid", order_paid, timeout="1h")
        except stepwell.EventNotValid:
            return ctx.step.run("instead", lambda: "by hand")
        return "paid"

    return ctx.step.parallel([branch])[0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("handler", [catches, catches_in_a_branch])
async def test_an_event_that_is_not_of_its_type_can_be_caught_at_the_wait(handler: Any, mode: Mode) -> None:
    function: Any = stepwell.Service("shop").function(on="test/started")(handler)
    assert (await Server(function, answers={"paid": malformed}).run(mode)).output == "by hand"
