"""Each call goes to the transport of its service. Performers do not know one another; this is where they meet."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stepwell.model.function import Transport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stepwell.model.dispatch import Dispatch, Memo, Performer
    from stepwell.model.ids import JobId, StepId
    from stepwell.node.registry import Registry


class Performers:
    """A performer made of one for each transport.

    Hints go to all of them: each ignores calls that are not its own, so nothing needs to be remembered here.
    """

    def __init__(self) -> None:
        self._registry: Registry | None = None
        self._by_transport: Mapping[Transport, Performer] = {}

    def connect(self, registry: Registry, by_transport: Mapping[Transport, Performer]) -> None:
        """The node needs its performer and performers need their node: this closes the circle."""
        self._registry = registry
        self._by_transport = by_transport

    def perform(self, dispatch: Dispatch) -> None:
        assert self._registry is not None, "connected before the node starts"
        service = self._registry.service(dispatch.function.env, dispatch.function.service)
        transport = service.transport if service is not None else Transport.HTTP
        self._by_transport[transport].perform(dispatch)

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
        for one in self._by_transport.values():
            one.stop(call, reason)

    def ended(self, call: JobId) -> None:
        for one in self._by_transport.values():
            one.ended(call)

    async def close(self) -> None:
        await asyncio.gather(*(one.close() for one in self._by_transport.values()))
