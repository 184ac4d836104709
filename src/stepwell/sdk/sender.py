"""Events out, over HTTP, for `step.send_event`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from stepwell.model.errors import StepwellError
from stepwell.sdk.errors import NonRetriableError

if TYPE_CHECKING:
    import httpx2

DEFAULT_EVENT_KEY = "dev"
TIMEOUT_S = 30.0


class EventsNotSent(StepwellError):
    """The server did not accept events; the message has its answer."""

    code = "EVENTS_NOT_SENT"
    retryable = True


class EventSender:
    """Posts events to a server. One connection pool for a process, opened at first use.

    Args:
        url: The server, such as `http://localhost:8288`; of one with several nodes those of all. One that does not
            answer is passed over.
        event_key: The key that senders need, if the server has keys.
    """

    def __init__(self, url: str | Sequence[str], event_key: str | None = None) -> None:
        key = quote(event_key or DEFAULT_EVENT_KEY, safe="")
        self._addresses = [f"{one.rstrip('/')}/e/{key}" for one in ([url] if isinstance(url, str) else url)]
        self._client: httpx2.AsyncClient | None = None

    async def __call__(self, events: Sequence[bytes]) -> list[str]:
        """Send events, each a JSON object. Gives the server's ids.

        Raises:
            EventsNotSent: It could not be reached, or refused in a way that may pass.
            NonRetriableError: It refused the events or the key.
        """
        answer = await self._post(b"[" + b",".join(events) + b"]")
        if answer.status_code >= 300:
            text = f"the server answered {answer.status_code} to {len(events)} events: {answer.text[:500]}"
            retriable = answer.status_code >= 500 or answer.status_code in (408, 425, 429)
            raise EventsNotSent(text) if retriable else NonRetriableError(text)
        body: Any = msgspec.json.decode(answer.content)
        return [str(one) for one in body.get("ids", [])]

    async def _post(self, content: bytes) -> httpx2.Response:
        import httpx2

        if self._client is None:
            self._client = httpx2.AsyncClient(timeout=TIMEOUT_S)
        others = len(self._addresses) - 1
        while True:
            address = self._addresses[0]
            try:
                return await self._client.post(address, content=content, headers={"content-type": "application/json"})
            except httpx2.HTTPError as err:
                if not others or not isinstance(err, httpx2.ConnectError):  # otherwise nothing was sent
                    text = f"no answer from {address.rpartition('/')[0]}: {str(err) or type(err).__name__}"
                    raise EventsNotSent(text) from err
            others -= 1
            self._addresses.append(self._addresses.pop(0))

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None
