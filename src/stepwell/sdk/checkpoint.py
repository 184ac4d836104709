"""A replay that goes on: each finished step is reported while the call is open, and the function continues.

    one new step, or several that are simply joined ──▶ run here ──▶ reported ──▶ acknowledged ──▶ handed out
                                                                        │ refused for good      │ cannot be
                                                                        ▼                       ▼ reported
                                                                      stop          it travels in the answer

The code after a step goes on only when the step's result is recorded, as in a worker (`live.py`). So a sequence of
steps takes one call instead of one each, and a fan-out one instead of one for each branch. The call is answered when
the function returns, waits, fails a step, or has taken its time; what the answer says is as in any replay.

Branches of several steps, and races, are planned and run in calls of their own: their branches must not wait for
each other, and only the server knows which step was done first.

Elsewhere: the request that reports (`serve/reporting.py`), its JSON (`stepwell.wire.inngest.checkpoint`).
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TYPE_CHECKING, Any

from stepwell.model.dispatch import Memo
from stepwell.model.ids import StepId
from stepwell.model.op import Op, StepDone, StepErrored
from stepwell.sdk.attempt import StepUse
from stepwell.sdk.execution import Observer
from stepwell.sdk.outcome import Replied
from stepwell.sdk.parking import AnyTask
from stepwell.sdk.replay import ReplayCall, ReplayExecution

if TYPE_CHECKING:
    from stepwell.sdk.function import Function

MAX_REPORT_BYTES = 4 * 1024 * 1024
"""Results above this size together go in several reports."""
MAX_REPORT_OPS = 500


class Taken(Enum):
    """What became of a report."""

    YES = "yes"  # recorded, durably
    STALE = "stale"  # nobody waits for this call any more
    NO = "no"  # not recorded, as far as anybody knows


Report = Callable[[tuple[StepDone, ...]], Awaitable[Taken]]
"""Tells the server what was done, however often that has to be tried."""

_log = logging.getLogger("stepwell")


class CheckpointExecution(ReplayExecution):
    """One call request, answered after as many steps as there is time for.

    Args:
        call: A first attempt that targets no step and may run steps: for others there is `ReplayExecution`.
        report: See `Report`. One report is on its way at a time.
        for_s: How long the call may go on from now. A step that is running then is finished.
        parallel: Whether steps that are simply joined run here; if not, each is run in a call of its own.
        send, observer: As for `Execution`.
    """

    def __init__(
        self,
        function: Function[Any, Any],
        call: ReplayCall,
        report: Report,
        *,
        for_s: float,
        parallel: bool = True,
        send: Callable[[list[bytes]], Any] | None = None,
        observer: Observer | None = None,
    ) -> None:
        assert call.target is None
        assert not call.plan_only
        super().__init__(function, call, send=send, observer=observer)
        self._report = report
        self._until = self._loop.time() + for_s
        self._parallel = parallel
        self._going_on: dict[StepId, StepUse] = {}  # running, or done and not acknowledged
        self._done_here: list[StepDone] = []  # to be reported
        self._for_answer: list[Op] = []  # in the answer, with which the call ends
        self._reporting: asyncio.Task[None] | None = None

    def _take_apart(self) -> None:
        super()._take_apart()
        if self._reporting is not None:
            self._reporting.cancel()
        self._going_on.clear()

    def _settled(self, outside: list[AnyTask]) -> None:
        if self._going_on:
            return
        new = list(self._new.values())
        if not self._for_answer and self._may_run(new):
            self.caught_up = True
            for use in new:
                self._going_on[use.id] = use
                self._run_body(use, self.start.attempt)
        else:
            self._leave(Replied((*self._for_answer, *self._plan(new))))

    def _may_run(self, new: list[StepUse]) -> bool:
        if not new or not all(use.request.body and use.id not in self._old for use in new):
            return False
        return len(new) == 1 or (self._parallel and not self._is_race(new))

    def _dropped(self, use: StepUse) -> None:
        super()._dropped(use)
        self._going_on.pop(use.id, None)

    def _finished(self, use: StepUse, op: StepDone | StepErrored) -> None:
        if self._over:
            return
        if isinstance(op, StepErrored) or self._for_answer or self._loop.time() >= self._until:
            self._answer_tells((op,))
        else:
            self._done_here.append(op)
            if self._reporting is None:
                # In a context of its own: it is no part of the function.
                self._reporting = asyncio.Task(
                    self._report_all(), loop=self._loop, name="stepwell report", context=contextvars.Context()
                )

    def _answer_tells(self, ops: tuple[StepDone | StepErrored, ...]) -> None:
        self._for_answer += ops
        for op in ops:
            self._new.pop(op.step, None)
            self._going_on.pop(op.step, None)
        self._roster.look_soon()

    async def _report_all(self) -> None:
        while self._done_here:
            await asyncio.sleep(0)  # what ends in this turn of the loop goes together
            count = _fitting(self._done_here)
            ops, self._done_here = tuple(self._done_here[:count]), self._done_here[count:]
            try:
                taken = await self._report(ops)
            except Exception:
                # Whatever it is, the call must not wait for ever; its answer brings the same ops.
                _log.exception("%s: reporting steps of run %s failed", self.function.slug, self.start.run)
                taken = Taken.NO
            if self._over:
                return
            if taken is Taken.STALE:
                self.stop("stale")
                return
            if taken is Taken.NO:
                self._answer_tells((*ops, *self._done_here))
                self._done_here = []
                break
            for op in ops:
                self._new.pop(op.step, None)
                self._going_on.pop(op.step, None)
                assert isinstance(op.output, bytes)
                self._record(Memo(step=op.step, shape="data", value=op.output))
        self._reporting = None


def _fitting(ops: list[StepDone]) -> int:
    """How many of these go into one report; one at least."""
    size_bytes = 0
    for count, op in enumerate(ops):
        assert isinstance(op.output, bytes)
        size_bytes += len(op.output)
        if count and (size_bytes > MAX_REPORT_BYTES or count >= MAX_REPORT_OPS):
            return count
    return len(ops)
