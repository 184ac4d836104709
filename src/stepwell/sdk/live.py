"""An execution that stays in memory while it is connected: steps run at once and are reported as they finish.

    new step ──▶ runs here ──▶ reported ──▶ acknowledged ──▶ its result is handed out
                                  ▲              │ it had failed
                                  └── again ◀────┴──▶ the server's word: `retry`, or a final error by `resolve`
    new wait ───────────────▶ reported ──▶ acknowledged ──▶ the server's word: `resolve`

The code after a step goes on only when the step's result is committed. Until all recorded results are
handed out nothing new is started, so that the loser of a race that was decided before is not run again.
When all that is left is waiting, the function is kept for `idle_ms` and then dropped from memory.

Elsewhere: the socket (`worker.py`), the frames (`stepwell.wire.worker`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any

from stepwell.model.dispatch import Memo
from stepwell.model.ids import StepId
from stepwell.model.op import Op, StepDone, StepErrored
from stepwell.sdk.attempt import StepUse
from stepwell.sdk.execution import Execution, Observer, Start
from stepwell.sdk.outcome import Declined, Outcome, Suspended
from stepwell.sdk.parking import AnyTask
from stepwell.wire.worker import Call

if TYPE_CHECKING:
    from stepwell.sdk.function import Function

MAX_REPORT_BYTES = 4 * 1024 * 1024
"""Results above this size together go in several reports, so that a wide fan-out stays within a frame."""
MAX_REPORT_OPS = 500
OUTSIDE_IDLE_FACTOR = 10
"""A function that also does something outside its steps is kept this many times longer."""


class LiveExecution(Execution):
    """One `Call`, driven without a network.

    Args:
        call: The frame that asked for it.
        report: Sends ops. The first call of it in an execution is report number 1, and so on; answer each with
            `acknowledge`.
        idle_ms: How long a function that only waits stays in memory.
        send, observer: As for `Execution`.
        crowded: Whether others may wait for this one's place; then a function that only waits is dropped at once.

    `run()` gives `Returned`, `Raised`, `Suspended`, `Declined` or `Stopped`.
    """

    def __init__(
        self,
        function: Function[Any, Any],
        call: Call,
        report: Callable[[tuple[Op, ...]], None],
        *,
        idle_ms: float = 5000,
        send: Callable[[list[bytes]], Any] | None = None,
        observer: Observer | None = None,
        crowded: Callable[[], bool] = lambda: False,
    ) -> None:
        start = Start(
            run=call.run,
            attempt=call.attempt,
            max_attempts=call.max_attempts,
            events=call.events,
            memos=call.memos,
            attempts=dict(call.attempts),
            started_at=call.started_at,
        )
        super().__init__(function, start, send=send, observer=observer)
        self._report = report
        self._idle_s = idle_ms / 1000
        self._crowded = crowded
        self._waiting = set(call.waiting)
        self._news = call.news
        self._found_early: dict[StepId, StepUse] = {}
        self._outbox: list[tuple[Op, StepUse]] = []
        self._flush_handle: asyncio.Handle | None = None
        self._reports = 0
        self._unacknowledged: dict[int, list[tuple[Op, StepUse]]] = {}
        self._told: dict[StepId, Memo] = {}  # results of steps in a report that is not acknowledged yet
        self._idle: asyncio.TimerHandle | None = None
        self._idle_for_s = 0.0
        self._draining = False

    # What the server says

    def acknowledge(self, number: int, news: int = 0) -> None:
        """Report `number`, and each before it, is committed."""
        self._heard(news)
        for earlier in [n for n in self._unacknowledged if n <= number]:
            for op, use in self._unacknowledged.pop(earlier):
                told = self._told.pop(use.id, None)
                if told is not None:
                    self._record(told)
                elif isinstance(op, StepDone):
                    self._record(Memo(step=op.step, shape="data", value=_inline(op.output)))
                elif not use.running:
                    self._waiting.add(use.id)
        self._roster.look_soon()

    def resolve(self, memo: Memo, news: int = 0) -> None:
        """A step got its result. That of a reported step takes its place in the order of the report."""
        self._heard(news)
        self._waiting.discard(memo.step)
        if any(use.id == memo.step for report in self._unacknowledged.values() for _, use in report):
            self._told[memo.step] = memo
        else:
            self._record(memo)

    def retry(self, step: StepId, attempt: int, news: int = 0) -> None:
        """The pause after a failed attempt is over. `attempt` counts from 0."""
        self._heard(news)
        self.start.attempts[step] = attempt
        self._waiting.discard(step)
        use = self._parked.get(step)
        if use is None or use.running or step in self._found_early:
            return
        if self._draining:
            self._found_early[step] = use
            self._roster.look_soon()
        else:
            self._enter(use)

    def drain(self) -> None:
        """Start nothing new; when what runs is committed, end with `Suspended` or `Declined`."""
        self._draining = True
        self._stop_idling()
        self._roster.look_soon()

    def give_way(self) -> None:
        """Leave at once if it only waits: others may wait for its place."""
        if self._idle is not None and self._idle_for_s == self._idle_s:
            self._start_idling(0)

    # What the function does

    def _found(self, use: StepUse) -> None:
        self._stop_idling()
        if self.caught_up and not self._draining:
            self._enter(use)
        else:
            self._found_early[use.id] = use

    def _enter(self, use: StepUse) -> None:
        if use.id in self._waiting:
            return
        if use.request.body is not None:
            self._run_body(use, self.start.attempts.get(use.id, 0))
        elif use.request.waiting is not None:
            self._send_soon(use.request.waiting(use.id, use.name, use.index), use)

    def _finished(self, use: StepUse, op: StepDone | StepErrored) -> None:
        if not self._over:
            self._send_soon(op, use)

    def _dropped(self, use: StepUse) -> None:
        self._found_early.pop(use.id, None)

    def _settled(self, outside: list[AnyTask]) -> None:
        if self._found_early and not self._draining:
            found, self._found_early = self._found_early, {}
            for use in found.values():
                self._enter(use)
        if self._running or self._outbox or self._unacknowledged:
            return
        if self._draining:
            self._leave(Declined("draining") if self._found_early else Suspended(self._news))
        else:
            idle_s = 0 if self._crowded() else self._idle_s
            self._start_idling(self._idle_s * OUTSIDE_IDLE_FACTOR if outside else idle_s)

    def _body_done(self, outcome: Outcome) -> Outcome:
        self._stop_idling()
        self._flush()
        return outcome

    # Reports

    def _send_soon(self, op: Op, use: StepUse) -> None:
        self._stop_idling()
        self._outbox.append((op, use))
        if self._flush_handle is None:
            self._flush_handle = self._loop.call_soon(self._flush, context=Context())

    def _flush(self) -> None:
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        if not self._outbox or self._ending is not None:
            return
        outbox, self._outbox = self._outbox, []
        while outbox:
            count = _fitting(outbox)
            sent, outbox = outbox[:count], outbox[count:]
            self._reports += 1
            self._unacknowledged[self._reports] = sent
            self._report(tuple(op for op, _ in sent))

    # Idling

    def _heard(self, news: int) -> None:
        self._news = max(self._news, news)
        self._stop_idling()

    def _start_idling(self, for_s: float) -> None:
        if self._idle is not None:
            if self._idle_for_s == for_s:
                return
            self._idle.cancel()
        self._idle_for_s = for_s
        self._idle = self._loop.call_later(for_s, self._idled, context=Context())

    def _stop_idling(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _idled(self) -> None:
        self._idle = None
        if self._parked and not (
            self._running or self._outbox or self._unacknowledged or self._memos.keys() & self._parked
        ):
            self._leave(Suspended(self._news))


def _fitting(outbox: list[tuple[Op, StepUse]]) -> int:
    """How many of these ops go into one report; one at least."""
    size_bytes = 0
    for count, (op, _) in enumerate(outbox):
        size_bytes += len(_inline(op.output)) if isinstance(op, StepDone) else 0
        if count and (size_bytes > MAX_REPORT_BYTES or count >= MAX_REPORT_OPS):
            return count
    return len(outbox)


def _inline(output: Any) -> bytes:
    assert isinstance(output, bytes), "a worker's own ops carry their text"
    return output
