"""A worker in this process: a Python callable that is given the dispatch. For tests.

What the callable returns is the outcome: ops (the call is answered with them), bytes (the function returned that
JSON), or a message of `model.message` as it is. What it raises is the function's error. Hints of the node are kept
in `heard`, so that a test can see them.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from stepwell.model.ids import JobId, StepId
from stepwell.model.message import CallInfo, Message, Raised, Replied, Returned
from stepwell.model.op import Op
from stepwell.workers.base import Clock, Deliver, Dispatch, Memo, now_ms, own_error

Outcome: TypeAlias = list[Op] | tuple[Op, ...] | bytes | Message
Code: TypeAlias = Callable[[Dispatch], Outcome | Awaitable[Outcome]]

REQUEST_VERSION = 2


class LocalPerformer:
    """Runs `code`, one callable for every function or one by slug.

    Args:
        deliver: Takes each outcome, on a later turn of the event loop.
        code: A callable, or callables by the slug of their function.
    """

    def __init__(self, deliver: Deliver, code: Code | dict[str, Code], *, clock: Clock = now_ms) -> None:
        self._deliver = deliver
        self._code = code
        self._clock = clock
        self._tasks: dict[JobId, asyncio.Task[None]] = {}
        self._closed = False
        self.performed: list[Dispatch] = []
        self.heard: list[tuple[Any, ...]] = []

    def perform(self, dispatch: Dispatch) -> None:
        if self._closed:
            return
        self._cancel(dispatch.job)
        self.performed.append(dispatch)
        task = asyncio.get_running_loop().create_task(self._run(dispatch), name=f"call {dispatch.job}")
        self._tasks[dispatch.job] = task

    def deliver_result(self, call: JobId, memo: Memo, news: int) -> None:
        self.heard.append(("result", call, memo, news))

    def deliver_retry(self, call: JobId, step: StepId, attempt: int, news: int) -> None:
        self.heard.append(("retry", call, step, attempt, news))

    def acknowledge(self, call: JobId, number: int, news: int) -> None:
        self.heard.append(("acknowledged", call, number, news))

    def stop(self, call: JobId, reason: str) -> None:
        self.heard.append(("stop", call, reason))
        self._cancel(call)

    def ended(self, call: JobId) -> None:
        self.heard.append(("ended", call))

    async def close(self) -> None:
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _cancel(self, call: JobId) -> None:
        task = self._tasks.pop(call, None)
        if task is not None:
            task.cancel()

    async def _run(self, dispatch: Dispatch) -> None:
        started_at = self._clock()
        try:
            code = self._code if callable(self._code) else self._code[dispatch.function.slug]
            outcome = code(dispatch)
            if inspect.isawaitable(outcome):
                outcome = await outcome
        except Exception as err:  # user code; whatever it raises is the function's error
            message: Message = Raised(dispatch.job, own_error(type(err).__name__, str(err)), version=REQUEST_VERSION)
        else:
            message = _message(dispatch.job, outcome, CallInfo(started_at, self._clock() - started_at, "local"))
        if self._tasks.get(dispatch.job) is asyncio.current_task():
            del self._tasks[dispatch.job]
            self._deliver(dispatch.run, dispatch.job, dispatch.fence, message)


def _message(call: JobId, outcome: Outcome, info: CallInfo) -> Message:
    if isinstance(outcome, bytes):
        return Returned(call, outcome, REQUEST_VERSION, info)
    if isinstance(outcome, (list, tuple)):
        return Replied(call, tuple(outcome), REQUEST_VERSION, info)
    return outcome
