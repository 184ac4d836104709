"""A live execution: what is reported when, and what the code waits for."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import stepwell
from stepwell.model.dispatch import Memo
from stepwell.model.ids import JobId, StepId, step_id
from stepwell.model.op import Invoke, Op, Sleep, StepDone, StepErrored, WaitForEvent
from stepwell.model.payload import canonical
from stepwell.sdk.function import Function
from stepwell.sdk.live import LiveExecution
from stepwell.sdk.outcome import Declined, Outcome, Raised, Returned, Stopped, Suspended
from stepwell.wire.worker import Call
from tests.sdk.recorder import RUN, Server, an_event

Ctx = stepwell.Context[Any]
SyncCtx = stepwell.SyncContext[Any]


def a_function(handler: Callable[..., Any], **options: Any) -> Function[Any, Any]:
    return stepwell.Service("shop").function(on="test/started", **options)(handler)


def a_call(function: Function[Any, Any], **members: Any) -> Call:
    return Call(
        call=JobId("c"),
        run=RUN,
        function=function.slug,
        attempt=0,
        max_attempts=5,
        **{"events": (an_event(),), **members},
    )


class Started:
    """An execution that somebody else's hands acknowledge."""

    def __init__(self, handler: Callable[..., Any], *, idle_ms: float = 5000, **members: Any) -> None:
        function = a_function(handler)
        self.reports: list[tuple[Op, ...]] = []
        self.execution = LiveExecution(function, a_call(function, **members), self.reports.append, idle_ms=idle_ms)
        self.task = asyncio.create_task(self.execution.run())

    async def settle(self, turns: int = 20) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    async def reported(self, count: int) -> list[tuple[Op, ...]]:
        async with asyncio.timeout(5):
            while len(self.reports) < count:  # noqa: ASYNC110 - a plain list is what it reports to
                await asyncio.sleep(0.001)
        return self.reports

    async def end(self) -> Outcome:
        return await asyncio.wait_for(self.task, 5)


async def value(result: Any = "x") -> Any:
    return result


async def test_the_code_after_a_step_waits_for_the_acknowledgement() -> None:
    after: list[str] = []

    async def body(ctx: Ctx) -> str:
        found = await ctx.step.run("a", value)
        after.append(found)
        return str(found)

    started = Started(body)
    await started.settle()
    assert [op.name for op in started.reports[0]] == ["a"]
    assert after == []

    started.execution.acknowledge(1)
    assert await started.end() == Returned(b'"x"')
    assert after == ["x"]


async def test_steps_that_finish_together_are_reported_together() -> None:
    async def body(ctx: Ctx) -> list[str]:
        return list(await asyncio.gather(*(ctx.step.run(name, value, name) for name in "abc")))

    started = Started(body)
    await started.settle()
    assert [[op.name for op in report] for report in started.reports] == [["a", "b", "c"]]
    started.execution.acknowledge(1)
    assert await started.end() == Returned(b'["a","b","c"]')


async def test_waits_are_reported_as_soon_as_they_are_found() -> None:
    async def body(ctx: Ctx) -> None:
        await asyncio.gather(
            ctx.step.sleep("nap", "1m"),
            ctx.step.sleep_until("morning", "2026-09-01T09:00:00Z"),
            ctx.step.wait_for_event("paid", "shop/paid", timeout="1h", match="data.id"),
            ctx.step.invoke("tally", "shop/tally", data={"x": 1}, timeout="10s"),
        )

    started = Started(body)
    await started.settle()
    (ops,) = started.reports
    assert ops == (
        Sleep(step=step_id("nap"), name="nap", for_ms=60_000),
        Sleep(step=step_id("morning"), name="morning", until=1_788_253_200_000),
        WaitForEvent(
            step=step_id("paid"),
            name="paid",
            event="shop/paid",
            expression="event.data.id == async.data.id",
            for_ms=3_600_000,
        ),
        Invoke(step=step_id("tally"), name="tally", function="shop-tally", data=b'{"x":1}', for_ms=10_000),
    )
    started.execution.stop("enough")
    assert await started.end() == Stopped("enough")


