"""One use of a step, and what one attempt of its body amounts to: an op with the result, or with the error.

Elsewhere: when an attempt is made and where it runs (`execution.py`).
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from queue import SimpleQueue
from typing import Any

from stepwell.model.ids import StepId
from stepwell.model.op import StepDone, StepErrored
from stepwell.sdk.errors import FunctionError, StepTimeout
from stepwell.sdk.outcome import error_object, verdict
from stepwell.sdk.parking import AnyTask, Parked
from stepwell.sdk.request import Body, Request
from stepwell.sdk.types import encode_result

STEP_THREADS = 128
"""Bodies of sync steps that run at the same time in one process."""


@dataclass(slots=True, eq=False)
class StepUse:
    """One use of a step in one execution."""

    id: StepId
    name: str
    index: int
    request: Request
    context: contextvars.Context
    future: Parked | None = None
    inbox: SimpleQueue[Any] | None = None
    task: AnyTask | None = None  # the user's task that waits for it
    runs_in_caller: bool = False
    running: bool = False
    attempt: int = 0
    error: BaseException | None = None  # of the attempt that has just failed
    runner: AnyTask | None = None
    shown: asyncio.Handle | None = None

    @property
    def body(self) -> Body:
        assert self.request.body is not None, "a wait has no body"
        return self.request.body

    def succeed(self, value: object) -> None:
        if self.inbox is not None:
            self.inbox.put((value, None))
        elif self.future is not None and not self.future.done():
            self.future.set_result(value)

    def fail(self, error: BaseException) -> None:
        if self.inbox is not None:
            self.inbox.put((None, error))
        elif self.future is not None and not self.future.done():
            self.future.set_exception(error)


class Clock:
    """When an attempt began, and how long it has taken."""

    def __init__(self) -> None:
        self.started_at = time.time_ns() // 1_000_000
        self._from = time.perf_counter_ns()

    def duration_ms(self) -> float:
        return (time.perf_counter_ns() - self._from) / 1e6


def call(body: Body, replaced: bytes | None) -> Any:
    """Call the body, with arguments that somebody edited if there are any."""
    if replaced is None:
        return body.function(*body.arguments, **body.options)
    arguments, options = body.read_input(replaced)
    return body.function(*arguments, **options)


async def within(limit: timedelta, work: Awaitable[Any], name: str) -> Any:
    """Await `work` for at most `limit`. Raises `StepTimeout` after it."""
    scope = asyncio.timeout(limit.total_seconds())
    try:
        async with scope:
            return await work
    except TimeoutError as err:
        if scope.expired():
            raise StepTimeout(f"step {name!r} took longer than {limit}") from err
        raise


def succeeded(
    use: StepUse, attempt: int, value: Any, clock: Clock, replaced: bytes | None
) -> tuple[StepDone | StepErrored, Any]:
    """The op of an attempt that gave `value`, and the value as a replay will read it."""
    body = use.body
    duration_ms = clock.duration_ms()
    try:
        output, value = encode_result(value, body.annotation, f"step {use.name!r}")
    except FunctionError as err:
        return failed(use, attempt, err, clock, replaced), None
    given, blocked = (replaced, "") if replaced is not None else body.shown_input()
    done = StepDone(
        step=use.id,
        name=use.name,
        index=use.index,
        output=output,
        kind=body.kind,
        input=given,
        started_at=clock.started_at,
        duration_ms=duration_ms,
        blocked=blocked,
    )
    return done, value


def failed(use: StepUse, attempt: int, error: BaseException, clock: Clock, replaced: bytes | None) -> StepErrored:
    """The op of an attempt that raised `error`."""
    body = use.body
    given, blocked = (replaced, "") if replaced is not None else body.shown_input()
    use.error = error
    retry, retry_at = verdict(error)
    return StepErrored(
        step=use.id,
        name=use.name,
        index=use.index,
        error=error_object(error),
        kind=body.kind,
        retry=retry and (body.retries is None or attempt < body.retries),
        retry_at=retry_at,
        started_at=clock.started_at,
        duration_ms=clock.duration_ms(),
        input=given,
        blocked=blocked,
    )


_threads: ThreadPoolExecutor | None = None


def step_threads() -> ThreadPoolExecutor:
    """Where sync bodies run that have no thread of their own."""
    global _threads
    if _threads is None:
        _threads = ThreadPoolExecutor(STEP_THREADS, thread_name_prefix="stepwell-step")
    return _threads
