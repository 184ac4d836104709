"""Asynchronous functions of a service on our own SDK: those of the official services, and shapes only ours has.

`SERVICE` names the service and begins the names of its events; `LEDGER` is the file that counts what really ran.
What a function does is described here; `blocking.py` has most of them once more as plain `def`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from datetime import timedelta
from typing import Any

import stepwell
from tests.official.python.services.ledger import FUNCTION, note

APP = os.environ["SERVICE"]
LARGE = 4 * 1024 * 1024 - 1024

service = stepwell.Service(APP)
Ctx = stepwell.Context[Any]


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note("", "line", 0, text=record.getMessage())


logging.getLogger("stepwell.function").addHandler(_Lines())
logging.basicConfig(level=logging.INFO)


async def noted(ctx: Ctx, step: str, result: Any = None, **facts: object) -> Any:
    note(ctx.run_id, step, ctx.attempt, pid=os.getpid(), **facts)
    return result


def entered(ctx: Ctx, **facts: object) -> None:
    note(ctx.run_id, FUNCTION, ctx.attempt, pid=os.getpid(), **facts)


@service.function(on=f"{APP}/linear")
async def linear(ctx: Ctx) -> Any:
    """Three steps, each using the result of the one before."""
    entered(ctx)
    one = await ctx.step.run("one", noted, ctx, "one", 1)
    two = await ctx.step.run("two", noted, ctx, "two", one + 1)
    three = await ctx.step.run("three", noted, ctx, "three", two + 1)
    return {"sum": one + two + three, "echo": ctx.event.data.get("echo")}


@service.function(on=f"{APP}/repeated")
async def repeated(ctx: Ctx) -> Any:
    """One step id used four times in a loop."""
    entered(ctx)
    return [await ctx.step.run("item", noted, ctx, "item", i * i) for i in range(4)]


@service.function(on=f"{APP}/parallel")
async def parallel(ctx: Ctx) -> Any:
    """Two branches of two steps, gathered (`wait`), or taken as they end (`race`)."""
    entered(ctx)

    async def branch(name: str) -> Any:
        first = await ctx.step.run(f"{name}1", noted, ctx, f"{name}1", f"{name}1")
        return await ctx.step.run(f"{name}2", noted, ctx, f"{name}2", f"{first}{name}2")

    if ctx.event.data["mode"] == "wait":
        return list(await asyncio.gather(branch("a"), branch("b")))
    return sorted([await one for one in asyncio.as_completed([branch("a"), branch("b")])])


@service.function(on=f"{APP}/group")
async def group(ctx: Ctx) -> Any:
    """A `TaskGroup` of three steps and a sleep."""
    entered(ctx)
    async with asyncio.TaskGroup() as tasks:
        made = [tasks.create_task(ctx.step.run(name, noted, ctx, name, name)) for name in "abc"]
        tasks.create_task(ctx.step.sleep("nap", "1s"))
    note(ctx.run_id, "joined", 0)
    return "".join(one.result() for one in made)


@service.function(on=f"{APP}/first")
async def first(ctx: Ctx) -> Any:
    """The first of a step and a sleep; the step ends long before, and the same one wins on every replay."""
    entered(ctx)
    step = asyncio.create_task(ctx.step.run("quick", noted, ctx, "quick", "quick"), name="quick")
    nap = asyncio.create_task(ctx.step.sleep("nap", "1s"), name="nap")
    done, _ = await asyncio.wait({step, nap}, return_when=asyncio.FIRST_COMPLETED)
    winner = next(iter(done)).get_name()
    await ctx.step.run("won", noted, ctx, "won", winner)
    await nap
    return [winner, len(done), await ctx.step.run("last", noted, ctx, "last", winner)]


@service.function(on=f"{APP}/queue")
async def queue(ctx: Ctx) -> Any:
    """Two workers of the function's own take items from a queue; each item is a step."""
    entered(ctx)
    items: asyncio.Queue[str] = asyncio.Queue()
    for name in "abcdef":
        items.put_nowait(name)
    found: dict[str, str] = {}

    async def take() -> None:
        while not items.empty():
            name = items.get_nowait()
            found[name] = await ctx.step.run(name, noted, ctx, name, name.upper())

    await asyncio.gather(take(), take())
    return "".join(found[name] for name in sorted(found))


