"""What the kill storm runs on a connected worker: steps in a row, steps beside one another, a sleep between steps."""

import asyncio
from typing import Any

import stepwell
from tests.faults.apps.note import note

service = stepwell.Service("storm")


async def work(run: str, step: str, value: int) -> int:
    note(run, step)
    await asyncio.sleep(0)
    return value + 1


@service.function(on="storm/short", retries=0)
async def short(ctx: stepwell.Context[Any]) -> int:
    number = await ctx.step.run("first", work, ctx.run_id, "first", 0)
    return await ctx.step.run("second", work, ctx.run_id, "second", number)


@service.function(on="storm/wide", retries=0)
async def wide(ctx: stepwell.Context[Any]) -> int:
    names = ("left", "middle", "right")
    found = await asyncio.gather(*(ctx.step.run(name, work, ctx.run_id, name, 0) for name in names))
    return await ctx.step.run("joined", work, ctx.run_id, "joined", sum(found))


@service.function(on="storm/wide", retries=0)
async def slow(ctx: stepwell.Context[Any]) -> int:
    number = await ctx.step.run("before", work, ctx.run_id, "before", 0)
    await ctx.step.sleep("nap", "700ms")
    return await ctx.step.run("after", work, ctx.run_id, "after", number)


@service.function(on="storm/chain", retries=0)
async def chain(ctx: stepwell.Context[Any]) -> int:
    number = 0
    for _ in range(ctx.event.data["steps"]):
        number = await ctx.step.run(f"link {number}", work, ctx.run_id, f"link {number}", number)
    return number
