"""Telling the server what a call has done so far, over connections that outlive the call.

A report that gets no answer is sent again, with longer and longer pauses; recording it twice is harmless. Where the
server cannot be reached, or does not take reports, each call would wait for that in vain, so for a while none is
made and calls are answered step by step.

Protocol: section 10.1 of the Inngest wire protocol.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from stepwell.model.errors import StepwellError
from stepwell.model.ids import JobId, RunId
from stepwell.sdk.checkpoint import Report, Taken
from stepwell.sdk.client.kept import KeptExchange
from stepwell.sdk.client.requests import checkpoint
from stepwell.sdk.version import SDK
from stepwell.wire.inngest.checkpoint import write_checkpoint

if TYPE_CHECKING:
    from stepwell.model.op import StepDone
    from stepwell.sdk.serve.settings import ServeSettings
    from stepwell.wire.inngest.call import Call

WITHOUT_S = 60.0
"""How long no reports are made after one that could not be delivered."""

_log = logging.getLogger("stepwell.serve")


class Reporting:
    """The reports of one process.

    Args:
        settings: Where the server is, and the keys.
        now_s: A clock that does not jump.
    """

    def __init__(self, settings: ServeSettings, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._now_s = now_s
        self._without_until_s = 0.0
        self._exchanges: WeakKeyDictionary[asyncio.AbstractEventLoop, KeptExchange] = WeakKeyDictionary()

    def of(self, call: Call) -> Report | None:
        """What reports for `call`. None: the server offers no reports for it, or it could not be reached lately."""
        if not call.function or not call.job or self._now_s() < self._without_until_s:
            return None
        started_at = time.time_ns() // 1_000_000

        async def report(ops: tuple[StepDone, ...]) -> Taken:
            body = write_checkpoint(
                run=RunId(call.run),
                function=call.function,
                call=JobId(call.job),
                generation=call.generation,
                request=call.request,
                started_at=started_at,
                ops=ops,
            )
            return await self._told(call, body)

        return report

    async def _told(self, call: Call, body: bytes) -> Taken:
        try:
            answer = await self._exchange().run(checkpoint(self._settings.address, call.run, body))
        except StepwellError as err:
            why = str(err)
        else:
            if answer.ok:
                return Taken.YES
            if answer.status == 409:
                _log.info("run %s: the server does not wait for this call any more; it is stopped", call.run)
                return Taken.STALE
            why = f"{answer.status}: {answer.body[:300].decode('utf-8', 'replace')}"
            if answer.status in {400, 413}:  # about these steps, which the answer of the call may still bring
                _log.warning("run %s: finished steps were not taken while the call is open: %s", call.run, why)
                return Taken.NO
        self._without_until_s = self._now_s() + WITHOUT_S
        _log.warning(
            "finished steps cannot be reported to %s while a call is open (%s); for %g s each step takes a call. "
            "Set STEPWELL_URL to the server's address, or checkpointing=False",
            self._settings.address.api,
            why,
            WITHOUT_S,
        )
        return Taken.NO

    def _exchange(self) -> KeptExchange:
        loop = asyncio.get_running_loop()
        exchange = self._exchanges.get(loop)
        if exchange is None:
            exchange = self._exchanges[loop] = KeptExchange(self._settings.address, SDK)
        return exchange

    async def close(self) -> None:
        """Close the connections of this event loop."""
        exchange = self._exchanges.pop(asyncio.get_running_loop(), None)
        if exchange is not None:
            await exchange.close()
