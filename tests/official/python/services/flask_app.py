"""The functions of `fastapi_app.py` once more, synchronous and served by Flask.

Run as `python -m tests.official.python.services.flask_app` with `PORT`, `LEDGER` and `INNGEST_DEV` set.
"""

import datetime
import functools
import hashlib
import os
import time
from typing import cast

import flask
import inngest
import inngest.experimental.ai.anthropic
import inngest.experimental.ai.deepseek
import inngest.experimental.ai.gemini
import inngest.experimental.ai.grok
import inngest.experimental.ai.openai
import inngest.flask
from inngest.experimental import ai

from tests.official.python.services.ledger import FUNCTION, note

APP = "flask"
AI_KEY = "sk-canary-of-the-sample-service"
LARGE = 4 * 1024 * 1024 - 1024

client = inngest.Inngest(app_id=APP, is_production=False)
app = flask.Flask(__name__)


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


def noted(ctx: inngest.ContextSync, step: str, result: inngest.JSON = None, **facts: object) -> inngest.JSON:
    note(ctx.run_id, step, ctx.attempt, **facts)
    return result


@client.create_function(fn_id="linear", trigger=inngest.TriggerEvent(event=f"{APP}/linear"))
def linear(ctx: inngest.ContextSync) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)
    one = cast(int, ctx.step.run("one", lambda: noted(ctx, "one", 1)))
    two = cast(int, ctx.step.run("two", lambda: noted(ctx, "two", one + 1)))
    three = cast(int, ctx.step.run("three", lambda: noted(ctx, "three", two + 1)))
    return {"sum": one + two + three, "echo": ctx.event.data.get("echo")}


@client.create_function(fn_id="repeated", trigger=inngest.TriggerEvent(event=f"{APP}/repeated"))
def repeated(ctx: inngest.ContextSync) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)
    return [ctx.step.run("item", functools.partial(noted, ctx, "item", i * i)) for i in range(4)]


@client.create_function(fn_id="parallel", trigger=inngest.TriggerEvent(event=f"{APP}/parallel"))
def parallel(ctx: inngest.ContextSync) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)

    def branch(name: str) -> inngest.JSON:
        first = cast(str, ctx.step.run(f"{name}1", lambda: noted(ctx, f"{name}1", f"{name}1")))
        return ctx.step.run(f"{name}2", lambda: noted(ctx, f"{name}2", f"{first}{name}2"))

    results = ctx.group.parallel(
        (lambda: branch("a"), lambda: branch("b")),
        parallel_mode=inngest.ParallelMode(ctx.event.data["mode"]),
    )
    return list(results)


@client.create_function(fn_id="naps", trigger=inngest.TriggerEvent(event=f"{APP}/naps"))
def naps(ctx: inngest.ContextSync) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)
    ctx.step.run("before", lambda: noted(ctx, "before"))
    ctx.step.sleep("nap", datetime.timedelta(seconds=1))
    ctx.step.run("between", lambda: noted(ctx, "between"))
    ctx.step.sleep_until("until", datetime.datetime.fromisoformat(str(ctx.event.data["until"])))
    ctx.step.run("after", lambda: noted(ctx, "after"))
    return "rested"


@client.create_function(fn_id="wait", trigger=inngest.TriggerEvent(event=f"{APP}/wait"))
def wait(ctx: inngest.ContextSync) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)
    ctx.step.run("before", lambda: noted(ctx, "before"))
    payment = ctx.step.wait_for_event(
        "payment",
        event=f"{APP}/paid",
        if_exp="async.data.order == event.data.order",
        timeout=datetime.timedelta(seconds=int(str(ctx.event.data["seconds"]))),
    )
    ctx.step.run("after", lambda: noted(ctx, "after"))
    return None if payment is None else {"name": payment.name, "data": dict(payment.data)}


@client.create_function(fn_id="child", retries=0, trigger=inngest.TriggerEvent(event=f"{APP}/child"))
def child(ctx: inngest.ContextSync) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt, event=ctx.event.name)
    if ctx.event.data["how"] == "fail":
        raise ValueError("the child failed")
    if ctx.event.data["how"] == "slow":
        ctx.step.sleep("slow", datetime.timedelta(seconds=4))
    return {"doubled": int(str(ctx.event.data["n"])) * 2}


