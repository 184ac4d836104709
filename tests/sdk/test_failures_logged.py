"""Each failed attempt is in the log of the program that made it, once, with the traceback of its author's code."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

import stepwell
from stepwell.sdk.replay import ReplayCall, ReplayExecution
from tests.sdk.recorder import RUN, Mode, Server, an_event

Ctx = stepwell.Context[Any]

MODES: list[Mode] = ["live", "evicted", "replay"]


async def breaks() -> None:
    raise ValueError("no such card")


def breaks_in_a_thread() -> None:
    raise ValueError("no such card")


async def records(
    handler: Callable[..., Any], mode: Mode, caplog: pytest.LogCaptureFixture, *, retries: int
) -> list[logging.LogRecord]:
    function: Any = stepwell.Service("shop").function(on="test/started", id="pay")(handler)
    await Server(function, retries=retries).run(mode)
    return [record for record in caplog.records if record.name == "stepwell"]


@pytest.mark.parametrize("mode", ["live", "evicted"])
@pytest.mark.parametrize("work", [breaks, breaks_in_a_thread])
async def test_each_attempt_of_a_step_is_logged_once(work: Any, mode: Mode, caplog: pytest.LogCaptureFixture) -> None:
    async def body(ctx: Ctx) -> str:
        try:
            await ctx.step.run("charge", work)
        except stepwell.StepError:
            return "gave up"
        return "paid"

    first, second = await records(body, mode, caplog, retries=1)
    prefix = f"shop-pay: step 'charge' failed in run {RUN}, attempt"
    assert first.getMessage() == f"{prefix} 1 of 2; it is tried again"
    assert second.getMessage() == f"{prefix} 2 of 2; it is not tried again"
    assert [first.levelno, second.levelno] == [logging.WARNING, logging.ERROR]
    said = {name: first.__dict__[name] for name in ("function", "run_id", "step", "attempt")}
    assert said == {"function": "shop-pay", "run_id": RUN, "step": "charge", "attempt": 0}
    assert caplog.text.count("ValueError: no such card") == 2
    assert caplog.text.count(f"in {work.__name__}\n") == 2
    assert 'sdk/execution.py"' not in caplog.text


@pytest.mark.parametrize("work", [breaks, breaks_in_a_thread])
async def test_over_http_each_call_logs_its_own_attempt(work: Any, caplog: pytest.LogCaptureFixture) -> None:
    @stepwell.Service("shop").function(on="test/started", id="pay")
    async def pay(ctx: Ctx) -> None:
        await ctx.step.run("charge", work)

    for attempt in range(2):
        await ReplayExecution(pay, ReplayCall(run=RUN, attempt=attempt, max_attempts=2, events=(an_event(),))).run()
    assert [(record.levelno, record.getMessage().rpartition(", ")[2]) for record in caplog.records] == [
        (logging.WARNING, "attempt 1 of 2; it is tried again"),
        (logging.ERROR, "attempt 2 of 2; it is not tried again"),
    ]
    assert caplog.text.count("ValueError: no such card") == 2


@pytest.mark.parametrize("mode", MODES)
async def test_a_function_that_fails_is_logged_once(mode: Mode, caplog: pytest.LogCaptureFixture) -> None:
    async def body(ctx: Ctx) -> None:
        await ctx.step.run("load", lambda: 1)
        raise stepwell.NonRetriableError("out of stock")

    (record,) = await records(body, mode, caplog, retries=4)
    assert record.getMessage() == f"shop-pay: the function failed in run {RUN}, attempt 1 of 5; it is not tried again"
    assert record.levelno == logging.ERROR
    assert record.__dict__["step"] is None
    assert "NonRetriableError: out of stock" in caplog.text


async def test_a_sync_function_that_may_be_tried_again_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    def body(ctx: stepwell.SyncContext[Any]) -> None:
        raise ValueError("busy")

    (record,) = await records(body, "live", caplog, retries=4)
    assert (record.levelno, record.getMessage().rpartition("; ")[2]) == (logging.WARNING, "it is tried again")


async def test_a_result_that_cannot_be_stored_is_logged_as_the_step(caplog: pytest.LogCaptureFixture) -> None:
    async def body(ctx: Ctx) -> None:
        await ctx.step.run("pair", lambda: (1, 2))

    step, function = await records(body, "replay", caplog, retries=4)
    assert "step 'pair' failed" in step.getMessage()
    assert "the function failed" in function.getMessage()
    assert "a tuple would come back as a list" in caplog.text


@pytest.mark.parametrize("mode", MODES)
async def test_what_goes_well_is_not_logged(mode: Mode, caplog: pytest.LogCaptureFixture) -> None:
    async def body(ctx: Ctx) -> int:
        await ctx.step.sleep("nap", "1s")
        return await ctx.step.run("one", lambda: 1)

    assert await records(body, mode, caplog, retries=4) == []
