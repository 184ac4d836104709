"""Functions whose runs were under way when an earlier version was killed. They are what they were then."""

from __future__ import annotations

import os
import time
from typing import Any

import stepwell

service = stepwell.Service("upgrade")

OLD = os.environ.get("STEPWELL_TEST_OLD") == "1"
"""Set while the earlier version runs: what is to be under way then does not end."""
LARGE = "x" * 20_000


@service.function(on="upgrade/sleep")
async def sleeper(ctx: stepwell.Context[Any]) -> str:
    first = await ctx.step.run("large", large)
    await ctx.step.sleep("nap", "90s")
    return f"slept after {len(first)}"


async def large() -> str:
    return LARGE


@service.function(on="upgrade/wait")
async def waiter(ctx: stepwell.Context[Any]) -> Any:
    got = await ctx.step.wait_for_event("go", "upgrade/go", match="data.number", timeout="360d")
    return None if got is None else got.data


@service.function(on="upgrade/retry")
async def retrier(ctx: stepwell.Context[Any]) -> str:
    return await ctx.step.run("flaky", flaky)


async def flaky() -> str:
    if OLD:
        raise RuntimeError("not yet")
    return "at last"


@service.function(on="upgrade/child")
async def child(ctx: stepwell.Context[Any]) -> int:
    await ctx.step.sleep("a while", "90s")
    return int(ctx.event.data["number"]) * 2


@service.function(on="upgrade/invoke")
async def parent(ctx: stepwell.Context[Any]) -> int:
    return 1 + await ctx.step.invoke("double", "upgrade-child", data={"number": 20}, output=int)


@service.function(on="upgrade/call")
async def caller(ctx: stepwell.Context[Any]) -> str:
    await ctx.step.run("before", before)
    return await ctx.step.run("slow", slow)


async def before() -> str:
    return "before"


def slow() -> str:
    while OLD:
        time.sleep(1)
    return "made again"


@service.function(on="upgrade/done")
async def done(ctx: stepwell.Context[Any]) -> str:
    return "long ago"