@client.create_function(fn_id="parent", trigger=inngest.TriggerEvent(event=f"{APP}/parent"))
def parent(ctx: inngest.ContextSync) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)
    seconds = ctx.event.data.get("seconds")
    try:
        result = ctx.step.invoke_by_id(
            "call",
            function_id=str(ctx.event.data["target"]),
            data={"n": 21, "how": ctx.event.data.get("how", "double")},
            timeout=None if seconds is None else datetime.timedelta(seconds=int(str(seconds))),
        )
    except inngest.StepError as err:
        return {"name": err.name, "message": err.message}
    return {"result": result}


@client.create_function(fn_id="retried", retries=4, trigger=inngest.TriggerEvent(event=f"{APP}/retried"))
def retried(ctx: inngest.ContextSync) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)

    def flaky() -> int:
        note(ctx.run_id, "flaky", ctx.attempt)
        if ctx.attempt < 2:
            raise ConnectionError(f"attempt {ctx.attempt} failed")
        return ctx.attempt

    succeeded_at = ctx.step.run("flaky", flaky)
    ctx.step.run("next", lambda: noted(ctx, "next"))
    return {"succeeded_at": succeeded_at}


@client.create_function(fn_id="caught", retries=1, trigger=inngest.TriggerEvent(event=f"{APP}/caught"))
def caught(ctx: inngest.ContextSync) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)

    def hopeless() -> None:
        note(ctx.run_id, "hopeless", ctx.attempt)
        raise KeyError("no such row")

    try:
        ctx.step.run("hopeless", hopeless)
    except inngest.StepError as err:
        if not ctx.event.data["catch"]:
            raise
        ctx.step.run("instead", lambda: noted(ctx, "instead"))
        return {"name": err.name, "message": err.message}
    return "unreachable"


def on_failing(ctx: inngest.ContextSync) -> None:
    note(ctx.run_id, "on-failure", ctx.attempt, failure=dict(ctx.event.data))


@client.create_function(
    fn_id="failing", retries=1, on_failure=on_failing, trigger=inngest.TriggerEvent(event=f"{APP}/failing")
)
def failing(ctx: inngest.ContextSync) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)
    ctx.step.run("before", lambda: noted(ctx, "before"))
    raise ValueError("bad input")


@client.create_function(fn_id="non-retriable", retries=5, trigger=inngest.TriggerEvent(event=f"{APP}/non-retriable"))
def non_retriable(ctx: inngest.ContextSync) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)

    def give_up() -> None:
        note(ctx.run_id, "give-up", ctx.attempt)
        raise inngest.NonRetriableError("never again")

    if ctx.event.data["where"] == "step":
        ctx.step.run("give-up", give_up)
    raise inngest.NonRetriableError("never again")


@client.create_function(fn_id="retry-after", retries=2, trigger=inngest.TriggerEvent(event=f"{APP}/retry-after"))
def retry_after(ctx: inngest.ContextSync) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)

    def later() -> int:
        note(ctx.run_id, "later", ctx.attempt)
        if ctx.attempt == 0:
            raise inngest.RetryAfterError("busy", datetime.timedelta(seconds=3))
        return ctx.attempt

    if ctx.event.data["where"] == "step":
        return ctx.step.run("later", later)
    return later()


@client.create_function(
    fn_id="cancellable",
    cancel=[inngest.Cancel(event=f"{APP}/cancel", if_exp="async.data.order == event.data.order")],
    trigger=inngest.TriggerEvent(event=f"{APP}/cancellable"),
)
def cancellable(ctx: inngest.ContextSync) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)
    ctx.step.run("before", lambda: noted(ctx, "before"))
    ctx.step.sleep("pause", datetime.timedelta(seconds=3))
    ctx.step.run("after", lambda: noted(ctx, "after"))
    return "not cancelled"


@client.create_function(fn_id="large", trigger=inngest.TriggerEvent(event=f"{APP}/large"))
def large(ctx: inngest.ContextSync) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)
    blobs = [
        cast(str, ctx.step.run("blob", functools.partial(noted, ctx, "blob", chr(ord("a") + i) * LARGE)))
        for i in range(int(str(ctx.event.data["count"])))
    ]
    if ctx.event.data.get("whole"):
        return blobs[0]
    return [hashlib.sha256(blob.encode()).hexdigest() for blob in blobs]


@client.create_function(fn_id="steps", trigger=inngest.TriggerEvent(event=f"{APP}/steps"))
def steps(ctx: inngest.ContextSync) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)
    total = 0
    for i in range(int(str(ctx.event.data["count"]))):
        total += cast(int, ctx.step.run(f"step-{i}", functools.partial(noted, ctx, f"step-{i}", i)))
    return total