async def test_an_op_says_how_long_its_step_took_and_what_went_in() -> None:
    async def body(ctx: Ctx) -> None:
        await ctx.step.run("a", value, {"amount": 5})

    before = time.time() * 1000
    started = Started(body)
    await started.settle()
    (op,) = started.reports[0]
    assert isinstance(op, StepDone)
    assert (op.output, op.input, op.kind, op.index) == (b'{"amount":5}', b'[{"amount":5}]', "step.run", 0)
    assert before - 5 <= op.started_at <= time.time() * 1000 + 5
    assert 0 <= op.duration_ms < 1000
    started.execution.stop("")
    await started.end()


async def test_a_failed_step_is_run_again_when_the_server_says_so() -> None:
    attempts: list[int] = []

    async def fails_once() -> str:
        attempts.append(len(attempts))
        if len(attempts) == 1:
            raise ValueError("first")
        return "second"

    async def body(ctx: Ctx) -> str:
        return await ctx.step.run("a", fails_once)

    started = Started(body)
    await started.settle()
    (op,) = started.reports[0]
    assert isinstance(op, StepErrored)
    assert op.retry
    started.execution.acknowledge(1)
    await started.settle()
    assert attempts == [0]

    started.execution.retry(step_id("a"), 1)
    await started.settle()
    started.execution.acknowledge(2)
    assert await started.end() == Returned(b'"second"')


async def test_a_final_failure_raises_a_step_error_with_the_facts() -> None:
    async def body(ctx: Ctx) -> list[Any]:
        try:
            await ctx.step.run("a", value, 1)
        except stepwell.StepError as err:
            return [err.step_id, err.name, err.message, err.stack, str(err)]
        return []

    memo = Memo(step_id("a"), "error", canonical({"name": "ValueError", "message": "no", "stack": "line"}))
    started = Started(body, memos=(memo,))
    outcome = await started.end()
    assert outcome == Returned(b'["a","ValueError","no","line","step \'a\' failed: ValueError: no"]')


async def test_an_escaping_step_error_fails_the_run_without_another_attempt() -> None:
    async def body(ctx: Ctx) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.step.run("a", value))

    memo = Memo(step_id("a"), "error", canonical({"name": "ValueError", "message": "no"}))
    outcome = await Started(body, memos=(memo,)).end()
    assert isinstance(outcome, Raised)
    assert not outcome.retry
    assert b'"name":"ValueError"' in outcome.error


@pytest.mark.parametrize(
    ("error", "retry"), [(ValueError("x"), True), (stepwell.NonRetriableError("x"), False), (SystemExit(3), True)]
)
async def test_the_error_says_whether_a_step_is_tried_again(error: BaseException, retry: bool) -> None:
    async def fails() -> None:
        raise error

    async def body(ctx: Ctx) -> None:
        await ctx.step.run("a", fails)

    started = Started(body)
    await started.settle()
    (op,) = started.reports[0]
    assert isinstance(op, StepErrored)
    assert op.retry is retry
    started.execution.stop("")
    await started.end()


@pytest.mark.parametrize("after", [timedelta(minutes=5), "5m", "300 s"])
async def test_retry_after_names_the_moment(after: timedelta | str) -> None:
    at = stepwell.RetryAfterError(after)

    async def body(ctx: Ctx) -> None:
        raise at

    outcome = await Started(body).end()
    assert isinstance(outcome, Raised)
    assert outcome.retry_at is not None
    assert outcome.retry
    assert 299_000 < outcome.retry_at - time.time() * 1000 < 301_000


@pytest.mark.parametrize("after", ["soon", 5, None, timedelta.max])
def test_a_moment_to_retry_at_that_is_none_is_told(after: Any) -> None:
    with pytest.raises(ValueError, match=r"not a duration|write timedelta|year 9999"):
        stepwell.RetryAfterError(after)


async def test_retries_of_a_declared_step_end_before_those_of_the_function() -> None:
    @stepwell.step(retries=1)
    async def charge() -> None:
        raise ValueError("no")

    async def body(ctx: Ctx) -> str:
        try:
            await charge()
        except stepwell.StepError:
            return "gave up"
        return ""

    server = Server(a_function(body), retries=4)
    recorded = await server.run_live()
    assert recorded.output == "gave up"
    assert [op.retry for op in recorded.ops if isinstance(op, StepErrored)] == [True, False]


