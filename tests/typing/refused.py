"""What checkers must refuse. Each comment is itself checked: one without its error fails. Nothing here is run."""

from __future__ import annotations

from dataclasses import dataclass

import stepwell

service = stepwell.Service("shop")


@dataclass
class Order:
    id: str


@dataclass
class Paid:
    amount: int


order_placed = stepwell.event("shop/order.placed", Order)
order_paid = stepwell.event("shop/order.paid", Paid)


def charge(order: Order, amount: int) -> float:
    raise NotImplementedError


order_placed(Paid(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@service.function(on=order_placed)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
async def wrong_context(ctx: stepwell.Context[Paid]) -> None: ...


@service.function(on=order_placed)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
def wrong_pair(ctx: stepwell.Context[Order]) -> None: ...


@service.function(on=order_placed | stepwell.cron("@daily"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
async def forgets_none(ctx: stepwell.Context[Order]) -> None: ...


@service.function(on=order_placed, retry=4)  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportCallIssue, reportUntypedFunctionDecorator]
async def unknown_option(ctx: stepwell.Context[Order]) -> None: ...


@service.function(retry=4)  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportCallIssue, reportUntypedFunctionDecorator]
async def unknown_option_alone(ctx: stepwell.Context[Order]) -> None: ...


@service.function(on=order_placed)
async def tally(ctx: stepwell.Context[Order]) -> int:
    await ctx.step.run("charge", charge, Order("o"))  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await ctx.step.run("charge", charge, "o", 5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await ctx.step.run("charge", charge(Order("o"), 1))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    ctx.step.run("charge", charge, Order("o"), 5)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    await ctx.step.wait_for_event("paid", order_paid)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    paid = await ctx.step.wait_for_event("paid", order_paid, timeout="1h")
    await ctx.step.invoke("tally", tally, data=Paid(1))  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await ctx.step.sleep("nap", 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return paid.data.amount  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
