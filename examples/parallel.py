"""Steps at once, in the way Python does it: gather, a task group, and a race.

    stepwell dev examples/parallel.py
    stepwell send weather/asked '{"cities": ["Oslo", "Rome", "Lima"]}' --follow

Each city is a step of its own, tried again on its own. The race ends with the first answer, and a replay gives the
same winner.
"""

import asyncio
from typing import TypedDict

import stepwell

service = stepwell.Service("weather")


class Asked(TypedDict):
    cities: list[str]


class Report(TypedDict):
    warmest: str
    degrees: dict[str, int]
    source: str


weather_asked = stepwell.event("weather/asked", Asked)


async def measure(city: str) -> int:
    await asyncio.sleep(0.2)  # a request, in earnest
    return sum(map(ord, city)) % 35


async def ask(source: str, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return source


@service.function(on=weather_asked)
async def report(ctx: stepwell.Context[Asked]) -> Report:
    cities = ctx.event.data["cities"]
    measured = await asyncio.gather(*(ctx.step.run(f"measure-{city}", measure, city) for city in cities))
    degrees = dict(zip(cities, measured, strict=True))

    async with asyncio.TaskGroup() as group:  # the first error ends the others
        source = group.create_task(first_answer(ctx))
        group.create_task(ctx.step.sleep("at-least-this-long", "300ms"))

    return {"warmest": max(cities, key=lambda city: degrees[city]), "degrees": degrees, "source": source.result()}


async def first_answer(ctx: stepwell.Context[Asked]) -> str:
    """Steps may be anywhere below the function, as long as they are reached the same way each time."""
    asked = [
        asyncio.create_task(ctx.step.run("ask-slow", ask, "slow", 5)),
        asyncio.create_task(ctx.step.run("ask-quick", ask, "quick", 0.05)),
    ]
    done, others = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    return done.pop().result()
