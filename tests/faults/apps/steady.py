"""Two steps that give back what they got, for loads that go on for long."""

from typing import Any

import stepwell

service = stepwell.Service("steady")


async def echo(text: str) -> str:
    return text


@service.function(on="steady/f")
async def f(ctx: stepwell.Context[Any]) -> int:
    text = await ctx.step.run("first", echo, ctx.event.data["text"])
    return len(await ctx.step.run("second", echo, text))
