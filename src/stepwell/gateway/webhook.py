"""Delivers webhooks: each call of the server's own function is one POST of what has become of a task.

What is sent is asked for when it is sent. Its signature is that of a request to a service: `t=<seconds>&s=<hex>`, the
HMAC-SHA256 of the body and the time under the signing key. A receiver knows a repeated delivery by its id.

    answered 2xx                       delivered
    no answer, 408, 425, 429, 5xx      made again later, with `Retry-After` if it is said
    anything else                      given up
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stepwell.gateway.fetch import Fetcher, FetchFailed, Outgoing, Timing
from stepwell.model.event import read_body
from stepwell.model.message import CallInfo, Raised, Returned
from stepwell.model.payload import canonical
from stepwell.wire.models.failure import retry_after_ms
from stepwell.wire.signature import sign

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from stepwell.gateway.policy import Policy
    from stepwell.model.dispatch import Deliver, Dispatch, Memo
    from stepwell.model.ids import JobId, StepId
    from stepwell.model.message import Message

SIGNATURE = "X-Stepwell-Signature"
DELIVERY = "X-Stepwell-Delivery"

TIMEOUT_S = 30.0
LONGEST_PAUSE_S = 86_400.0
MOST_AT_A_TIME = 50
_AGAIN = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Hook:
    """What is to be sent, and where."""

    url: str
    body: bytes


class Webhooks:
    """A performer of the function that delivers webhooks.

    Args:
        deliver: Takes the outcome of each call.
        compose: What is to be sent of a task, by environment and id; None if there is no such task any more, or it
            has no webhook.
        policy: Which addresses may be called.
        signing_key: Without one nothing is signed.
    """

    def __init__(
        self,
        deliver: Deliver,
        compose: Callable[[str, str], Awaitable[Hook | None]],
        policy: Policy,
        signing_key: str | None = None,
        *,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._deliver = deliver
        self._compose = compose
        self._fetcher = Fetcher(policy)
        self._signing_key = signing_key
        self._clock = clock
        self._room = asyncio.Semaphore(MOST_AT_A_TIME)
        self._calls: dict[JobId, asyncio.Task[None]] = {}

    def perform(self, dispatch: Dispatch) -> None:
        self.stop(dispatch.job, "stale")
        task = asyncio.create_task(self._call(dispatch), name=f"webhook {dispatch.job}")
        self._calls[dispatch.job] = task
        task.add_done_callback(lambda done: self._over(dispatch.job, done))

    def stop(self, call: JobId, reason: str) -> None:
        task = self._calls.pop(call, None)
        if task is not None:
            task.cancel()

    def ended(self, call: JobId) -> None:
        """Nothing is kept of a call."""

    def deliver_result(self, call: JobId, memo: Memo, news: int) -> None:
        """The function has no steps."""

    def deliver_retry(self, call: JobId, step: StepId, attempt: int, news: int) -> None:
        """The function has no steps."""

    def acknowledge(self, call: JobId, number: int, news: int) -> None:
        """The function reports nothing."""

    async def close(self) -> None:
        calls, self._calls = list(self._calls.values()), {}
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._fetcher.close()

    def _over(self, call: JobId, task: asyncio.Task[None]) -> None:
        if self._calls.get(call) is task:
            del self._calls[call]

    async def _call(self, dispatch: Dispatch) -> None:
        async with self._room:
            message = await self._outcome(dispatch)
        self._deliver(dispatch.run, dispatch.job, dispatch.fence, message)

    async def _outcome(self, dispatch: Dispatch) -> Message:
        job, began = dispatch.job, self._clock()
        try:
            task = str(read_body(dispatch.events[0])["data"]["task"])
            hook = await self._compose(dispatch.function.env, task)
        except Exception as err:
            text = f"what is to be sent could not be put together: {type(err).__name__}: {err}"
            return Raised(job, _error("WebhookNotMade", text), info=CallInfo(began))
        if hook is None:
            return Returned(job, canonical({"skipped": "there is no such task with a webhook any more"}))
        headers = {"Content-Type": "application/json", DELIVERY: dispatch.run}
        if self._signing_key is not None:
            headers[SIGNATURE] = sign(hook.body, self._signing_key, self._clock() // 1000)
        try:
            async with asyncio.timeout(TIMEOUT_S), self._fetcher.open(_post(hook, headers), Timing()) as answer:
                status, said = answer.status, dict(answer.headers)
        except FetchFailed as err:
            return Raised(job, _error("WebhookNotDelivered", str(err)), retry=not err.final, info=self._info(began))
        except TimeoutError:
            text = f"the receiver did not answer within {TIMEOUT_S:g} s"
            return Raised(job, _error("WebhookNotDelivered", text), info=self._info(began))
        info = self._info(began, status)
        if 200 <= status < 300:
            return Returned(job, canonical({"status": status}), info=info)
        again = status in _AGAIN or status >= 500
        error = _error("WebhookNotDelivered", f"the receiver answered {status}")
        return Raised(job, error, retry=again, retry_at=self._retry_at(said) if again else None, info=info)

    def _retry_at(self, headers: Mapping[str, str]) -> int | None:
        now = self._clock()
        asked = retry_after_ms(headers, now_ms=now)
        return None if asked is None else now + min(asked, round(LONGEST_PAUSE_S * 1000))

    def _info(self, began: int, status: int = 0) -> CallInfo:
        return CallInfo(began, self._clock() - began, "webhook", status)


def _post(hook: Hook, headers: Mapping[str, str]) -> Outgoing:
    return Outgoing("POST", hook.url, headers, hook.body, max_redirects=0)  # a redirect would lose the body


def _error(name: str, text: str) -> bytes:
    return canonical({"name": name, "message": text})
