"""The functions on Restate's Python SDK, served by Hypercorn over HTTP/2 as its documentation does."""

from __future__ import annotations

import os
from typing import Any

import restate
import uvloop
from hypercorn.asyncio import serve
from hypercorn.config import Config

from benchmarks.marks import mark

bench = restate.Service("bench")


async def step(key: str, number: int) -> dict[str, int]:
    mark(key, f"s{number}")
    return {"number": number}


@bench.handler()
async def seq(ctx: restate.Context, data: dict[str, Any]) -> None:
    for number in range(data["steps"]):
        await ctx.run_typed(f"s{number}", step, key=data["key"], number=number)
    mark(data["key"], "done")


@bench.handler()
async def fan(ctx: restate.Context, data: dict[str, Any]) -> None:
    steps = [ctx.run_typed(f"s{number}", step, key=data["key"], number=number) for number in range(data["width"])]
    await restate.gather(*steps)
    mark(data["key"], "done")


if __name__ == "__main__":
    config = Config()
    config.bind = [f"127.0.0.1:{os.environ['PORT']}"]
    config.loglevel, config.accesslog, config.backlog = "ERROR", None, 4096
    config.h2_max_concurrent_streams = config.keep_alive_max_requests = 2**31 - 1
    uvloop.run(serve(restate.app([bench]), config))
