"""One step that takes as long as its event says."""

import asyncio
from typing import Any

import stepwell
from tests.faults.apps.note import note

service = stepwell.Service("slow")


@service.function(on="slow/nap")
async def nap(ctx: stepwell.Context[Any]) -> str:
    async def step() -> str:
        note(ctx.run_id, "nap", ctx.attempt)
        await asyncio.sleep(ctx.event.data["seconds"])
        return "rested"

    return await ctx.step.run("nap", step)
