"""One library in a service, whose functions are the same for every library. Run by `stepwell worker`.

The library is a module of `tests.libraries.apps`, of which not each has everything:

    asked, streamed            a call of the model with async, and one that streams
    asked_now, streamed_now    the same without
    repeated                   a call by a client that repeats what fails once
"""

from __future__ import annotations

import asyncio
import importlib
import os
from functools import partial
from typing import Any

import stepwell
from tests.official.python.services.ledger import FUNCTION, note

APP = os.environ["SERVICE"]
WORDS = ("one", "two", "three")

library: Any = importlib.import_module(f"tests.libraries.apps.{os.environ['LIBRARY']}")
service = stepwell.Service(APP)
Ctx = stepwell.Context[Any]
SyncCtx = stepwell.SyncContext[Any]


@service.function(on=f"{APP}/asynchronous")
async def asynchronous(ctx: Ctx) -> list[str]:
    """Three calls at once, a pause, a stream."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    words = await asyncio.gather(*(library.asked(word) for word in WORDS))
    await ctx.step.sleep("nap", ctx.event.data["nap"])
    return [*words, await library.streamed("four")]


@service.function(on=f"{APP}/plain")
def plain(ctx: SyncCtx) -> list[str]:
    """The same in a plain `def`."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    words: list[str] = ctx.step.parallel([partial(library.asked_now, word) for word in WORDS])
    ctx.step.sleep("nap", ctx.event.data["nap"])
    return [*words, getattr(library, "streamed_now", library.asked_now)("four")]


@service.function(on=f"{APP}/refused", retries=1)
async def refused(ctx: Ctx) -> str:
    """A busy provider, and a library that repeats what fails."""
    try:
        return str(await library.repeated("why?"))
    except Exception as err:
        return type(err).__name__


@service.function(on=f"{APP}/inside")
async def inside(ctx: Ctx) -> str:
    """A call in a step."""
    return await ctx.step.run("draft", library.asked, "one")