async def test_the_timeout_of_a_declared_step_is_a_failed_attempt() -> None:
    @stepwell.step(timeout="10ms", retries=0)
    async def slow() -> None:
        await asyncio.sleep(5)

    async def body(ctx: Ctx) -> str:
        try:
            await slow()
        except stepwell.StepError as err:
            return err.name
        return ""

    assert (await Server(a_function(body)).run_live()).output == "StepTimeout"


async def test_a_function_that_only_waits_is_dropped_after_its_idle_time() -> None:
    async def body(ctx: Ctx) -> None:
        await ctx.step.sleep("nap", "1h")

    started = Started(body, idle_ms=20)
    (await started.reported(1))
    begun = time.perf_counter()
    started.execution.acknowledge(1, news=3)
    assert await started.end() == Suspended(news=3)
    assert time.perf_counter() - begun > 0.015


async def test_a_running_step_keeps_its_function_in_memory() -> None:
    async def body(ctx: Ctx) -> None:
        await asyncio.gather(ctx.step.sleep("nap", "1h"), ctx.step.run("slow", asyncio.sleep, 0.08))

    started = Started(body, idle_ms=10)
    await started.reported(1)
    started.execution.acknowledge(1)
    await started.reported(2)
    assert not started.task.done()
    started.execution.acknowledge(2, news=1)
    assert await started.end() == Suspended(news=1)


async def test_a_result_that_comes_in_time_needs_no_second_call() -> None:
    async def body(ctx: Ctx) -> str:
        await ctx.step.sleep("nap", "1s")
        return "rested"

    started = Started(body)
    await started.settle()
    started.execution.acknowledge(1)
    started.execution.resolve(Memo(step_id("nap"), "bare", b"null"), news=1)
    assert await started.end() == Returned(b'"rested"')


async def test_a_failure_takes_its_place_among_the_results_of_its_report() -> None:
    """The server says that an attempt was the last before it acknowledges the report that told of it."""
    order: list[str] = []

    async def fails() -> None:
        raise stepwell.NonRetriableError("no such card")

    async def body(ctx: Ctx) -> list[str]:
        async def branch(name: str, step: Callable[..., Any]) -> None:
            try:
                await ctx.step.run(name, step)
            except stepwell.StepError:
                pass
            order.append(name)

        await asyncio.gather(branch("one", value), branch("two", fails), branch("three", value))
        return order

    started = Started(body)
    (report,) = await started.reported(1)
    names = [op.name for op in report]
    error = next(op.error for op in report if isinstance(op, StepErrored))
    assert isinstance(error, bytes)
    started.execution.resolve(Memo(step_id("two"), "error", error), news=3)
    await started.settle()
    assert order == []
    started.execution.acknowledge(1, news=3)
    assert await started.end() == Returned(canonical(names))


async def test_a_step_the_server_waits_for_is_not_reported_again() -> None:
    async def body(ctx: Ctx) -> str:
        await ctx.step.sleep("nap", "1h")
        return "rested"

    started = Started(body, waiting=(step_id("nap"),))
    await started.settle()
    assert started.reports == []
    started.execution.resolve(Memo(step_id("nap"), "bare", b"null"))
    assert await started.end() == Returned(b'"rested"')


async def test_the_loser_of_a_recorded_race_is_not_run_again() -> None:
    ran: list[str] = []

    async def loser() -> None:
        ran.append("loser")

    async def body(ctx: Ctx) -> str:
        one = asyncio.create_task(ctx.step.run("one", value))
        two = asyncio.create_task(ctx.step.run("two", loser))
        await asyncio.wait({one, two}, return_when=asyncio.FIRST_COMPLETED)
        two.cancel()
        return "one won"

    started = Started(body, memos=(Memo(step_id("one"), "data", b'"x"'),))
    assert await started.end() == Returned(b'"one won"')
    assert ran == []


async def test_results_are_handed_out_in_the_order_of_the_journal() -> None:
    async def body(ctx: Ctx) -> list[str]:
        order: list[str] = []

        async def one(name: str) -> None:
            order.append(await ctx.step.run(name, value))

        await asyncio.gather(*(one(name) for name in "abc"))
        return order

    memos = tuple(Memo(step_id(name), "data", canonical(name)) for name in "cab")
    assert await Started(body, memos=memos).end() == Returned(b'["c","a","b"]')


