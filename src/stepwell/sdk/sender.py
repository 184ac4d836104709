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
        url: The server, such as `http://localhost:8288`.
        event_key: The key that senders need, if the server has keys.
    """

    def __init__(self, url: str, event_key: str | None = None) -> None:
        self._address = f"{url.rstrip('/')}/e/{quote(event_key or DEFAULT_EVENT_KEY, safe='')}"
        self._client: httpx2.AsyncClient | None = None

    async def __call__(self, events: Sequence[bytes]) -> list[str]:
        """Send events, each a JSON object. Gives the server's ids.

        Raises:
            EventsNotSent: It could not be reached, or refused in a way that may pass.
            NonRetriableError: It refused the events or the key.
        """
        import httpx2

        if self._client is None:
            self._client = httpx2.AsyncClient(timeout=TIMEOUT_S)
        content = b"[" + b",".join(events) + b"]"
        try:
            answer = await self._client.post(
                self._address, content=content, headers={"content-type": "application/json"}
            )
        except httpx2.HTTPError as err:
            raise EventsNotSent(
                f"no answer from {self._address.rpartition('/')[0]}: {str(err) or type(err).__name__}"
            ) from err
        if answer.status_code >= 300:
            text = f"the server answered {answer.status_code} to {len(events)} events: {answer.text[:500]}"
            retriable = answer.status_code >= 500 or answer.status_code in (408, 425, 429)
            raise EventsNotSent(text) if retriable else NonRetriableError(text)
        body: Any = msgspec.json.decode(answer.content)
        return [str(one) for one in body.get("ids", [])]

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None
