"""Asynchronous functions on the official Python SDK, served by FastAPI.

Run as `python -m tests.official.python.services.fastapi_app` with `PORT`, `LEDGER` and `INNGEST_DEV` (the server's
address) set. `flask_app.py` and `../../typescript/service.mjs` serve the same functions under other app ids; what a
function does is described here only. Every function starts with a line in the ledger, so the ledger counts requests.
"""

import asyncio
import datetime
import functools
import hashlib
import os
from typing import cast

import fastapi
import inngest
import inngest.experimental.ai.anthropic
import inngest.experimental.ai.deepseek
import inngest.experimental.ai.gemini
import inngest.experimental.ai.grok
import inngest.experimental.ai.openai
import inngest.fast_api
import uvicorn
from inngest.experimental import ai

from tests.official.python.services.ledger import FUNCTION, note

APP = "fastapi"
AI_KEY = "sk-canary-of-the-sample-service"
LARGE = 4 * 1024 * 1024 - 1024  # of the 4 MiB that one step may return, minus what JSON and the envelope add

client = inngest.Inngest(app_id=APP, is_production=False)
app = fastapi.FastAPI()


def adapter(dialect: str, provider: str) -> ai.BaseAdapter:
    """The SDK's own adapter for a provider at that address."""
    if dialect == "anthropic":
        return ai.anthropic.Adapter(auth_key=AI_KEY, base_url=f"{provider}/v1", model="claude-sonnet-4-5")
    if dialect == "gemini":
        return ai.gemini.Adapter(auth_key=AI_KEY, base_url=f"{provider}/v1beta/", model="gemini-2.5-flash")
    if dialect == "grok":
        return ai.grok.Adapter(auth_key=AI_KEY, base_url=f"{provider}/grok/v1", model="grok-3")
    if dialect == "deepseek":
        return ai.deepseek.Adapter(auth_key=AI_KEY, base_url=f"{provider}/v1", model="deepseek-chat")
    return ai.openai.Adapter(auth_key=AI_KEY, base_url=f"{provider}/v1", model="gpt-4o-mini")


def prompt(dialect: str, text: str) -> dict[str, object]:
    if dialect == "gemini":
        return {"contents": [{"role": "user", "parts": [{"text": text}]}]}
    limit: dict[str, object] = {"max_tokens": 100} if dialect == "anthropic" else {}
    return {"messages": [{"role": "user", "content": text}], **limit}


async def noted(ctx: inngest.Context, step: str, result: inngest.JSON = None, **facts: object) -> inngest.JSON:
    note(ctx.run_id, step, ctx.attempt, **facts)
    return result


@client.create_function(fn_id="linear", trigger=inngest.TriggerEvent(event=f"{APP}/linear"))
async def linear(ctx: inngest.Context) -> object:
    """Three steps, each using the result of the one before."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    one = cast(int, await ctx.step.run("one", lambda: noted(ctx, "one", 1)))
    two = cast(int, await ctx.step.run("two", lambda: noted(ctx, "two", one + 1)))
    three = cast(int, await ctx.step.run("three", lambda: noted(ctx, "three", two + 1)))
    return {"sum": one + two + three, "echo": ctx.event.data.get("echo")}


@client.create_function(fn_id="repeated", trigger=inngest.TriggerEvent(event=f"{APP}/repeated"))
async def repeated(ctx: inngest.Context) -> object:
    """One step id used four times in a loop."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    return [await ctx.step.run("item", functools.partial(noted, ctx, "item", i * i)) for i in range(4)]


@client.create_function(fn_id="parallel", trigger=inngest.TriggerEvent(event=f"{APP}/parallel"))
async def parallel(ctx: inngest.Context) -> object:
    """Two branches of two steps; `mode` is `wait` or `race`."""
    note(ctx.run_id, FUNCTION, ctx.attempt)

    async def branch(name: str) -> inngest.JSON:
        first = cast(str, await ctx.step.run(f"{name}1", lambda: noted(ctx, f"{name}1", f"{name}1")))
        return await ctx.step.run(f"{name}2", lambda: noted(ctx, f"{name}2", f"{first}{name}2"))

    results = await ctx.group.parallel(
        (lambda: branch("a"), lambda: branch("b")),
        parallel_mode=inngest.ParallelMode(ctx.event.data["mode"]),
    )
    return list(results)


