"""The functions on the official Python SDK, served by FastAPI: `uvicorn benchmarks.apps.official:app`."""

from __future__ import annotations

import datetime
import functools
import logging

import fastapi
import inngest
import inngest.fast_api
from inngest.experimental.ai import openai

from benchmarks.apps.counted import counted
from benchmarks.marks import mark

_log = logging.getLogger("inngest")
_log.setLevel(logging.ERROR)
client = inngest.Inngest(app_id="bench", is_production=False, logger=_log)


async def step(key: str, number: int) -> dict[str, int]:
    mark(key, f"s{number}")
    return {"number": number}


@client.create_function(fn_id="seq", trigger=inngest.TriggerEvent(event="bench/seq"))
async def seq(ctx: inngest.Context) -> None:
    key = str(ctx.event.data["key"])
    for number in range(int(str(ctx.event.data["steps"]))):
        await ctx.step.run(f"s{number}", functools.partial(step, key, number))
    mark(key, "done")


@client.create_function(fn_id="fan", trigger=inngest.TriggerEvent(event="bench/fan"))
async def fan(ctx: inngest.Context) -> None:
    key = str(ctx.event.data["key"])
    width = int(str(ctx.event.data["width"]))
    await ctx.group.parallel(
        tuple(
            functools.partial(ctx.step.run, f"s{number}", functools.partial(step, key, number))
            for number in range(width)
        )
    )
    mark(key, "done")


@client.create_function(fn_id="ask", trigger=inngest.TriggerEvent(event="bench/ask"))
async def ask(ctx: inngest.Context) -> None:
    data = ctx.event.data
    model = openai.Adapter(auth_key="sk-none", base_url=f"{data['provider']}/v1", model="gpt-4o-mini")
    for number in range(int(str(data["steps"]))):
        body: dict[str, object] = {"messages": [{"role": "user", "content": str(data["prompt"])}]}
        await ctx.step.ai.infer(f"s{number}", adapter=model, body=body)
        mark(str(data["key"]), f"s{number}")
    mark(str(data["key"]), "done")


@client.create_function(fn_id="nap", trigger=inngest.TriggerEvent(event="bench/nap"))
async def nap(ctx: inngest.Context) -> None:
    key = str(ctx.event.data["key"])
    await ctx.step.run("s0", functools.partial(step, key, 0))
    until = float(str(ctx.event.data["until"]))
    await ctx.step.sleep_until("nap", datetime.datetime.fromtimestamp(until, datetime.UTC))
    mark(key, "done")


_served = fastapi.FastAPI()
inngest.fast_api.serve(_served, client, [seq, fan, ask, nap])
app = counted(_served)
