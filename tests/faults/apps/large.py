"""Ten steps of 2 MiB each."""

from typing import Any

import stepwell

service = stepwell.Service("large")


@service.function(on="large/f")
async def f(ctx: stepwell.Context[Any]) -> int:
    async def step(number: int) -> str:
        return f"{ctx.run_id}{number}" * (2 * 1024 * 1024 // 27)

    return len([await ctx.step.run(f"s{number}", step, number) for number in range(10)])
