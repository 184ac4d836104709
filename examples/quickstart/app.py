"""A first service: greet somebody, wait a moment, write a note.

stepwell dev examples/quickstart/app.py
stepwell send hello/greet '{"name": "Ada"}' --follow
"""

import asyncio
from typing import TypedDict

import stepwell

service = stepwell.Service("quickstart")


class Greeting(TypedDict):
    name: str


greet = stepwell.event("hello/greet", Greeting)


@service.function(on=greet)
async def welcome(ctx: stepwell.Context[Greeting]) -> str:
    """Each step runs once, whatever happens in between; kill the server or this process and see."""
    name = ctx.event.data["name"]
    words, length = await asyncio.gather(
        ctx.step.run("compose", compose, name),
        ctx.step.run("measure", measure, name),
    )
    await ctx.step.sleep("think", "2s")
    return await ctx.step.run("sign", sign, words, length)


async def compose(name: str) -> str:
    return f"Hello, {name}."


async def measure(name: str) -> int:
    return len(name)


async def sign(words: str, length: int) -> str:
    return f"{words} Your name has {length} letters."
