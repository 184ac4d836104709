"""Any library on httpx2 or httpx, durable: `AsyncOpenAI(http_client=stepwell.http.async_client(), max_retries=0)`.

Inside a function each of its requests is a step that the server makes; elsewhere nothing changes.
"""

from __future__ import annotations

from stepwell.sdk.errors import RequestChanged
from stepwell.sdk.transport import AsyncTransport, Transport, async_client, client

__all__ = ["AsyncTransport", "RequestChanged", "Transport", "async_client", "client"]
