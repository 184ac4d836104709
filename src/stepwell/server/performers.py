"""Each call goes to the transport of its service. Performers do not know one another; this is where they meet.

Everything that passes is seen here, so this is also where it is known which calls are being answered right now, and
where a server that stops makes no new ones.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from stepwell.engine.span import InFlight, RunningStep
from stepwell.model.function import Transport
from stepwell.model.job import Claim
from stepwell.model.message import Reported

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from stepwell.model.dispatch import Dispatch, Memo, Performer
    from stepwell.model.ids import Instant, JobId, RunId, StepId
    from stepwell.model.message import Message
    from stepwell.node.node import Node
    from stepwell.store.base import Store

log = logging.getLogger("stepwell.functions")

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Performers:
    """A performer made of one for each transport.

    Hints go to all of them: each ignores calls that are not its own.
    """

    def __init__(self) -> None:
        self._node: Node | None = None
        self._by_transport: Mapping[Transport, Performer] = {}
        self._has_worker: Callable[[str, str], object] = lambda env, service: True
        self._runs: dict[RunId, dict[JobId, InFlight]] = {}
        self._calls: dict[JobId, RunId] = {}
        self._draining = False
        self._held_back: list[Claim] = []

    def connect(
        self, node: Node, by_transport: Mapping[Transport, Performer], has_worker: Callable[[str, str], object]
    ) -> None:
        """The node needs its performer and performers need their node: this closes the circle.

        Args:
            has_worker: Whether a service that dials in (environment, name) is there now.
        """
        self._node = node
        self._by_transport = by_transport
        self._has_worker = has_worker

    def drain(self) -> None:
        """Make no new calls."""
        self._draining = True

    async def give_back(self, store: Store) -> None:
        """Free the calls that were not made, so that whoever comes next makes them at once."""
        if self._held_back:
            await store.release(self._held_back)

    # between performers and node

    def perform(self, dispatch: Dispatch) -> None:
        assert self._node is not None, "connected before the node starts"
        if self._draining:
            self._held_back.append(Claim(dispatch.job, dispatch.fence))
            return
        service = self._node.registry.service(dispatch.function.env, dispatch.function.service)
        transport = service.transport if service is not None else Transport.HTTP
        function = dispatch.function
        if transport is not Transport.SOCKET or self._has_worker(function.env, function.service):
            self._calls[dispatch.job] = dispatch.run
            flight = InFlight(dispatch.job, time.time_ns() // 1_000_000, function.service)
            self._runs.setdefault(dispatch.run, {})[dispatch.job] = flight
        self._by_transport[transport].perform(dispatch)

    def deliver(self, run: RunId, job: JobId, fence: int, message: Message, /) -> None:
        assert self._node is not None, "connected before the node starts"
        if not isinstance(message, Reported):
            self._over(job)
        self._node.deliver(run, job, fence, message)

    def deliver_result(self, call: JobId, memo: Memo, news: int) -> None:
        for one in self._by_transport.values():
            one.deliver_result(call, memo, news)

    def deliver_retry(self, call: JobId, step: StepId, attempt: int, news: int) -> None:
        for one in self._by_transport.values():
            one.deliver_retry(call, step, attempt, news)

    def acknowledge(self, call: JobId, number: int, news: int) -> None:
        for one in self._by_transport.values():
            one.acknowledge(call, number, news)

    def stop(self, call: JobId, reason: str) -> None:
        self._over(call)
        for one in self._by_transport.values():
            one.stop(call, reason)

    def ended(self, call: JobId) -> None:
        for one in self._by_transport.values():
            one.ended(call)

    async def close(self) -> None:
        await asyncio.gather(*(one.close() for one in self._by_transport.values()))

    # what is going on

    def running(self, run: RunId) -> Sequence[InFlight]:
        """The calls of a run that are being answered, or wait for room at their service."""
        return tuple(self._runs.get(run, {}).values())

    def on_log(self, run: RunId, call: JobId, level: str, text: str, at: Instant, step: StepId | None, /) -> None:
        """A line that a function logged, or with the level `running` a step that is taking a while."""
        if level != "running":
            log.log(_LEVELS.get(level.lower(), logging.INFO), "run %s: %s", run, text)
            return
        flight = self._runs.get(run, {}).get(call)
        if flight is not None and step is not None:
            steps = (*(one for one in flight.steps if one.step != step), RunningStep(step, text, at))
            self._runs[run][call] = InFlight(flight.call, flight.started_at, flight.worker, steps)

    def _over(self, job: JobId) -> None:
        run = self._calls.pop(job, None)
        if run is not None:
            calls = self._runs[run]
            del calls[job]
            if not calls:
                del self._runs[run]
