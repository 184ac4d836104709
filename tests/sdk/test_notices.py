"""What is said to authors of functions that work against suspension, with file and line."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import stepwell
from stepwell.model.dispatch import Memo
from stepwell.model.ids import step_id
from stepwell.sdk import execution as execution_module
from stepwell.sdk import notice, parking
from tests.sdk.recorder import Mode, Server

Ctx = stepwell.Context[Any]
SyncCtx = stepwell.SyncContext[Any]
HERE = Path(__file__).name


@pytest.fixture(autouse=True)
def _told_anew() -> Iterator[None]:
    notice.forget()
    yield
    notice.forget()


async def value() -> str:
    return "x"


def line_of(marker: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.rstrip().endswith(f"# {marker}"))


async def run(handler: Callable[..., Any], mode: Mode = "evicted") -> Any:
    function: Any = stepwell.Service("shop").function(on="test/started")(handler)
    return (await asyncio.wait_for(Server(function).run(mode), 20)).output


@pytest.mark.parametrize("mode", ["evicted", "replay"])
async def test_a_swallowed_suspension_is_named_with_its_except(mode: Mode, caplog: pytest.LogCaptureFixture) -> None:
    async def body(ctx: Ctx) -> str:
        try:
            await ctx.step.sleep("nap", "1h")
        except BaseException:  # swallowing
            return "swallowed"
        return "rested"

    assert await run(body, mode) == "rested"
    assert f"{HERE}:{line_of('swallowing')}; what follows runs again at every replay. Catch Exception" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_a_sync_function_that_swallows_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    def body(ctx: SyncCtx) -> str:
        try:
            ctx.step.sleep("nap", "1h")
        except:  # noqa: E722 # sync swallowing
            return "swallowed"
        return "rested"

    assert await run(body) == "rested"
    assert f"{HERE}:{line_of('sync swallowing')}" in caplog.text


async def test_a_suspension_that_passes_through_is_not_a_matter(caplog: pytest.LogCaptureFixture) -> None:
    async def body(ctx: Ctx) -> str:
        try:
            await ctx.step.sleep("nap", "1h")
        except Exception:
            return "never"
        finally:
            await asyncio.sleep(0)
        return "rested"

    assert await run(body) == "rested"
    assert caplog.text == ""


async def test_each_place_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def body(ctx: Ctx) -> str:
        for _ in range(5):
            try:
                await ctx.step.sleep("nap", "1h")
            except BaseException:
                return "swallowed"
        return "rested"

    await run(body)
    assert caplog.text.count("caught") == 1


@pytest.mark.parametrize("kind", ["timeout", "wait_for", "fail_after"])
async def test_a_timeout_that_fires_around_a_step_is_named(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async def body(ctx: Ctx) -> str:
        try:
            if kind == "timeout":
                async with asyncio.timeout(0.01):
                    await ctx.step.run("slow", asyncio.sleep, 5)
            elif kind == "wait_for":
                await asyncio.wait_for(ctx.step.run("slow", asyncio.sleep, 5), 0.01)
            else:
                with anyio.fail_after(0.01):
                    await ctx.step.run("slow", asyncio.sleep, 5)
        except TimeoutError:
            return "timed out"
        return "in time"

    assert await run(body, "live") == "timed out"
    assert "a timeout around step 'slow' ran out; it counts only time in this process" in caplog.text


async def test_cancelling_a_step_on_purpose_is_not_a_matter(caplog: pytest.LogCaptureFixture) -> None:
    async def body(ctx: Ctx) -> str:
        task = asyncio.create_task(ctx.step.run("slow", asyncio.sleep, 5))
        await ctx.step.run("quick", value)
        task.cancel()
        return "done"

    assert await run(body, "live") == "done"
    assert caplog.text == ""


async def test_a_task_left_running_is_named_with_where_it_was_made(caplog: pytest.LogCaptureFixture) -> None:
    stop = asyncio.Event()

    async def beat() -> None:
        while not stop.is_set():  # noqa: ASYNC110 - what users write
            await asyncio.sleep(0.01)

    async def body(ctx: Ctx) -> str:
        asyncio.create_task(beat(), name="heartbeat")  # noqa: RUF006 # left
        return str(await ctx.step.run("a", value))

    assert await run(body, "live") == "x"
    text = caplog.text
    stop.set()
    assert re.search(
        rf"left running: task 'heartbeat' in sleep at .*{HERE}:\d+, created at .*{HERE}:{line_of('left')}", text
    )
    assert "stepwell.outside()" in text


async def test_what_is_started_outside_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    async def body(ctx: Ctx) -> str:
        with stepwell.outside():
            asyncio.create_task(asyncio.sleep(0.05), name="library")  # noqa: RUF006
        return str(await ctx.step.run("a", value))

    assert await run(body, "live") == "x"
    assert caplog.text == ""


async def test_waiting_outside_steps_is_a_debug_line(caplog: pytest.LogCaptureFixture) -> None:
    entered: list[int] = []

    async def body(ctx: Ctx) -> str:
        entered.append(1)
        await asyncio.gather(ctx.step.sleep("nap", "1h"), asyncio.sleep(60 if len(entered) == 1 else 0))  # outside
        return "done"

    with caplog.at_level(logging.DEBUG, "stepwell"):
        assert await run(body, "replay") == "done"
    assert f"{HERE}:{line_of('outside')}, task 'sleep' in sleep); it is repeated" in caplog.text


async def test_cleanup_that_hangs_is_cut_short(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(execution_module, "CLEANUP_PATIENCE_S", 0.02)
    ended = False

    async def body(ctx: Ctx) -> str:
        nonlocal ended
        try:
            await ctx.step.sleep("nap", "1h")
            ended = True
        finally:
            if not ended:
                await asyncio.sleep(60)
        return "rested"

    assert await run(body) == "rested"


async def test_unknown_internals_of_asyncio_make_it_slower_and_never_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking._Internals, "waiter", False)

    async def body(ctx: Ctx) -> list[str]:
        found = await asyncio.gather(ctx.step.run("a", value), ctx.step.run("b", value))
        await ctx.step.sleep("nap", "1h")
        return list(found)

    modes: list[Mode] = ["live", "evicted", "replay"]
    for mode in modes:
        assert await run(body, mode) == ["x", "x"]


async def test_this_python_has_the_internals_we_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking._Internals, "waiter", None)
    monkeypatch.setattr(parking._Internals, "gather", False)
    await parking.try_internals()
    assert (parking._Internals.waiter, parking._Internals.gather) == (True, True)


@pytest.mark.parametrize("mode", ["live", "replay"])
async def test_a_recorded_step_that_the_code_does_not_come_to_is_named(
    mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(ctx: Ctx) -> str:
        return str(await ctx.step.run("a", value))

    function: Any = stepwell.Service("shop").function(on="test/started")(body)
    server = Server(function)
    server.record(Memo(step_id("a"), "data", b'"x"', "a"))
    server.record(Memo(step_id("removed"), "data", b"1", "removed"))
    assert (await server.run(mode)).output == "x"
    assert "step 'removed' has a recorded result that the function did not ask for" in caplog.text