@client.create_function(fn_id="naps", trigger=inngest.TriggerEvent(event=f"{APP}/naps"))
async def naps(ctx: inngest.Context) -> object:
    """Sleep for a second, then until the time in `until`."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    await ctx.step.run("before", lambda: noted(ctx, "before"))
    await ctx.step.sleep("nap", datetime.timedelta(seconds=1))
    await ctx.step.run("between", lambda: noted(ctx, "between"))
    await ctx.step.sleep_until("until", datetime.datetime.fromisoformat(str(ctx.event.data["until"])))
    await ctx.step.run("after", lambda: noted(ctx, "after"))
    return "rested"


@client.create_function(fn_id="wait", trigger=inngest.TriggerEvent(event=f"{APP}/wait"))
async def wait(ctx: inngest.Context) -> object:
    """Wait `seconds` for a payment of the same `order`."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    await ctx.step.run("before", lambda: noted(ctx, "before"))
    payment = await ctx.step.wait_for_event(
        "payment",
        event=f"{APP}/paid",
        if_exp="async.data.order == event.data.order",
        timeout=datetime.timedelta(seconds=int(str(ctx.event.data["seconds"]))),
    )
    await ctx.step.run("after", lambda: noted(ctx, "after"))
    return None if payment is None else {"name": payment.name, "data": dict(payment.data)}


@client.create_function(fn_id="child", retries=0, trigger=inngest.TriggerEvent(event=f"{APP}/child"))
async def child(ctx: inngest.Context) -> object:
    """Doubles `n`, or fails, or is slow."""
    note(ctx.run_id, FUNCTION, ctx.attempt, event=ctx.event.name)
    if ctx.event.data["how"] == "fail":
        raise ValueError("the child failed")
    if ctx.event.data["how"] == "slow":
        await ctx.step.sleep("slow", datetime.timedelta(seconds=4))
    return {"doubled": int(str(ctx.event.data["n"])) * 2}


@client.create_function(fn_id="parent", trigger=inngest.TriggerEvent(event=f"{APP}/parent"))
async def parent(ctx: inngest.Context) -> object:
    """Invokes `target`; waits `seconds` for it when given."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    seconds = ctx.event.data.get("seconds")
    try:
        result = await ctx.step.invoke_by_id(
            "call",
            function_id=str(ctx.event.data["target"]),
            data={"n": 21, "how": ctx.event.data.get("how", "double")},
            timeout=None if seconds is None else datetime.timedelta(seconds=int(str(seconds))),
        )
    except inngest.StepError as err:
        return {"name": err.name, "message": err.message}
    return {"result": result}


@client.create_function(fn_id="retried", retries=4, trigger=inngest.TriggerEvent(event=f"{APP}/retried"))
async def retried(ctx: inngest.Context) -> object:
    """A step that works the third time, and one after it."""
    note(ctx.run_id, FUNCTION, ctx.attempt)

    async def flaky() -> int:
        note(ctx.run_id, "flaky", ctx.attempt)
        if ctx.attempt < 2:
            raise ConnectionError(f"attempt {ctx.attempt} failed")
        return ctx.attempt

    succeeded_at = await ctx.step.run("flaky", flaky)
    await ctx.step.run("next", lambda: noted(ctx, "next"))
    return {"succeeded_at": succeeded_at}


@client.create_function(fn_id="caught", retries=1, trigger=inngest.TriggerEvent(event=f"{APP}/caught"))
async def caught(ctx: inngest.Context) -> object:
    """A step that never works; with `catch` the function makes up for it, without it fails."""
    note(ctx.run_id, FUNCTION, ctx.attempt)

    async def hopeless() -> None:
        note(ctx.run_id, "hopeless", ctx.attempt)
        raise KeyError("no such row")

    try:
        await ctx.step.run("hopeless", hopeless)
    except inngest.StepError as err:
        if not ctx.event.data["catch"]:
            raise
        await ctx.step.run("instead", lambda: noted(ctx, "instead"))
        return {"name": err.name, "message": err.message}
    return "unreachable"


async def on_failing(ctx: inngest.Context) -> None:
    """Writes down what the failure event says about the run that failed."""
    note(ctx.run_id, "on-failure", ctx.attempt, failure=dict(ctx.event.data))


@client.create_function(
    fn_id="failing", retries=1, on_failure=on_failing, trigger=inngest.TriggerEvent(event=f"{APP}/failing")
)
async def failing(ctx: inngest.Context) -> object:
    """One good step, then an error in the function's own body."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    await ctx.step.run("before", lambda: noted(ctx, "before"))
    raise ValueError("bad input")


