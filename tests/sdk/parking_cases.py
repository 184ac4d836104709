"""Shapes of ordinary asyncio code around steps. Each says what it returns and which step bodies run, once each."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import anyio

import stepwell
from stepwell.model.dispatch import Memo
from stepwell.model.ids import StepId
from stepwell.model.payload import canonical

Ctx = stepwell.Context[Any]
SyncCtx = stepwell.SyncContext[Any]


@dataclass
class Case:
    """`output` is the result, `bodies` the step bodies that must have run, each once, in any order.

    `finishing` are effects of plain code that must happen once, because the code before them ends only when all
    steps are done. `tells` is part of a notice that must be given in `live` when nothing is evicted, or in all.
    """

    handler: Callable[[Any, Marks], Any]
    output: Any
    bodies: list[str]
    finishing: list[str] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    retries: int = 4


@dataclass
class Marks:
    """What ran."""

    bodies: list[str] = field(default_factory=list)
    finishing: list[str] = field(default_factory=list)

    async def body(self, name: str, delay_s: float = 0.0) -> str:
        if delay_s:
            await asyncio.sleep(delay_s)
        self.bodies.append(name)
        return name

    def sync_body(self, name: str) -> str:
        self.bodies.append(name)
        return name

    async def failing(self, name: str) -> str:
        self.bodies.append(name)
        raise stepwell.NonRetriableError(f"{name} is broken")


CASES: dict[str, Case] = {}


def case(output: Any, bodies: str, **more: Any) -> Callable[[Callable[[Any, Marks], Any]], Callable[[Any, Marks], Any]]:
    def add(handler: Callable[[Any, Marks], Any]) -> Callable[[Any, Marks], Any]:
        CASES[handler.__name__] = Case(handler, output, bodies.split(), **more)
        return handler

    return add


def step(ctx: Ctx, marks: Marks, name: str, delay_s: float = 0.0) -> Any:
    return ctx.step.run(name, marks.body, name, delay_s)


@case("ab", "a b")
async def one_after_the_other(ctx: Ctx, marks: Marks) -> str:
    return str(await step(ctx, marks, "a") + await step(ctx, marks, "b"))


@case(["a", "b", "c"], "a b c", finishing=["joined"])
async def gather(ctx: Ctx, marks: Marks) -> list[str]:
    found = await asyncio.gather(*(step(ctx, marks, name) for name in "abc"))
    marks.finishing.append("joined")
    return list(found)


@case(["a", "StepError"], "a broken", finishing=["joined"])
async def gather_with_exceptions_returned(ctx: Ctx, marks: Marks) -> list[str]:
    found = await asyncio.gather(
        step(ctx, marks, "a"), ctx.step.run("broken", marks.failing, "broken"), return_exceptions=True
    )
    marks.finishing.append("joined")
    return [one if isinstance(one, str) else type(one).__name__ for one in found]


@case(["a1a2", "b1b2"], "a1 a2 b1 b2")
async def chains_side_by_side(ctx: Ctx, marks: Marks) -> list[str]:
    async def chain(name: str) -> str:
        return str(await step(ctx, marks, f"{name}1") + await step(ctx, marks, f"{name}2"))

    return list(await asyncio.gather(chain("a"), chain("b")))


@case(["a", "b", "c", "d"], "a b c d")
async def nested_gather(ctx: Ctx, marks: Marks) -> list[str]:
    one, two = await asyncio.gather(
        asyncio.gather(step(ctx, marks, "a"), step(ctx, marks, "b")),
        asyncio.gather(step(ctx, marks, "c"), step(ctx, marks, "d")),
    )
    return [*one, *two]


@case("ab", "a b", finishing=["joined"])
async def task_group(ctx: Ctx, marks: Marks) -> str:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(step(ctx, marks, name)) for name in "ab"]
    marks.finishing.append("joined")
    return "".join(task.result() for task in tasks)


@case("abc", "a b c", finishing=["joined"])
async def nested_task_groups(ctx: Ctx, marks: Marks) -> str:
    async def inner() -> str:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(step(ctx, marks, name)) for name in "bc"]
        return "".join(task.result() for task in tasks)

    async with asyncio.TaskGroup() as group:
        one, two = group.create_task(step(ctx, marks, "a")), group.create_task(inner())
    marks.finishing.append("joined")
    return str(one.result()) + two.result()


@case(["caught", "StepError"], "broken")
async def exception_group(ctx: Ctx, marks: Marks) -> list[str]:
    caught: list[str] = []
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.step.run("broken", marks.failing, "broken"))
    except* stepwell.StepError as group_error:
        caught = ["caught", type(group_error.exceptions[0]).__name__]
    return caught


@case("slow quick", "slow quick")
async def wait_first_completed(ctx: Ctx, marks: Marks) -> str:
    quick = asyncio.create_task(ctx.step.sleep("quick", timedelta(milliseconds=5)), name="quick")
    slow = asyncio.create_task(step(ctx, marks, "slow"), name="slow")
    done, _ = await asyncio.wait({quick, slow}, return_when=asyncio.FIRST_COMPLETED)
    first = next(iter(done)).get_name()
    await asyncio.gather(quick, slow)
    await step(ctx, marks, "quick")
    return f"{first} quick"


@case("short", "", answers={})
async def wait_and_cancel_the_loser(ctx: Ctx, marks: Marks) -> str:
    long = asyncio.create_task(ctx.step.sleep("long", timedelta(days=3)), name="long")
    short = asyncio.create_task(ctx.step.sleep("short", timedelta(milliseconds=5)), name="short")
    done, left = await asyncio.wait({long, short}, return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()
    assert len(done) == 1
    return next(iter(done)).get_name()


@case(["a", "b"], "a b", finishing=["joined"])
async def wait_all(ctx: Ctx, marks: Marks) -> list[str]:
    tasks = [asyncio.create_task(step(ctx, marks, name)) for name in "ab"]
    await asyncio.wait(tasks)
    marks.finishing.append("joined")
    return [task.result() for task in tasks]


@case(["a", "b", "c"], "a b c")
async def as_completed(ctx: Ctx, marks: Marks) -> list[str]:
    return sorted([await one for one in asyncio.as_completed([step(ctx, marks, name) for name in "abc"])])


@case("ABC", "a b c")
async def queue(ctx: Ctx, marks: Marks) -> str:
    items: asyncio.Queue[str | None] = asyncio.Queue()

    async def produce() -> None:
        for name in "abc":
            await items.put(await step(ctx, marks, name))
        await items.put(None)

    producer = asyncio.create_task(produce())
    found = ""
    while (item := await items.get()) is not None:
        found += item.upper()
    await producer
    return found


@case("b", "a b")
async def event_between_tasks(ctx: Ctx, marks: Marks) -> str:
    ready = asyncio.Event()

    async def second() -> str:
        await ready.wait()
        return str(await step(ctx, marks, "b"))

    waiting = asyncio.create_task(second())
    await step(ctx, marks, "a")
    ready.set()
    return await waiting


@case(["a", "b", "c"], "a b c")
async def lock(ctx: Ctx, marks: Marks) -> list[str]:
    only_one = asyncio.Lock()

    async def locked(name: str) -> str:
        async with only_one:
            return str(await step(ctx, marks, name))

    return list(await asyncio.gather(*(locked(name) for name in "abc")))


@case(["a", "b", "c", "d"], "a b c d")
async def semaphore(ctx: Ctx, marks: Marks) -> list[str]:
    two = asyncio.Semaphore(2)

    async def limited(name: str) -> str:
        async with two:
            return str(await step(ctx, marks, name))

    return list(await asyncio.gather(*(limited(name) for name in "abcd")))


@case("a", "a")
async def condition(ctx: Ctx, marks: Marks) -> str:
    changed = asyncio.Condition()
    found = ""

    async def fill() -> None:
        nonlocal found
        value = await step(ctx, marks, "a")
        async with changed:
            found = value
            changed.notify_all()

    filling = asyncio.create_task(fill())
    async with changed:
        await changed.wait_for(lambda: found)
    await filling
    return found


@case(["a", "b"], "a b", finishing=["joined"])
async def anyio_group(ctx: Ctx, marks: Marks) -> list[str]:
    found: list[str] = []

    async def one(name: str) -> None:
        found.append(await step(ctx, marks, name))

    async with anyio.create_task_group() as group:
        group.start_soon(one, "a")
        group.start_soon(one, "b")
    marks.finishing.append("joined")
    return sorted(found)


@case(["a", "b", "c"], "a b c")
async def anyio_streams(ctx: Ctx, marks: Marks) -> list[str]:
    send, receive = anyio.create_memory_object_stream[str](0)
    found: list[str] = []

    async def produce() -> None:
        async with send:
            for name in "ab":
                await send.send(await step(ctx, marks, name))

    async with anyio.create_task_group() as group, receive:
        group.start_soon(produce)
        async for item in receive:
            found.append(item)
    return [*found, await step(ctx, marks, "c")]


@case("a", "a", finishing=["after"])
async def anyio_move_on_after(ctx: Ctx, marks: Marks) -> str:
    found = "nothing"
    with anyio.move_on_after(30):
        found = await step(ctx, marks, "a")
        await ctx.step.sleep("nap", "10ms")
    marks.finishing.append("after")
    return found


@case("ab", "a b", finishing=["joined"])
async def anyio_nested_groups(ctx: Ctx, marks: Marks) -> str:
    found: list[str] = []

    async def one(name: str) -> None:
        async with anyio.create_task_group() as inner:
            inner.start_soon(two, name)

    async def two(name: str) -> None:
        found.append(await step(ctx, marks, name))

    async with anyio.create_task_group() as group:
        group.start_soon(one, "a")
        group.start_soon(one, "b")
    marks.finishing.append("joined")
    return "".join(sorted(found))


@case("a", "a")
async def timeout_that_does_not_fire(ctx: Ctx, marks: Marks) -> str:
    async with asyncio.timeout(30):
        found = await step(ctx, marks, "a")
        await ctx.step.sleep("nap", "10ms")
    return str(found)


@case("a", "a")
async def wait_for_that_does_not_fire(ctx: Ctx, marks: Marks) -> str:
    found = await asyncio.wait_for(step(ctx, marks, "a"), 30)
    await asyncio.wait_for(ctx.step.sleep("nap", "10ms"), 30)
    return str(found)


@case("a", "a")
async def shield(ctx: Ctx, marks: Marks) -> str:
    return str(await asyncio.shield(step(ctx, marks, "a")))


@case("ab", "a b")
async def heartbeat_in_the_background(ctx: Ctx, marks: Marks) -> str:
    async def beat() -> None:
        while True:  # noqa: ASYNC110 - the shape itself
            await asyncio.sleep(0.004)

    beating = asyncio.create_task(beat(), name="heartbeat")
    try:
        return str(await step(ctx, marks, "a") + await step(ctx, marks, "b"))
    finally:
        beating.cancel()


@case(["a", "thread"], "a")
async def to_thread_beside_a_step(ctx: Ctx, marks: Marks) -> list[str]:
    return list(await asyncio.gather(step(ctx, marks, "a"), asyncio.to_thread(lambda: "thread")))


@case(["a", "read"], "a")
async def socket_beside_a_step(ctx: Ctx, marks: Marks) -> list[str]:
    async def read() -> str:
        one, other = socket.socketpair()
        with contextlib.closing(other):
            reader, writer = await asyncio.open_connection(sock=one)
            asyncio.get_running_loop().call_later(0.01, other.send, b"read")
            found = await reader.readexactly(4)
            writer.close()
            await writer.wait_closed()
        return found.decode()

    return list(await asyncio.gather(step(ctx, marks, "a"), read()))


@case(["a", "slept"], "a")
async def plain_sleep_beside_a_step(ctx: Ctx, marks: Marks) -> list[str]:
    return list(await asyncio.gather(step(ctx, marks, "a"), asyncio.sleep(0.02, "slept")))


@case("ab", "a b cleanup")
async def step_in_finally(ctx: Ctx, marks: Marks) -> str:
    try:
        return str(await step(ctx, marks, "a") + await step(ctx, marks, "b"))
    finally:
        await step(ctx, marks, "cleanup")


@case("ab", "a b")
async def context_manager_around_steps(ctx: Ctx, marks: Marks) -> str:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[str]:
        await asyncio.sleep(0)
        try:
            yield "open"
        finally:
            await asyncio.sleep(0)

    async with opened():
        return str(await step(ctx, marks, "a") + await step(ctx, marks, "b"))


@case("fallback b", "a b")
async def bare_except(ctx: Ctx, marks: Marks) -> str:
    try:
        await step(ctx, marks, "a")
        await ctx.step.sleep("nap", "10ms")
        raise RuntimeError("plain")
    except:  # noqa: E722 - what users write
        found = "fallback"
    return f"{found} {await step(ctx, marks, 'b')}"


@case("done", "a b")
async def except_base_exception_around_a_group(ctx: Ctx, marks: Marks) -> str:
    try:
        async with asyncio.TaskGroup() as group:
            for name in "ab":
                group.create_task(step(ctx, marks, name))
    except BaseException:
        return "swallowed"
    return "done"


@case("refunded broken is broken", "broken refund")
async def step_error_and_compensation(ctx: Ctx, marks: Marks) -> str:
    try:
        await ctx.step.run("broken", marks.failing, "broken")
    except stepwell.StepError as err:
        await step(ctx, marks, "refund")
        return f"refunded {err.message}"
    return "shipped"


@case(["0", "1", "2"], "0 1 2")
async def one_id_in_a_loop(ctx: Ctx, marks: Marks) -> list[str]:
    return [await ctx.step.run("load", marks.body, str(number)) for number in range(3)]


@case("ab", "a b")
async def task_awaited_later(ctx: Ctx, marks: Marks) -> str:
    early = asyncio.create_task(step(ctx, marks, "a"))
    second = await step(ctx, marks, "b")
    return str(await early + second)


@case(["A", "B"], "a b")
async def async_generator(ctx: Ctx, marks: Marks) -> list[str]:
    async def names() -> AsyncIterator[str]:
        for name in "ab":
            yield await step(ctx, marks, name)

    return [name.upper() async for name in names()]


@case("a", "a")
async def hand_made_future(ctx: Ctx, marks: Marks) -> str:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def fill() -> None:
        answer.set_result(await step(ctx, marks, "a"))

    filling = asyncio.create_task(fill())
    found = await answer
    await filling
    return found


@case("a", "a")
async def done_callback(ctx: Ctx, marks: Marks) -> str:
    found: list[str] = []
    task = asyncio.create_task(step(ctx, marks, "a"))
    task.add_done_callback(lambda done: found.append("cancelled" if done.cancelled() else done.result()))
    await task
    await asyncio.sleep(0)
    return found[0]


@case("a", "a")
async def busy_loop_beside_a_step(ctx: Ctx, marks: Marks) -> str:
    stop = False

    async def spin() -> None:
        while not stop:  # noqa: ASYNC110 - the shape itself
            await asyncio.sleep(0)

    spinning = asyncio.create_task(spin())
    try:
        found = await step(ctx, marks, "a")
    finally:
        stop = True
    await spinning
    return str(found)


@case(["a", "b"], "a b")
async def barrier(ctx: Ctx, marks: Marks) -> list[str]:
    both = asyncio.Barrier(2)

    async def one(name: str) -> str:
        found = await step(ctx, marks, name)
        await both.wait()
        return str(found)

    return list(await asyncio.gather(one("a"), one("b")))


@case("mine mine", "")
async def context_variables(ctx: Ctx, marks: Marks) -> str:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    variable.set("mine")

    async def read() -> str:
        return variable.get()

    return f"{await ctx.step.run('read', read)} {await ctx.step.run('read-in-thread', lambda: variable.get())}"


@case(["paid", 7, None], "")
async def every_kind_of_wait(ctx: Ctx, marks: Marks) -> list[Any]:
    event, total, nothing = await asyncio.gather(
        ctx.step.wait_for_event("paid", "shop/paid", timeout="1h"),
        ctx.step.invoke("tally", "shop/tally", data={"x": 1}, output=int),
        ctx.step.wait_for_event("late", "shop/late", timeout="1s"),
    )
    await ctx.step.sleep("nap", "1s")
    await ctx.step.sleep_until("morning", "2026-09-01T09:00:00Z")
    assert event is not None
    return [event.name.removeprefix("shop/"), total, nothing]


CASES["every_kind_of_wait"].answers = {
    "paid": {"name": "shop/paid", "data": {}, "id": "e-2", "ts": 1, "user": {}},
    "tally": 7,
}


@case("caught InvokeError", "")
async def invoke_that_fails(ctx: Ctx, marks: Marks) -> str:
    try:
        await ctx.step.invoke("tally", "shop/tally")
    except stepwell.StepError as err:
        return f"caught {err.name}"
    return "not raised"


CASES["invoke_that_fails"].answers = {
    "tally": Memo(StepId(""), "error", canonical({"name": "InvokeError", "message": "no"}))
}


@case("a2", "a a a2")
async def retried_step(ctx: Ctx, marks: Marks) -> str:
    attempts = 0

    async def second_time() -> str:
        nonlocal attempts
        attempts = len(marks.bodies)
        marks.bodies.append("a" if attempts < 2 else "a2")
        if attempts < 2:
            raise ValueError("not yet")
        return "a2"

    return await ctx.step.run("a", second_time)


@case("ab", "a b")
async def sync_bodies(ctx: Ctx, marks: Marks) -> str:
    return "".join(await asyncio.gather(*(ctx.step.run(name, marks.sync_body, name) for name in "ab")))


@case("ab", "a b")
async def hidden_from_the_run(ctx: Ctx, marks: Marks) -> str:
    with stepwell.outside():
        beating = asyncio.create_task(asyncio.sleep(3), name="library")
    try:
        return str(await step(ctx, marks, "a") + await step(ctx, marks, "b"))
    finally:
        beating.cancel()


# Sync functions


@case("abc", "a b c")
def sync_sequence(ctx: SyncCtx, marks: Marks) -> str:
    found = ctx.step.run("a", marks.sync_body, "a") + ctx.step.run("b", marks.body, "b")
    ctx.step.sleep("nap", "10ms")
    return str(found + ctx.step.run("c", marks.sync_body, "c"))


@case(["a", "b1b2", None], "a b1 b2")
def sync_parallel(ctx: SyncCtx, marks: Marks) -> list[Any]:
    def chain() -> str:
        return ctx.step.run("b1", marks.sync_body, "b1") + ctx.step.run("b2", marks.sync_body, "b2")

    return ctx.step.parallel(
        [lambda: ctx.step.run("a", marks.sync_body, "a"), chain, lambda: ctx.step.sleep("nap", "5ms")]
    )


@case("refunded", "broken refund")
def sync_step_error(ctx: SyncCtx, marks: Marks) -> str:
    try:
        ctx.step.run("broken", marks.failing, "broken")
    except stepwell.StepError:
        ctx.step.run("refund", marks.sync_body, "refund")
    return "refunded"


@case("a", "a")
def sync_bare_except(ctx: SyncCtx, marks: Marks) -> str:
    found = ctx.step.run("a", marks.sync_body, "a")
    try:
        ctx.step.sleep("nap", "10ms")
    except:  # noqa: E722 - what users write
        return "swallowed"
    return found


@case("ab", "a b")
def sync_finally(ctx: SyncCtx, marks: Marks) -> str:
    try:
        found = ctx.step.run("a", marks.sync_body, "a")
        ctx.step.sleep("nap", "10ms")
    finally:
        with contextlib.suppress(Exception):
            ctx.step.run("b", marks.sync_body, "b")
    return found + "b"