@client.create_function(fn_id="relay", trigger=inngest.TriggerEvent(event=f"{APP}/relay"))
def relay(ctx: inngest.ContextSync) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)
    return ctx.step.send_event("pass on", inngest.Event(name=f"{APP}/linear", data={"echo": ctx.run_id}))


@client.create_function(fn_id="ask", trigger=inngest.TriggerEvent(event=f"{APP}/ask"))
def ask(ctx: inngest.ContextSync) -> object:
    """Has the server ask a model, and uses the answer in a step; `provider` says where, `dialect` how."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    dialect, provider = str(ctx.event.data["dialect"]), str(ctx.event.data["provider"])
    reply = ctx.step.ai.infer("ask", adapter=adapter(dialect, provider), body=prompt(dialect, "Hello"))
    return ctx.step.run("use", lambda: noted(ctx, "use", cast(inngest.JSON, reply)))


@client.create_function(fn_id="ask-many", trigger=inngest.TriggerEvent(event=f"{APP}/ask-many"))
def ask_many(ctx: inngest.ContextSync) -> object:
    """Three questions side by side, and a step beside them."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    openai = adapter("openai", str(ctx.event.data["provider"]))

    def one(number: int) -> object:
        return ctx.step.ai.infer(f"ask {number}", adapter=openai, body=prompt("openai", f"number {number}"))

    def beside() -> object:
        return ctx.step.run("beside", lambda: noted(ctx, "beside", "done"))

    return list(ctx.group.parallel((lambda: one(1), lambda: one(2), lambda: one(3), beside)))


SCHEDULE = os.environ.get("SCHEDULE")


@client.create_function(
    fn_id="clock",
    trigger=[
        inngest.TriggerCron(cron=SCHEDULE or "@daily"),
        inngest.TriggerCron(cron="TZ=Europe/Berlin 0 9 29 2 *", jitter="30s"),
    ],
)
def clock(ctx: inngest.ContextSync) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)
    return ctx.step.run("tick", lambda: noted(ctx, "tick", {"name": ctx.event.name, **ctx.event.data}))


LIMITS = bool(os.environ.get("LIMITS"))


@client.create_function(
    fn_id="limited",
    trigger=inngest.TriggerEvent(event=f"{APP}/limited"),
    concurrency=[inngest.Concurrency(limit=2, key="event.data.user")],
    priority=inngest.Priority(run="event.data.priority"),
)
def limited(ctx: inngest.ContextSync) -> object:
    """A step that takes a while and notes its end as well; served, as the next ones, when `LIMITS` is set."""
    note(ctx.run_id, FUNCTION, ctx.attempt)

    def work() -> inngest.JSON:
        note(ctx.run_id, "work", ctx.attempt)
        time.sleep(0.4)
        note(ctx.run_id, "end", ctx.attempt)
        return None

    ctx.step.run("work", work)
    return ctx.event.data["number"]


@client.create_function(
    fn_id="throttled",
    trigger=inngest.TriggerEvent(event=f"{APP}/throttled"),
    throttle=inngest.Throttle(limit=1, period=datetime.timedelta(seconds=2), burst=1),
)
def throttled(ctx: inngest.ContextSync) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)
    return None


@client.create_function(
    fn_id="rated",
    trigger=inngest.TriggerEvent(event=f"{APP}/rated"),
    rate_limit=inngest.RateLimit(limit=1, period=datetime.timedelta(hours=1), key="event.data.user"),
)
def rated(ctx: inngest.ContextSync) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)
    return None


@client.create_function(fn_id="once", trigger=inngest.TriggerEvent(event=f"{APP}/once"), idempotency="event.data.cart")
def once(ctx: inngest.ContextSync) -> object:
    note(ctx.run_id, FUNCTION, ctx.attempt)
    return None


inngest.flask.serve(
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
    ],
)


@app.post("/send")
def send() -> flask.Response:
    """Send events from inside the service's process, as an application would."""
    return flask.jsonify(client.send_sync([inngest.Event.model_validate(event) for event in flask.request.get_json()]))


if __name__ == "__main__":
    # Werkzeug speaks HTTP/1.0 here: a connection for each call, as many small servers behind a proxy do.
    app.run("127.0.0.1", int(os.environ["PORT"]), threaded=True)