@client.create_function(fn_id="non-retriable", retries=5, trigger=inngest.TriggerEvent(event=f"{APP}/non-retriable"))
async def non_retriable(ctx: inngest.Context) -> object:
    """Gives up at once, in a step or in the function (`where`)."""
    note(ctx.run_id, FUNCTION, ctx.attempt)

    async def give_up() -> None:
        note(ctx.run_id, "give-up", ctx.attempt)
        raise inngest.NonRetriableError("never again")

    if ctx.event.data["where"] == "step":
        await ctx.step.run("give-up", give_up)
    raise inngest.NonRetriableError("never again")


@client.create_function(fn_id="retry-after", retries=2, trigger=inngest.TriggerEvent(event=f"{APP}/retry-after"))
async def retry_after(ctx: inngest.Context) -> object:
    """Asks to be tried again in three seconds, in a step or in the function (`where`)."""
    note(ctx.run_id, FUNCTION, ctx.attempt)

    async def later() -> int:
        note(ctx.run_id, "later", ctx.attempt)
        if ctx.attempt == 0:
            raise inngest.RetryAfterError("busy", datetime.timedelta(seconds=3))
        return ctx.attempt

    if ctx.event.data["where"] == "step":
        return await ctx.step.run("later", later)
    return await later()


@client.create_function(
    fn_id="cancellable",
    cancel=[inngest.Cancel(event=f"{APP}/cancel", if_exp="async.data.order == event.data.order")],
    trigger=inngest.TriggerEvent(event=f"{APP}/cancellable"),
)
async def cancellable(ctx: inngest.Context) -> object:
    """A step, a sleep during which it may be cancelled, and a step that must not run then."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    await ctx.step.run("before", lambda: noted(ctx, "before"))
    await ctx.step.sleep("pause", datetime.timedelta(seconds=3))
    await ctx.step.run("after", lambda: noted(ctx, "after"))
    return "not cancelled"


@client.create_function(fn_id="large", trigger=inngest.TriggerEvent(event=f"{APP}/large"))
async def large(ctx: inngest.Context) -> object:
    """`count` steps that each return nearly 4 MiB; the result is their digests, or with `whole` the first of them."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    blobs = [
        cast(str, await ctx.step.run("blob", functools.partial(noted, ctx, "blob", chr(ord("a") + i) * LARGE)))
        for i in range(int(str(ctx.event.data["count"])))
    ]
    if ctx.event.data.get("whole"):
        return blobs[0]
    return [hashlib.sha256(blob.encode()).hexdigest() for blob in blobs]


@client.create_function(fn_id="steps", trigger=inngest.TriggerEvent(event=f"{APP}/steps"))
async def steps(ctx: inngest.Context) -> object:
    """`count` steps one after another."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    total = 0
    for i in range(int(str(ctx.event.data["count"]))):
        total += cast(int, await ctx.step.run(f"step-{i}", functools.partial(noted, ctx, f"step-{i}", i)))
    return total


@client.create_function(fn_id="relay", trigger=inngest.TriggerEvent(event=f"{APP}/relay"))
async def relay(ctx: inngest.Context) -> object:
    """Sends an event from a step and returns the ids that the server gave it."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    return await ctx.step.send_event("pass on", inngest.Event(name=f"{APP}/linear", data={"echo": ctx.run_id}))