async def test_edited_arguments_replace_those_of_the_code() -> None:
    def double(number: int, *, plus: int = 0) -> int:
        return number * 2 + plus

    async def body(ctx: Ctx) -> int:
        return await ctx.step.run("a", double, 1, plus=1)

    started = Started(body, memos=(Memo(step_id("a"), "input", b'[20,{"plus":2}]'),))
    await started.reported(1)
    started.execution.acknowledge(1)
    assert await started.end() == Returned(b"42")


async def test_attempts_made_elsewhere_are_counted() -> None:
    @stepwell.step(retries=1)
    async def fails() -> None:
        raise ValueError("again")

    async def body(ctx: Ctx) -> None:
        await fails()

    started = Started(body, attempts={step_id("fails"): 1})
    await started.settle()
    (op,) = started.reports[0]
    assert isinstance(op, StepErrored)
    assert not op.retry
    started.execution.stop("")
    await started.end()


async def test_the_attempt_is_that_of_the_step_inside_a_step_and_that_of_the_body_outside() -> None:
    seen: list[tuple[str, int]] = []

    async def body(ctx: Ctx) -> None:
        seen.append(("step", ctx.attempt))
        if ctx.attempt < 2:
            raise ConnectionError

    async def function(ctx: Ctx) -> None:
        await ctx.step.run("a", body, ctx)
        seen.append(("body", ctx.attempt))

    await Server(a_function(function)).run_live()
    assert seen == [("step", 0), ("step", 1), ("step", 2), ("body", 0)]


async def test_draining_finishes_what_runs_and_gives_the_call_back() -> None:
    go = asyncio.Event()

    async def slow() -> str:
        await go.wait()
        return "done"

    async def body(ctx: Ctx) -> None:
        await ctx.step.run("slow", slow)
        await ctx.step.run("next", value)

    started = Started(body)
    await started.settle()
    started.execution.drain()
    await started.settle()
    assert not started.task.done()
    go.set()
    await started.settle()
    assert [op.name for op in started.reports[0]] == ["slow"]
    started.execution.acknowledge(1, news=1)
    assert await started.end() == Declined("draining")
    assert len(started.reports) == 1


async def test_a_draining_call_leaves_a_retry_to_others() -> None:
    async def fails() -> None:
        raise ValueError("first")

    async def body(ctx: Ctx) -> None:
        await ctx.step.run("a", fails)

    started = Started(body)
    await started.settle()
    started.execution.drain()
    started.execution.retry(step_id("a"), 1)
    started.execution.acknowledge(1)
    assert await started.end() == Declined("draining")
    assert len(started.reports) == 1


async def test_draining_suspends_what_only_waits() -> None:
    async def body(ctx: Ctx) -> None:
        await ctx.step.sleep("nap", "1h")

    started = Started(body)
    await started.settle()
    started.execution.acknowledge(1, news=1)
    started.execution.drain()
    assert await started.end() == Suspended(news=1)


async def test_a_stopped_call_cancels_its_steps() -> None:
    cancelled = asyncio.Event()

    async def slow() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def body(ctx: Ctx) -> None:
        await ctx.step.run("slow", slow)

    started = Started(body)
    await started.settle()
    started.execution.stop("cancelled")
    assert await started.end() == Stopped("cancelled")
    await asyncio.wait_for(cancelled.wait(), 1)
    assert started.reports == []


async def test_no_thread_outlives_the_suspension_of_a_sync_function() -> None:
    def body(ctx: SyncCtx) -> None:
        ctx.step.sleep("nap", "1h")

    started = Started(body, idle_ms=10)
    await started.reported(1)
    (thread,) = [one for one in threading.enumerate() if one.name == "stepwell shop-body"]
    started.execution.acknowledge(1)
    assert await started.end() == Suspended(news=0)
    thread.join(1)  # it has said that it ends; the last of it is Python's
    assert not thread.is_alive()


async def test_the_steps_of_a_sync_function_run_in_its_own_thread() -> None:
    def body(ctx: SyncCtx) -> bool:
        return ctx.step.run("where", threading.get_ident) == threading.get_ident()

    assert (await Server(a_function(body)).run_live()).output is True


