"""A service whose code changes under its runs: `VERSION` says which code it has.

Version 2 has another name for `one`, an `added` step, no `removed`, and reads `shaped` as something else.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import stepwell
from tests.official.python.services.ledger import FUNCTION, note

VERSION = int(os.environ.get("VERSION", "1"))
APP = os.environ["SERVICE"]
NAP = "8s" if "STEPWELL_TEST_STORE" in os.environ else "4s"  # long enough to look at all runs, also on two servers

service = stepwell.Service(APP)
Ctx = stepwell.Context[Any]
logging.basicConfig(level=logging.INFO)


def noted(ctx: Ctx, step: str) -> str:
    note(ctx.run_id, step, ctx.attempt, version=VERSION)
    return f"{step} of {VERSION}"


@dataclass
class Shape:
    """What `shaped` returns since version 2."""

    size: int


def shape_before(ctx: Ctx) -> int:
    noted(ctx, "shaped")
    return 7


def shape_now(ctx: Ctx) -> Shape:
    noted(ctx, "shaped")
    return Shape(7)


if VERSION == 1:

    @service.function(on=f"{APP}/changing")
    async def changing(ctx: Ctx) -> Any:
        note(ctx.run_id, FUNCTION, ctx.attempt, version=VERSION)
        found = [await ctx.step.run(name, noted, ctx, name) for name in ("one", "removed", "kept")]
        await ctx.step.sleep("nap", NAP)
        return [*found, await ctx.step.run("last", noted, ctx, "last")]

    @service.function(on=f"{APP}/shape")
    async def shape(ctx: Ctx) -> Any:
        found = await ctx.step.run("shaped", shape_before, ctx)
        await ctx.step.sleep("nap", NAP)
        return found

else:

    @service.function(on=f"{APP}/changing", id="changing")
    async def changed(ctx: Ctx) -> Any:
        note(ctx.run_id, FUNCTION, ctx.attempt, version=VERSION)
        found = [await ctx.step.run(name, noted, ctx, name) for name in ("added", "renamed", "kept")]
        await ctx.step.sleep("nap", NAP)
        return [*found, await ctx.step.run("last", noted, ctx, "last")]

    @service.function(on=f"{APP}/shape", id="shape")
    async def shape_changed(ctx: Ctx) -> Any:
        found = await ctx.step.run("shaped", shape_now, ctx)
        await ctx.step.sleep("nap", NAP)
        return found.size


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(service.asgi(), host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
