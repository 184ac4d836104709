"""The functions of `functions.py` as plain `def`; what each does is described there."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from datetime import timedelta
from typing import Any

import stepwell
from tests.official.python.services.ledger import FUNCTION, note

APP = os.environ["SERVICE"]
LARGE = 4 * 1024 * 1024 - 1024

service = stepwell.Service(APP)
Ctx = stepwell.SyncContext[Any]
logging.basicConfig(level=logging.INFO)


def noted(ctx: Ctx, step: str, result: Any = None, **facts: object) -> Any:
    note(ctx.run_id, step, ctx.attempt, pid=os.getpid(), **facts)
    return result


def entered(ctx: Ctx, **facts: object) -> None:
    note(ctx.run_id, FUNCTION, ctx.attempt, pid=os.getpid(), **facts)


@service.function(on=f"{APP}/linear")
def linear(ctx: Ctx) -> Any:
    entered(ctx)
    one = ctx.step.run("one", noted, ctx, "one", 1)
    two = ctx.step.run("two", noted, ctx, "two", one + 1)
    three = ctx.step.run("three", noted, ctx, "three", two + 1)
    return {"sum": one + two + three, "echo": ctx.event.data.get("echo")}


@service.function(on=f"{APP}/repeated")
def repeated(ctx: Ctx) -> Any:
    entered(ctx)
    return [ctx.step.run("item", noted, ctx, "item", i * i) for i in range(4)]


@service.function(on=f"{APP}/parallel")
def parallel(ctx: Ctx) -> Any:
    entered(ctx)

    def branch(name: str) -> Any:
        first = ctx.step.run(f"{name}1", noted, ctx, f"{name}1", f"{name}1")
        return ctx.step.run(f"{name}2", noted, ctx, f"{name}2", f"{first}{name}2")

    return ctx.step.parallel([lambda: branch("a"), lambda: branch("b")])


@service.function(on=f"{APP}/naps")
def naps(ctx: Ctx) -> Any:
    entered(ctx)
    ctx.step.run("before", noted, ctx, "before")
    ctx.step.sleep("nap", timedelta(seconds=1))
    ctx.step.run("between", noted, ctx, "between")
    ctx.step.sleep_until("until", ctx.event.data["until"])
    ctx.step.run("after", noted, ctx, "after")
    return "rested"


@service.function(on=f"{APP}/wait")
def wait(ctx: Ctx) -> Any:
    entered(ctx)
    ctx.step.run("before", noted, ctx, "before")
    payment = ctx.step.wait_for_event(
        "payment", f"{APP}/paid", match="data.order", timeout=timedelta(seconds=ctx.event.data["seconds"])
    )
    ctx.step.run("after", noted, ctx, "after")
    return None if payment is None else {"name": payment.name, "data": payment.data}


@service.function(on=f"{APP}/child", retries=0)
def child(ctx: Ctx) -> Any:
    entered(ctx, event=ctx.event.name)
    if ctx.event.data["how"] == "fail":
        raise ValueError("the child failed")
    if ctx.event.data["how"] == "slow":
        ctx.step.sleep("slow", timedelta(seconds=4))
    return {"doubled": ctx.event.data["n"] * 2}


@service.function(on=f"{APP}/parent")
def parent(ctx: Ctx) -> Any:
    entered(ctx)
    seconds = ctx.event.data.get("seconds")
    try:
        result = ctx.step.invoke(
            "call",
            f"{APP}/{ctx.event.data['target']}",
            data={"n": 21, "how": ctx.event.data.get("how", "double")},
            timeout=None if seconds is None else timedelta(seconds=seconds),
        )
    except stepwell.StepError as err:
        return {"name": err.name, "message": err.message}
    return {"result": result}


@service.function(on=f"{APP}/retried", retries=4)
def retried(ctx: Ctx) -> Any:
    entered(ctx)

    def flaky() -> int:
        noted(ctx, "flaky")
        if ctx.attempt < 2:
            raise ConnectionError(f"attempt {ctx.attempt} failed")
        return ctx.attempt

    succeeded_at = ctx.step.run("flaky", flaky)
    ctx.step.run("next", noted, ctx, "next")
    return {"succeeded_at": succeeded_at}


@service.function(on=f"{APP}/caught", retries=1)
def caught(ctx: Ctx) -> Any:
    entered(ctx)

    def hopeless() -> None:
        noted(ctx, "hopeless")
        raise KeyError("no such row")

    try:
        ctx.step.run("hopeless", hopeless)
    except stepwell.StepError as err:
        if not ctx.event.data["catch"]:
            raise
        ctx.step.run("instead", noted, ctx, "instead")
        return {"name": err.name, "message": err.message}
    return "unreachable"


def on_failing(ctx: stepwell.SyncContext[stepwell.Failure]) -> None:
    failure = ctx.event.data
    told = {
        "function_id": failure.function_id,
        "run_id": failure.run_id,
        "event": failure.event,
        "error": {"name": failure.error.name, "message": failure.error.message},
    }
    note(ctx.run_id, "on-failure", ctx.attempt, failure=told)


@service.function(on=f"{APP}/failing", retries=1, on_failure=on_failing)
def failing(ctx: Ctx) -> Any:
    entered(ctx)
    ctx.step.run("before", noted, ctx, "before")
    raise ValueError("bad input")


@service.function(on=f"{APP}/non-retriable", retries=5)
def non_retriable(ctx: Ctx) -> Any:
    entered(ctx)

    def give_up() -> None:
        noted(ctx, "give-up")
        raise stepwell.NonRetriableError("never again")

    if ctx.event.data["where"] == "step":
        ctx.step.run("give-up", give_up)
    raise stepwell.NonRetriableError("never again")


@service.function(on=f"{APP}/retry-after", retries=2)
def retry_after(ctx: Ctx) -> Any:
    entered(ctx)

    def later() -> int:
        noted(ctx, "later")
        if ctx.attempt == 0:
            raise stepwell.RetryAfterError(timedelta(seconds=3), "busy")
        return ctx.attempt

    if ctx.event.data["where"] == "step":
        return ctx.step.run("later", later)
    return later()


@service.function(on=f"{APP}/cancellable", cancel_on=stepwell.CancelOn(f"{APP}/cancel", match="data.order"))
def cancellable(ctx: Ctx) -> Any:
    entered(ctx)
    ctx.step.run("before", noted, ctx, "before")
    ctx.step.sleep("pause", timedelta(seconds=3))
    ctx.step.run("after", noted, ctx, "after")
    return "not cancelled"


@service.function(on=f"{APP}/large")
def large(ctx: Ctx) -> Any:
    entered(ctx)
    blobs = [
        ctx.step.run("blob", noted, ctx, "blob", chr(ord("a") + i) * LARGE) for i in range(ctx.event.data["count"])
    ]
    if ctx.event.data.get("whole"):
        return blobs[0]
    return [hashlib.sha256(blob.encode()).hexdigest() for blob in blobs]


@service.function(on=f"{APP}/steps")
def steps(ctx: Ctx) -> Any:
    entered(ctx)

    def one(i: int) -> int:
        noted(ctx, f"step-{i}")
        while i == ctx.event.data.get("hold") and not os.path.exists(os.environ["LEDGER"] + ".go"):
            time.sleep(0.02)
        return i

    return sum([ctx.step.run(f"step-{i}", one, i) for i in range(ctx.event.data["count"])])


@service.function(on=f"{APP}/relay")
def relay(ctx: Ctx) -> Any:
    entered(ctx)
    return ctx.step.send_event("pass on", stepwell.Event(f"{APP}/linear", {"echo": ctx.run_id}))
