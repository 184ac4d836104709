"""The functions on our own SDK: `stepwell worker benchmarks/apps/own.py`, or `uvicorn benchmarks.apps.own:app`."""

from __future__ import annotations

import asyncio
import datetime
import os
from typing import TypedDict

import stepwell
from benchmarks.apps.counted import counted
from benchmarks.marks import mark
from stepwell import ai

service = stepwell.Service("bench", checkpointing=os.environ.get("CHECKPOINTING") != "off")


class Sequence(TypedDict):
    key: str
    steps: int


class Fan(TypedDict):
    key: str
    width: int


class Ask(TypedDict):
    key: str
    steps: int
    provider: str
    prompt: str


class Live(TypedDict):
    key: str
    provider: str
    prompt: str


class Nap(TypedDict):
    key: str
    until: float


async def step(key: str, number: int) -> dict[str, int]:
    mark(key, f"s{number}")
    return {"number": number}


@service.function(on=stepwell.event("bench/seq", Sequence))
async def seq(ctx: stepwell.Context[Sequence]) -> None:
    key = ctx.event.data["key"]
    for number in range(ctx.event.data["steps"]):
        await ctx.step.run(f"s{number}", step, key, number)
    mark(key, "done")


@service.function(on=stepwell.event("bench/fan", Fan))
async def fan(ctx: stepwell.Context[Fan]) -> None:
    key = ctx.event.data["key"]
    width = ctx.event.data["width"]
    await asyncio.gather(*[ctx.step.run(f"s{number}", step, key, number) for number in range(width)])
    mark(key, "done")


@service.function(on=stepwell.event("bench/ask", Ask))
async def ask(ctx: stepwell.Context[Ask]) -> None:
    data = ctx.event.data
    model = ai.openai("gpt-4o-mini", base_url=f"{data['provider']}/v1", api_key="sk-none")
    for number in range(data["steps"]):
        body = {"messages": [{"role": "user", "content": data["prompt"]}]}
        await ctx.step.ai.infer(f"s{number}", model=model, body=body)
        mark(data["key"], f"s{number}")
    mark(data["key"], "done")


@service.function(on=stepwell.event("bench/live", Live))
async def live(ctx: stepwell.Context[Live]) -> None:
    data = ctx.event.data
    model = ai.openai("gpt-4o-mini", base_url=f"{data['provider']}/v1", api_key="sk-none")
    body = {"messages": [{"role": "user", "content": data["prompt"]}]}
    await ctx.step.ai.infer("ask", model=model, body=body, stream=True)


@service.function(on=stepwell.event("bench/nap", Nap))
async def nap(ctx: stepwell.Context[Nap]) -> None:
    key = ctx.event.data["key"]
    await ctx.step.run("s0", step, key, 0)
    await ctx.step.sleep_until("nap", datetime.datetime.fromtimestamp(ctx.event.data["until"], datetime.UTC))
    mark(key, "done")


app = counted(service.asgi()) if os.environ.get("STEPWELL_DEV") else None
