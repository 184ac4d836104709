"""The functions of the services on the official SDK (`tests/official/python/services`), written with ours.

The service has the same id, so the recorded requests to the official one can be sent to this one.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import stepwell

APP = "fastapi"
service = stepwell.Service(APP, app_version="1.2.3")
Ctx = stepwell.Context[Any]


async def value(result: Any = None) -> Any:
    return result


@service.function(on=f"{APP}/linear")
async def linear(ctx: Ctx) -> Any:
    one = await ctx.step.run("one", value, 1)
    two = await ctx.step.run("two", value, one + 1)
    three = await ctx.step.run("three", value, two + 1)
    return {"sum": one + two + three, "echo": ctx.event.data.get("echo")}


@service.function(on=f"{APP}/repeated")
async def repeated(ctx: Ctx) -> Any:
    return [await ctx.step.run("item", value, i * i) for i in range(4)]


@service.function(on=f"{APP}/parallel")
async def parallel(ctx: Ctx) -> Any:
    async def branch(name: str) -> Any:
        first = await ctx.step.run(f"{name}1", value, f"{name}1")
        return await ctx.step.run(f"{name}2", value, f"{first}{name}2")

    return list(await asyncio.gather(branch("a"), branch("b")))


@service.function(on=f"{APP}/naps")
async def naps(ctx: Ctx) -> Any:
    await ctx.step.run("before", value)
    await ctx.step.sleep("nap", timedelta(seconds=1))
    await ctx.step.run("between", value)
    await ctx.step.sleep_until("until", ctx.event.data["until"])
    await ctx.step.run("after", value)
    return "rested"


@service.function(on=f"{APP}/wait")
async def wait(ctx: Ctx) -> Any:
    await ctx.step.run("before", value)
    payment = await ctx.step.wait_for_event(
        "payment",
        f"{APP}/paid",
        condition="async.data.order == event.data.order",
        timeout=timedelta(seconds=ctx.event.data["seconds"]),
    )
    await ctx.step.run("after", value)
    return None if payment is None else {"name": payment.name, "data": payment.data}


@service.function(on=f"{APP}/parent")
async def parent(ctx: Ctx) -> Any:
    seconds = ctx.event.data.get("seconds")
    try:
        result = await ctx.step.invoke(
            "call",
            f"{APP}/{ctx.event.data['target']}",
            data={"n": 21, "how": ctx.event.data.get("how", "double")},
            timeout=None if seconds is None else timedelta(seconds=seconds),
        )
    except stepwell.StepError as err:
        return {"name": err.name, "message": err.message}
    return {"result": result}


@service.function(on=f"{APP}/retried", retries=4)
async def retried(ctx: Ctx) -> Any:
    async def flaky() -> int:
        if ctx.attempt < 2:
            raise ConnectionError(f"attempt {ctx.attempt} failed")
        return ctx.attempt

    succeeded_at = await ctx.step.run("flaky", flaky)
    await ctx.step.run("next", value)
    return {"succeeded_at": succeeded_at}


@service.function(on=f"{APP}/caught", retries=1)
async def caught(ctx: Ctx) -> Any:
    async def hopeless() -> None:
        raise KeyError("no such row")

    try:
        await ctx.step.run("hopeless", hopeless)
    except stepwell.StepError as err:
        if not ctx.event.data["catch"]:
            raise
        await ctx.step.run("instead", value)
        return {"name": err.name, "message": err.message}
    return "unreachable"


@service.function(on=f"{APP}/failing", retries=1)
async def failing(ctx: Ctx) -> Any:
    await ctx.step.run("before", value)
    raise ValueError("bad input")


@service.function(on=f"{APP}/non-retriable", retries=5)
async def non_retriable(ctx: Ctx) -> Any:
    async def give_up() -> None:
        raise stepwell.NonRetriableError("never again")

    if ctx.event.data["where"] == "step":
        await ctx.step.run("give-up", give_up)
    raise stepwell.NonRetriableError("never again")


@service.function(on=f"{APP}/retry-after", retries=2)
async def retry_after(ctx: Ctx) -> Any:
    async def later() -> int:
        if ctx.attempt == 0:
            raise stepwell.RetryAfterError(timedelta(seconds=3), "busy")
        return ctx.attempt

    if ctx.event.data["where"] == "step":
        return await ctx.step.run("later", later)
    return await later()


@service.function(on=f"{APP}/relay")
async def relay(ctx: Ctx) -> Any:
    return await ctx.step.send_event("pass on", stepwell.Event(f"{APP}/linear", {"echo": ctx.run_id}))
