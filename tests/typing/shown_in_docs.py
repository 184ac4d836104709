"""What users write, and what checkers must know of it. Only the declarations are ever run."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict, assert_type

from pydantic import BaseModel

import stepwell

service = stepwell.Service("support")


class Ticket(BaseModel):
    id: str
    text: str


class Summary(BaseModel):
    title: str
    urgency: Literal["low", "normal", "high"]


@dataclass
class Order:
    id: str
    user_id: str


class Paid(TypedDict):
    amount: int


ticket_created = stepwell.event("support/ticket.created", Ticket)
order_placed = stepwell.event("shop/order.placed", Order)
order_paid = stepwell.event("shop/order.paid", Paid)
either = stepwell.event("shop/either", Order | Ticket)
many = stepwell.event("shop/many", list[Order])

assert_type(ticket_created, stepwell.EventType[Ticket])
assert_type(order_paid, stepwell.EventType[Paid])
assert_type(either, stepwell.EventType[Order | Ticket])
assert_type(many, stepwell.EventType[list[Order]])
assert_type(ticket_created(Ticket(id="t1", text="fire")), stepwell.Event[Ticket])
assert_type(order_paid({"amount": 5}), stepwell.Event[Paid])
assert_type(order_placed(Order("o", "u"), id="e-1", user={"id": "u"}).data, Order)


# Callables of every kind


async def page_on_call(ticket: str) -> None: ...
async def load_user(id: str) -> dict[str, str]:
    raise NotImplementedError


def charge(order: Order, amount: int) -> float:
    raise NotImplementedError


class Shop:
    async def ship(self, order: Order) -> bool:
        raise NotImplementedError

    def price(self, order: Order) -> int:
        raise NotImplementedError

    @stepwell.step
    async def audit(self, order: Order) -> Paid:
        raise NotImplementedError


@stepwell.step
async def tally(order: Order, *, plus: int = 0) -> int:
    raise NotImplementedError


@stepwell.step(retries=2, timeout="30s")
async def slow(order: Order) -> Order:
    raise NotImplementedError


@stepwell.step(id="convert")
def convert(amount: int) -> float:
    raise NotImplementedError


# Functions


@service.function(on=ticket_created, retries=4, concurrency=5, cancel_on=order_paid)
async def summarize(ctx: stepwell.Context[Ticket]) -> Summary:
    assert_type(ctx.event, stepwell.Event[Ticket])
    assert_type(ctx.event.data.text, str)
    assert_type(ctx.events, tuple[stepwell.Event[Ticket], ...])
    assert_type(ctx.run_id, str)
    assert_type(ctx.attempt, int)
    assert_type(ctx.now(), datetime)
    assert_type(ctx.random.random(), float)
    assert_type(ctx.service, stepwell.Service)
    ctx.logger.info("summarizing %s", ctx.event.data.id)
    assert_type(await ctx.step.run("page", page_on_call, ctx.event.data.id), None)
    assert_type(await ctx.step.sleep("cool-off", timedelta(hours=1)), None)
    return Summary(title="", urgency="low")


assert_type(summarize, stepwell.Function[Ticket, Summary])


@service.function(on=order_placed)
async def place(ctx: stepwell.Context[Order]) -> int:
    order = ctx.event.data
    shop = Shop()
    assert_type(await ctx.step.run("charge", charge, order, amount=5), float)
    assert_type(await ctx.step.run("ship", shop.ship, order), bool)
    assert_type(await ctx.step.run("price", shop.price, order), int)
    assert_type(await ctx.step.run("lambda", lambda: [1]), list[int])
    assert_type(await ctx.step.run("tally", tally, order, plus=1), int)
    assert_type(await tally(order), int)
    assert_type(await slow(order), Order)
    assert_type(await shop.audit(order), Paid)

    one, two = await asyncio.gather(
        ctx.step.run("charge", charge, order, 5), ctx.step.run("load-user", load_user, order.user_id)
    )
    assert_type(one, float)
    assert_type(two, dict[str, str])
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ctx.step.run("ship", shop.ship, order))
    assert_type(task.result(), bool)

    await ctx.step.sleep_until("morning", datetime.now().astimezone())
    paid = await ctx.step.wait_for_event("paid", order_paid, match="data.id", timeout="3d")
    assert_type(paid, stepwell.Event[Paid] | None)
    if paid is not None:
        assert_type(paid.data["amount"], int)
    assert_type(await ctx.step.wait_for_event("any", "shop/any", timeout="1h"), stepwell.Event[Any] | None)

    assert_type(await ctx.step.invoke("summarize", summarize, data=Ticket(id="t", text="")), Summary)
    assert_type(await ctx.step.invoke("named", "shop/tally", data={"x": 1}, output=int), int)
    assert_type(await ctx.step.invoke("named", "shop/tally", output=list[int]), list[int])
    assert_type(await ctx.step.send_event("notify", order_paid({"amount": 1}), many([order])), list[str])
    try:
        await ctx.step.run("ship", shop.ship, order)
    except stepwell.StepError as err:
        assert_type(err.name, str)
        assert_type(err.step_id, str)
        raise stepwell.NonRetriableError("no such card") from err
    raise stepwell.RetryAfterError(timedelta(minutes=5))


@service.function(on=order_placed.when("event.data.amount > 10") | stepwell.cron("0 9 * * 1-5", tz="Europe/Berlin"))
async def either_way(ctx: stepwell.Context[Order | None]) -> None:
    assert_type(ctx.event.data, Order | None)
    if order_placed.is_(ctx.event):
        assert_type(ctx.event.data, Order)


@service.function(on=ticket_created | order_placed)
async def two_kinds(ctx: stepwell.Context[Ticket | Order]) -> None:
    assert_type(ctx.event.data, Ticket | Order)


@service.function(on=stepwell.cron("@daily"))
async def nightly(ctx: stepwell.Context[None]) -> str:
    return ""


@service.function(on="any/name")
async def by_name(ctx: stepwell.Context[Any]) -> str:
    assert_type(await ctx.step.invoke("nightly", nightly), str)
    return ""


@service.function(on=["a/one", "a/two"])
async def by_names(ctx: stepwell.Context[Any]) -> str:
    return ""


@service.function()
async def never_started(ctx: stepwell.Context[Any]) -> int:
    assert_type(await ctx.step.invoke("by-name", by_name, data={"n": 1}), str)
    return 1


@service.function(id="also-never-started", retries=0)
def never_started_either(ctx: stepwell.SyncContext[Any]) -> int:
    return ctx.step.invoke("never", never_started, data={"n": 1})


assert_type(never_started, stepwell.Function[Any, int])
assert_type(never_started_either, stepwell.Function[Any, int])
assert_type(nightly, stepwell.Function[None, str])
assert_type(by_name, stepwell.Function[Any, str])


async def told(ctx: stepwell.Context[stepwell.Failure]) -> None:
    assert_type(ctx.event.data.error.message, str)


@service.function(
    on=order_placed,
    id="fully-dressed",
    name="Fully dressed",
    on_failure=told,
    throttle=stepwell.Throttle(limit=1, period="60s", key="event.data.user"),
    rate_limit=stepwell.RateLimit(limit=10, period=timedelta(hours=1)),
    debounce=stepwell.Debounce(period="10s"),
    priority="event.data.priority",
    singleton=stepwell.Singleton("cancel"),
    idempotency="event.data.id",
    timeouts=stepwell.Timeouts(start="10s", finish="1h"),
    concurrency=[stepwell.Concurrency(5), stepwell.Concurrency(1, key="event.data.user", scope="env")],
    cancel_on=[order_paid, stepwell.CancelOn("shop/cancelled", match="data.id", timeout="1h")],
)
async def dressed(ctx: stepwell.Context[Order]) -> None: ...


# Sync


@service.function(on=order_placed)
def plain(ctx: stepwell.SyncContext[Order]) -> list[float]:
    assert_type(ctx.event.data, Order)
    assert_type(ctx.step.run("charge", charge, ctx.event.data, 5), float)
    assert_type(ctx.step.run("load", load_user, "u"), dict[str, str])
    assert_type(convert(1), float)
    assert_type(ctx.step.wait_for_event("paid", order_paid, timeout="1h"), stepwell.Event[Paid] | None)
    assert_type(ctx.step.invoke("nightly", nightly), str)
    assert_type(ctx.step.sleep("nap", "1h"), None)
    return ctx.step.parallel([lambda: ctx.step.run("a", convert, 1), lambda: ctx.step.run("b", convert, 2)])


assert_type(plain, stepwell.Function[Order, list[float]])