@client.create_function(fn_id="ask", trigger=inngest.TriggerEvent(event=f"{APP}/ask"))
async def ask(ctx: inngest.Context) -> object:
    """Has the server ask a model, and uses the answer in a step; `provider` says where, `dialect` how."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    dialect, provider = str(ctx.event.data["dialect"]), str(ctx.event.data["provider"])
    reply = await ctx.step.ai.infer("ask", adapter=adapter(dialect, provider), body=prompt(dialect, "Hello"))
    return await ctx.step.run("use", lambda: noted(ctx, "use", cast(inngest.JSON, reply)))


@client.create_function(fn_id="ask-many", trigger=inngest.TriggerEvent(event=f"{APP}/ask-many"))
async def ask_many(ctx: inngest.Context) -> object:
    """Three questions side by side, and a step beside them."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    openai = adapter("openai", str(ctx.event.data["provider"]))

    async def one(number: int) -> object:
        return await ctx.step.ai.infer(f"ask {number}", adapter=openai, body=prompt("openai", f"number {number}"))

    async def beside() -> object:
        return await ctx.step.run("beside", lambda: noted(ctx, "beside", "done"))

    return list(await ctx.group.parallel((lambda: one(1), lambda: one(2), lambda: one(3), beside)))


@client.create_function(fn_id="ask-kept", trigger=inngest.TriggerEvent(event=f"{APP}/ask-kept"))
async def ask_kept(ctx: inngest.Context) -> object:
    """Has the server ask a model with a key that the server keeps."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    base, headers = f"{ctx.event.data['provider']}/v1", {"Stepwell-Credential": str(ctx.event.data["credential"])}
    openai = ai.openai.Adapter(auth_key=AI_KEY, base_url=base, headers=headers, model="gpt-4o-mini")
    return await ctx.step.ai.infer("ask", adapter=openai, body=prompt("openai", "Hello"))


SCHEDULE = os.environ.get("SCHEDULE")


@client.create_function(
    fn_id="clock",
    trigger=[
        inngest.TriggerCron(cron=SCHEDULE or "@daily"),
        inngest.TriggerCron(cron="TZ=Europe/Berlin 0 9 29 2 *", jitter="30s"),
    ],
)
async def clock(ctx: inngest.Context) -> object:
    """Starts by the clock, if `SCHEDULE` says when; returns its event."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    return await ctx.step.run("tick", lambda: noted(ctx, "tick", {"name": ctx.event.name, **ctx.event.data}))


LIMITS = bool(os.environ.get("LIMITS"))


@client.create_function(
    fn_id="limited",
    trigger=inngest.TriggerEvent(event=f"{APP}/limited"),
    concurrency=[inngest.Concurrency(limit=2, key="event.data.user")],
    priority=inngest.Priority(run="event.data.priority"),
)
async def limited(ctx: inngest.Context) -> object:
    """A step that takes a while and notes its end as well; served, as the next ones, when `LIMITS` is set."""
    note(ctx.run_id, FUNCTION, ctx.attempt)

    async def work() -> inngest.JSON:
        note(ctx.run_id, "work", ctx.attempt)
        await asyncio.sleep(0.4)
        note(ctx.run_id, "end", ctx.attempt)
        return None

    await ctx.step.run("work", work)
    return ctx.event.data["number"]


@client.create_function(
    fn_id="throttled",
    trigger=inngest.TriggerEvent(event=f"{APP}/throttled"),
    throttle=inngest.Throttle(limit=1, period=datetime.timedelta(seconds=2), burst=1),
)
async def throttled(ctx: inngest.Context) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)
    return None


@client.create_function(
    fn_id="rated",
    trigger=inngest.TriggerEvent(event=f"{APP}/rated"),
    rate_limit=inngest.RateLimit(limit=1, period=datetime.timedelta(hours=1), key="event.data.user"),
)
async def rated(ctx: inngest.Context) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)
    return None


@client.create_function(fn_id="once", trigger=inngest.TriggerEvent(event=f"{APP}/once"), idempotency="event.data.cart")
async def once(ctx: inngest.Context) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)
    return None


inngest.fast_api.serve(
    app,
    client,
    [
        *([clock] if SCHEDULE else []),
        *([limited, throttled, rated, once] if LIMITS else []),
        linear,
        repeated,
        parallel,
        naps,
        wait,
        child,
        parent,
        retried,
        caught,
        failing,
        non_retriable,
        retry_after,
        cancellable,
        large,
        steps,
        relay,
        ask,
        ask_many,
        ask_kept,
    ],
)


@app.post("/send")
async def send(events: list[dict[str, object]]) -> list[str]:
    """Send events from inside the service's process, as an application would."""
    return await client.send([inngest.Event.model_validate(event) for event in events])


if __name__ == "__main__":
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning"))
    asyncio.run(server.serve())
