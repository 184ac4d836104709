"""All performers as one: a call goes to the performer of its service's transport, a hint to whoever has the call."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stepwell.model.errors import ConfigurationError
from stepwell.model.function import Function, Transport
from stepwell.model.ids import JobId, StepId
from stepwell.workers.base import Dispatch, Memo, Performer


class Transports:
    """A performer made of one for each transport.

    Args:
        performers: By transport.
        transport_of: How the service of a function is reached just now.
    """

    def __init__(
        self, performers: Mapping[Transport, Performer], transport_of: Callable[[Function], Transport]
    ) -> None:
        self._performers = dict(performers)
        self._transport_of = transport_of

    def perform(self, dispatch: Dispatch) -> None:
        transport = self._transport_of(dispatch.function)
        chosen = self._performers.get(transport)
        if chosen is None:
            raise ConfigurationError(
                f"no performer for services reached by {transport}, as {dispatch.function.service!r} is; "
                f"this server has {', '.join(sorted(self._performers)) or 'none'}"
            )
        for other in self._performers.values():
            if other is not chosen:
                other.stop(dispatch.job, "stale")  # its service may have changed its transport in between
        chosen.perform(dispatch)

    def deliver_result(self, call: JobId, memo: Memo, news: int) -> None:
        for performer in self._performers.values():
            performer.deliver_result(call, memo, news)

    def deliver_retry(self, call: JobId, step: StepId, attempt: int, news: int) -> None:
        for performer in self._performers.values():
            performer.deliver_retry(call, step, attempt, news)

    def acknowledge(self, call: JobId, number: int, news: int) -> None:
        for performer in self._performers.values():
            performer.acknowledge(call, number, news)

    def stop(self, call: JobId, reason: str) -> None:
        for performer in self._performers.values():
            performer.stop(call, reason)

    def ended(self, call: JobId) -> None:
        for performer in self._performers.values():
            performer.ended(call)

    async def close(self) -> None:
        for performer in self._performers.values():
            await performer.close()
