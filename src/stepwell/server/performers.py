"""Between the node and its performers: which calls are being answered right now, and no new ones when the server stops.

Which transport a call takes is decided in `stepwell.workers.transports`; everything that passes is seen here.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from stepwell.engine.span import InFlight, RunningStep
from stepwell.model.job import Claim
from stepwell.model.message import CallLost, Reported
from stepwell.workers.base import own_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stepwell.model.dispatch import Deliver, Dispatch, Memo, Opening, Performer, Reach
    from stepwell.model.function import Function
    from stepwell.model.ids import Instant, JobId, RunId, StepId
    from stepwell.model.message import Message
    from stepwell.model.task import TaskPhase
    from stepwell.node.notes import Notes
    from stepwell.store.base import Store

log = logging.getLogger("stepwell.functions")


class Performers:
    """A performer that hands everything on, and remembers what is going on.

    The node needs its performer and performers need their node; `connect` closes the circle.
    """

    def __init__(self) -> None:
        self._inner: Performer | None = None
        self._deliver: Deliver | None = None
        self._notes: Notes | None = None
        self._reach: Reach | None = None
        self._shared = False
        self._taken_at_once: Callable[[Function], bool] = lambda function: True
        self._runs: dict[RunId, dict[JobId, InFlight]] = {}
        self._calls: dict[JobId, RunId] = {}
        self._draining = False
        self._held_back: list[Claim] = []

    def connect(
        self,
        inner: Performer,
        deliver: Deliver,
        taken_at_once: Callable[[Function], bool],
        notes: Notes | None = None,
        *,
        reach: Reach | None = None,
        shared: bool = False,
    ) -> None:
        """Say where calls go and messages come from.

        Args:
            taken_at_once: Whether a call of this function is made as soon as it is handed on. Where it may wait for
                a worker, `on_taken` tells when one has it.
            notes: Takes the lines that functions log.
            reach: The workers that are connected here.
            shared: There are other nodes, who may make the calls that this one makes no more.
        """
        self._reach, self._shared = reach, shared
        self._inner, self._deliver, self._taken_at_once, self._notes = inner, deliver, taken_at_once, notes

    def drain(self) -> None:
        """Make no new calls."""
        self._draining = True

    async def give_back(self, store: Store) -> None:
        """Free the calls that were not made, so that whoever comes next makes them at once."""
        if self._held_back:
            await store.release(self._held_back)

    @property
    def _performer(self) -> Performer:
        assert self._inner is not None, "connected before the node starts"
        return self._inner

    # where calls can go

    def places(self, env: str, service: str, function: str) -> int:
        return self._reach.places(env, service, function) if self._reach is not None else 0

    def openings(self) -> Sequence[Opening]:
        return self._reach.openings() if self._reach is not None else ()

    # between node and performers

    def perform(self, dispatch: Dispatch) -> None:
        if self._draining and self._shared:
            error = own_error("Declined", "the server that was to make this call goes away")
            lost = CallLost(dispatch.job, error, free=True, code="declined")
            self.deliver(dispatch.run, dispatch.job, dispatch.fence, lost)
            return
        if self._draining:
            self._held_back.append(Claim(dispatch.job, dispatch.fence))
            return
        self._over(dispatch.job)  # the same job, made before
        if self._taken_at_once(dispatch.function):
            self.on_taken(dispatch.run, dispatch.job, dispatch.function.service, time.time_ns() // 1_000_000)
        self._performer.perform(dispatch)

    def deliver(self, run: RunId, job: JobId, fence: int, message: Message, /) -> None:
        assert self._deliver is not None, "connected before the node starts"
        if not isinstance(message, Reported):
            self._over(job)
        if self._notes is not None:
            self._notes.flush(run, job)
        self._deliver(run, job, fence, message)

    def deliver_result(self, call: JobId, memo: Memo, news: int) -> None:
        self._performer.deliver_result(call, memo, news)

    def deliver_retry(self, call: JobId, step: StepId, attempt: int, news: int) -> None:
        self._performer.deliver_retry(call, step, attempt, news)

    def acknowledge(self, call: JobId, number: int, news: int) -> None:
        self._performer.acknowledge(call, number, news)

    def stop(self, call: JobId, reason: str) -> None:
        if reason != "cancelled":  # then it is told to end, and its end follows
            self._over(call)
        self._performer.stop(call, reason)

    def ended(self, call: JobId) -> None:
        self._performer.ended(call)

    async def close(self) -> None:
        await self._performer.close()

    # what is going on

    def running(self, run: RunId) -> Sequence[InFlight]:
        """The calls of a run that are being answered; by HTTP also those that wait for room at their service."""
        return tuple(self._runs.get(run, {}).values())

    def on_taken(self, run: RunId, call: JobId, worker: str, at: Instant, /) -> None:
        """A call has just been handed to somebody who answers it."""
        self._calls[call] = run
        self._runs.setdefault(run, {})[call] = InFlight(call, at, worker)

    def on_log(self, run: RunId, call: JobId, level: str, text: str, at: Instant, step: StepId | None, /) -> None:
        """A line that a function logged, or with the level `running` a step that is taking a while."""
        if level != "running":
            log.debug("run %s: %s: %s", run, level, text, extra={"run": run, "step": step})
            if self._notes is not None:
                self._notes.add(run, call, level, text, at, step)
            return
        flight = self._runs.get(run, {}).get(call)
        if flight is not None and step is not None:
            steps = (*(one for one in flight.steps if one.step != step), RunningStep(step, text, at))
            self._runs[run][call] = replace(flight, steps=steps)

    def on_phase(self, run: RunId, call: JobId, phase: TaskPhase, worker: str = "", /) -> None:
        """A call of an app has come to another phase."""
        flight = self._runs.get(run, {}).get(call)
        if flight is not None:
            phases = (*flight.phases, phase)
            self._runs[run][call] = replace(flight, worker=worker or flight.worker, phases=phases)

    def _over(self, job: JobId) -> None:
        run = self._calls.pop(job, None)
        if run is not None:
            calls = self._runs[run]
            del calls[job]
            if not calls:
                del self._runs[run]
