"""The smallest HTTP client that can drive a server: keep-alive, one request at a time, no TLS.

A library would cost more than what it measures: the driver shares two or four cores with what is under test.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any


class Client:
    """One connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of the answer. Raises `OSError` or `EOFError` when nobody answers."""
        if self._reader is not None and self._reader.at_eof():
            self.close()  # the server ends connections that nobody uses
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 24)
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost:{self._port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        status = int(answer[9:12])
        _, found, length = answer.partition(b"content-length:")
        size = int(length.partition(b"\r\n")[0]) if found else 0
        return status, await self._reader.readexactly(size)

    async def events(self, events: list[dict[str, Any]]) -> None:
        """Send events; on return they are durable."""
        await self.post(json.dumps(events).encode())

    async def post(self, body: bytes) -> None:
        """Send events that are text already."""
        status, answer = await self.request("POST", "/e/bench", body)
        if status != 200:
            raise RuntimeError(f"events were answered with {status}: {answer[:300]!r}")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._reader = self._writer = None