async def test_events_are_sent_once_with_ids_that_a_second_attempt_repeats() -> None:
    shipped = stepwell.event("shop/shipped", dict[str, int])

    async def body(ctx: Ctx) -> list[str]:
        first = await ctx.step.send_event("notify", shipped({"n": 1}), shipped({"n": 2}, id="own"))
        return first + await ctx.step.send_event("notify", shipped({"n": 3}))

    one, two = Server(a_function(body)), Server(a_function(body))
    assert (await one.run_live()).output == ["id-0", "id-1", "id-2"]
    await two.run_live()
    assert one.sent == two.sent
    assert len({sent["id"] for sent in one.sent}) == 3
    assert one.sent[1] == {"name": "shop/shipped", "data": {"n": 2}, "id": "own"}


async def test_lines_are_logged_once_over_all_executions(caplog: pytest.LogCaptureFixture) -> None:
    async def in_step(ctx: Ctx) -> None:
        ctx.logger.info("in the step")

    async def body(ctx: Ctx) -> None:
        ctx.logger.info("before %s", "a")
        await ctx.step.run("a", in_step, ctx)
        ctx.logger.info("after a")
        await ctx.step.sleep("nap", "1s")
        ctx.logger.info("after the nap")

    with caplog.at_level(logging.INFO, "stepwell.function"):
        recorded = await Server(a_function(body)).run_live(evict=True)
    assert recorded.calls == 2
    lines = [record.message for record in caplog.records if record.name == "stepwell.function"]
    assert lines == ["before a", "in the step", "after a", "after the nap"]
    assert caplog.records[0].__dict__["run_id"] == RUN
    assert caplog.records[0].filename == "test_live.py"


async def test_clock_and_random_numbers_repeat() -> None:
    async def body(ctx: Ctx) -> list[Any]:
        found = [ctx.now().isoformat(), str(ctx.uuid4()), str(ctx.uuid4()), ctx.random.random()]
        await ctx.step.sleep("nap", "1s")
        assert found[0] == ctx.now().isoformat()
        return found

    function = a_function(body)
    one, two = await Server(function).run_live(), await Server(function).run_live(evict=True)
    assert one.output == two.output
    assert len(set(map(str, one.output))) == 4


async def test_a_step_inside_a_step_is_refused() -> None:
    async def body(ctx: Ctx) -> str:
        async def outer() -> None:
            await ctx.step.run("inner", value)

        try:
            await ctx.step.run("outer", outer)
        except stepwell.StepError as err:
            return f"{err.name}: {err.message}"
        return ""

    output = (await Server(a_function(body)).run_live()).output
    assert output.startswith("NestedStep: step 'inner' was started inside step 'outer'")


async def test_equal_ids_with_different_inputs_at_one_time_are_refused() -> None:
    async def body(ctx: Ctx) -> None:
        await asyncio.gather(*(ctx.step.run("load", value, number) for number in range(3)))

    outcome = await Started(body).end()
    assert isinstance(outcome, Raised)
    assert not outcome.retry
    assert b"AmbiguousStep" in outcome.error


async def test_equal_ids_with_equal_inputs_are_fine() -> None:
    async def body(ctx: Ctx) -> list[str]:
        return list(await asyncio.gather(*(ctx.step.run("load", value, "x") for _ in range(3))))

    recorded = await Server(a_function(body)).run_live()
    assert recorded.output == ["x", "x", "x"]
    assert [(op.name, op.index) for op in recorded.ops] == [("load", 0), ("load", 1), ("load", 2)]


async def test_a_literal_id_that_looks_counted_is_skipped_over() -> None:
    async def body(ctx: Ctx) -> list[str]:
        return [await ctx.step.run(name, value, name) for name in ("a:1", "a", "a")]

    recorded = await Server(a_function(body)).run_live()
    assert [op.step for op in recorded.ops] == [step_id("a:1"), step_id("a"), step_id("a", 2)]


async def test_a_result_that_would_change_is_refused_at_its_step() -> None:
    async def body(ctx: Ctx) -> str:
        try:
            await ctx.step.run("pair", lambda: (1, 2))
        except stepwell.StepResultNotPortable as err:
            return str(err)
        return ""

    recorded = await Server(a_function(body)).run_live(evict=True)
    assert recorded.output.startswith("step 'pair': a tuple would come back as a list; annotate the return type")