@service.function(on=f"{APP}/naps")
async def naps(ctx: Ctx) -> Any:
    """Sleep for a second, then until the time in `until`."""
    entered(ctx)
    await ctx.step.run("before", noted, ctx, "before")
    await ctx.step.sleep("nap", timedelta(seconds=1))
    await ctx.step.run("between", noted, ctx, "between")
    await ctx.step.sleep_until("until", ctx.event.data["until"])
    await ctx.step.run("after", noted, ctx, "after")
    return "rested"


@service.function(on=f"{APP}/wait")
async def wait(ctx: Ctx) -> Any:
    """Wait `seconds` for a payment of the same `order`."""
    entered(ctx)
    await ctx.step.run("before", noted, ctx, "before")
    payment = await ctx.step.wait_for_event(
        "payment", f"{APP}/paid", match="data.order", timeout=timedelta(seconds=ctx.event.data["seconds"])
    )
    await ctx.step.run("after", noted, ctx, "after")
    return None if payment is None else {"name": payment.name, "data": payment.data}


@service.function(on=f"{APP}/large-wait")
async def large_wait(ctx: Ctx) -> Any:
    """Wait for a payment of more than the event's `least`, by an expression."""
    entered(ctx)
    payment = await ctx.step.wait_for_event(
        "payment",
        f"{APP}/paid",
        condition="async.data.order == event.data.order && async.data.sum > event.data.least",
        timeout="60s",
    )
    return None if payment is None else payment.data["sum"]


@service.function(on=f"{APP}/child", retries=0)
async def child(ctx: Ctx) -> Any:
    """Doubles `n`, or fails, or is slow."""
    entered(ctx, event=ctx.event.name)
    if ctx.event.data["how"] == "fail":
        raise ValueError("the child failed")
    if ctx.event.data["how"] == "slow":
        await ctx.step.sleep("slow", timedelta(seconds=4))
    return {"doubled": ctx.event.data["n"] * 2}


@service.function(on=f"{APP}/parent")
async def parent(ctx: Ctx) -> Any:
    """Invokes `target`; waits `seconds` for it when given."""
    entered(ctx)
    seconds = ctx.event.data.get("seconds")
    try:
        result = await ctx.step.invoke(
            "call",
            f"{APP}/{ctx.event.data['target']}",
            data={"n": 21, "how": ctx.event.data.get("how", "double")},
            timeout=None if seconds is None else timedelta(seconds=seconds),
        )
    except stepwell.StepError as err:
        return {"name": err.name, "message": err.message}
    return {"result": result}


@service.function(on=f"{APP}/retried", retries=4)
async def retried(ctx: Ctx) -> Any:
    """A step that works the third time, and one after it."""
    entered(ctx)

    async def flaky() -> int:
        await noted(ctx, "flaky")
        if ctx.attempt < 2:
            raise ConnectionError(f"attempt {ctx.attempt} failed")
        return ctx.attempt

    succeeded_at = await ctx.step.run("flaky", flaky)
    await ctx.step.run("next", noted, ctx, "next")
    return {"succeeded_at": succeeded_at}


@service.function(on=f"{APP}/caught", retries=1)
async def caught(ctx: Ctx) -> Any:
    """A step that never works; with `catch` the function makes up for it, without it fails."""
    entered(ctx)

    async def hopeless() -> None:
        await noted(ctx, "hopeless")
        raise KeyError("no such row")

    try:
        await ctx.step.run("hopeless", hopeless)
    except stepwell.StepError as err:
        if not ctx.event.data["catch"]:
            raise
        await ctx.step.run("instead", noted, ctx, "instead")
        return {"name": err.name, "message": err.message}
    return "unreachable"


async def on_failing(ctx: stepwell.Context[stepwell.Failure]) -> None:
    """Writes down what the failure event says about the run that failed."""
    failure = ctx.event.data
    told = {
        "function_id": failure.function_id,
        "run_id": failure.run_id,
        "event": failure.event,
        "error": {"name": failure.error.name, "message": failure.error.message},
    }
    note(ctx.run_id, "on-failure", ctx.attempt, failure=told)


