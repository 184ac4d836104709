"""The functions on DBOS, started over a small HTTP endpoint of ours: POST /{function} with a list of arguments."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from aiohttp import web
from dbos import DBOS

from benchmarks.marks import mark

DBOS(
    config={
        "name": "bench",
        "system_database_url": os.environ["DATABASE"],
        "application_version": "1",
        "executor_id": "bench",
        "log_level": "ERROR",
        "console_log_level": "ERROR",
    }
)


@DBOS.step()
async def step(key: str, number: int) -> dict[str, int]:
    mark(key, f"s{number}")
    return {"number": number}


@DBOS.workflow()
async def seq(data: dict[str, Any]) -> None:
    for number in range(data["steps"]):
        await step(data["key"], number)
    mark(data["key"], "done")


@DBOS.workflow()
async def fan(data: dict[str, Any]) -> None:
    await asyncio.gather(*[step(data["key"], number) for number in range(data["width"])])
    mark(data["key"], "done")


WORKFLOWS = {"seq": seq, "fan": fan}


async def start(request: web.Request) -> web.Response:
    """On return the runs are recorded."""
    workflow = WORKFLOWS[request.match_info["kind"]]
    for data in await request.json():
        await DBOS.start_workflow_async(workflow, data)
    return web.Response()


async def main() -> None:
    DBOS.launch()
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/{kind}", start)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(os.environ["PORT"])).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