async def test_a_sync_step_in_an_async_function_is_refused() -> None:
    @stepwell.step
    def charge() -> int:
        return 1

    async def body(ctx: Ctx) -> int:
        return charge()

    outcome = await Started(body).end()
    assert isinstance(outcome, Raised)
    assert b"SyncStepInAsync" in outcome.error
    assert charge() == 1


async def test_a_declared_step_is_recorded_in_a_function_and_plain_elsewhere() -> None:
    class Shop:
        @stepwell.step
        async def charge(self, amount: int) -> int:
            return amount * 2

    async def body(ctx: Ctx) -> int:
        return await Shop().charge(4) + await ctx.step.run("again", Shop().charge, 1)

    recorded = await Server(a_function(body)).run_live()
    assert recorded.output == 10
    assert [op.name for op in recorded.ops] == ["charge", "again"]
    assert await Shop().charge(4) == 8


async def test_an_async_step_on_another_loop_is_refused() -> None:
    @stepwell.step
    async def charge() -> int:
        return 1

    def body(ctx: SyncCtx) -> int:
        return asyncio.run(charge())

    outcome = await Started(body).end()
    assert isinstance(outcome, Raised)
    assert b"the async step 'charge' was awaited outside its function's event loop" in outcome.error


async def test_a_fan_out_of_large_results_goes_in_several_reports() -> None:
    async def large(number: int) -> str:
        return str(number) * 1_500_000

    async def body(ctx: Ctx) -> int:
        return sum(map(len, await asyncio.gather(*(ctx.step.run(f"s{n}", large, n) for n in range(5)))))

    started = Started(body)
    reports = await started.reported(3)
    assert [len(report) for report in reports] == [2, 2, 1]
    started.execution.acknowledge(3)
    assert await started.end() == Returned(b"7500000")


async def test_a_result_too_large_for_any_frame_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwell.sdk.types.LARGEST_RESULT_BYTES", 2 << 20)

    async def body(ctx: Ctx) -> str:
        return "x" * (3 << 20)

    outcome = await Started(body).end()
    assert isinstance(outcome, Raised)
    assert b"its 3 MiB of JSON are more than 2 MiB; store them elsewhere" in outcome.error


async def test_what_the_function_left_running_is_cancelled_with_it(caplog: pytest.LogCaptureFixture) -> None:
    async def body(ctx: Ctx) -> str:
        forgotten = asyncio.create_task(ctx.step.run("slow", asyncio.sleep, 30))
        await asyncio.sleep(0.01)
        assert not forgotten.done()
        return "left"

    assert await Started(body).end() == Returned(b'"left"')
    assert "step 'slow' was still running when the function ended" in caplog.text


async def test_an_event_of_the_wrong_form_fails_the_run_at_once() -> None:
    async def body(ctx: stepwell.Context[int]) -> None: ...

    function = stepwell.Service("shop").function(on=stepwell.event("test/started", int))(body)
    execution = LiveExecution(function, a_call(function), lambda ops: None)
    outcome = await execution.run()
    assert isinstance(outcome, Raised)
    assert not outcome.retry
    assert b"the data of event 'test/started' is not what `on=` says" in outcome.error


async def test_a_hundred_runs_on_one_loop_stay_apart() -> None:
    async def body(ctx: Ctx) -> list[Any]:
        number = ctx.event.data["number"]
        found = await asyncio.gather(*(ctx.step.run(f"{name}", value, [number, name]) for name in "abc"))
        await ctx.step.sleep("nap", "10ms")
        return [number, *found]

    function = a_function(body)
    servers = [Server(function, events=(an_event(number=number),)) for number in range(100)]
    recorded = await asyncio.gather(*(server.run_live() for server in servers))
    for number, run in enumerate(recorded):
        assert run.output == [number, [number, "a"], [number, "b"], [number, "c"]]
    assert asyncio.get_running_loop().get_task_factory() is None


async def test_a_stop_before_the_first_turn_is_heard() -> None:
    async def body(ctx: Ctx) -> None: ...

    started = Started(body)
    started.execution.stop("early")
    assert await started.end() == Stopped("early")


async def test_step_ids_are_those_of_the_protocol() -> None:
    assert step_id("a", 1) == StepId("de89bfaf06245091a7873290a793604612302247")