@service.function(on=f"{APP}/failing", retries=1, on_failure=on_failing)
async def failing(ctx: Ctx) -> Any:
    """One good step, then an error in the function's own body."""
    entered(ctx)
    await ctx.step.run("before", noted, ctx, "before")
    raise ValueError("bad input")


@service.function(on=f"{APP}/non-retriable", retries=5)
async def non_retriable(ctx: Ctx) -> Any:
    """Gives up at once, in a step or in the function (`where`)."""
    entered(ctx)

    async def give_up() -> None:
        await noted(ctx, "give-up")
        raise stepwell.NonRetriableError("never again")

    if ctx.event.data["where"] == "step":
        await ctx.step.run("give-up", give_up)
    raise stepwell.NonRetriableError("never again")


@service.function(on=f"{APP}/retry-after", retries=2)
async def retry_after(ctx: Ctx) -> Any:
    """Asks to be tried again in three seconds, in a step or in the function (`where`)."""
    entered(ctx)

    async def later() -> int:
        await noted(ctx, "later")
        if ctx.attempt == 0:
            raise stepwell.RetryAfterError(timedelta(seconds=3), "busy")
        return ctx.attempt

    if ctx.event.data["where"] == "step":
        return await ctx.step.run("later", later)
    return await later()


@service.function(on=f"{APP}/cancellable", cancel_on=stepwell.CancelOn(f"{APP}/cancel", match="data.order"))
async def cancellable(ctx: Ctx) -> Any:
    """A step, a sleep during which it may be cancelled, and a step that must not run then."""
    entered(ctx)
    await ctx.step.run("before", noted, ctx, "before")
    await ctx.step.sleep("pause", timedelta(seconds=3))
    await ctx.step.run("after", noted, ctx, "after")
    return "not cancelled"


@service.function(on=f"{APP}/large")
async def large(ctx: Ctx) -> Any:
    """`count` steps that each return nearly 4 MiB; the result is their digests, or with `whole` the first of them."""
    entered(ctx)
    blobs = [
        await ctx.step.run("blob", noted, ctx, "blob", chr(ord("a") + i) * LARGE)
        for i in range(ctx.event.data["count"])
    ]
    if ctx.event.data.get("whole"):
        return blobs[0]
    return [hashlib.sha256(blob.encode()).hexdigest() for blob in blobs]


@service.function(on=f"{APP}/steps")
async def steps(ctx: Ctx) -> Any:
    """`count` steps one after another; number `hold` ends when the test lets it."""
    entered(ctx)

    async def one(i: int) -> int:
        await noted(ctx, f"step-{i}")
        while i == ctx.event.data.get("hold") and not os.path.exists(os.environ["LEDGER"] + ".go"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return i

    return sum([await ctx.step.run(f"step-{i}", one, i) for i in range(ctx.event.data["count"])])


@service.function(on=f"{APP}/relay")
async def relay(ctx: Ctx) -> Any:
    """Sends an event from a step and returns the ids that the server gave it."""
    entered(ctx)
    return await ctx.step.send_event("pass on", stepwell.Event(f"{APP}/linear", {"echo": ctx.run_id}))


@service.function(on=f"{APP}/told")
async def told(ctx: Ctx) -> Any:
    """Logs between steps, and draws what must be the same on each pass."""
    drawn = [ctx.now().isoformat(), str(ctx.uuid4()), str(ctx.uuid4()), ctx.random.random()]
    entered(ctx, drawn=drawn)
    ctx.logger.info("%s begins", ctx.run_id)
    await ctx.step.run("one", noted, ctx, "one")
    ctx.logger.info("%s between", ctx.run_id)
    await ctx.step.sleep("nap", timedelta(seconds=ctx.event.data["seconds"]))
    await ctx.step.run("two", noted, ctx, "two")
    ctx.logger.info("%s ends", ctx.run_id)
    return drawn


@service.function(on=f"{APP}/mixed")
async def mixed(ctx: Ctx) -> Any:
    """Sync callables as steps of an async function, several at once."""
    entered(ctx)

    def plain(name: str) -> str:
        note(ctx.run_id, name, ctx.attempt)
        return name

    return list(await asyncio.gather(*(ctx.step.run(name, plain, name) for name in "ab")))
