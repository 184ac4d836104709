"""Sending an answer at a chosen pace, and breaking off where a test wants it.

An ASGI server has no way to say "close the connection now". `BreakableProtocol` keeps the transport of every open
connection by the caller's address, and so a response can.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from stepwell.testing.provider.script import Pace

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from stepwell.testing.provider.asked import Asked

_TRANSPORTS: dict[Any, asyncio.BaseTransport] = {}


class BreakableProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose connections `break_connection` can close."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._peer = tuple(transport.get_extra_info("peername")[:2])
        _TRANSPORTS[self._peer] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        _TRANSPORTS.pop(self._peer, None)
        super().connection_lost(exc)


def break_connection(scope: Scope) -> None:
    """Reset the connection on which a request came."""
    transport = _TRANSPORTS.get(tuple(scope["client"]))
    if isinstance(transport, asyncio.Transport):
        transport.abort()


class PacedResponse(Response):
    """A status, headers and pieces of a body.

    Args:
        pieces: None closes the connection without an answer.
        wait: Called first if the pace says `held`; returns when the answer may begin.
        with_length: Tell the length of the body, which must be an iterable of known pieces.
    """

    def __init__(
        self,
        status: int,
        headers: dict[str, str] | list[tuple[str, str]],
        pieces: Iterable[bytes] | AsyncIterator[bytes] | None,
        *,
        pace: Pace,
        asked: Asked,
        wait: Callable[[], Any],
        with_length: bool = False,
    ) -> None:
        super().__init__()
        self._status, self._pieces, self._pace = status, pieces, pace
        self._own_headers = list(headers.items()) if isinstance(headers, dict) else headers
        self._asked, self._wait, self._with_length = asked, wait, with_length

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(_gone(receive))
        try:
            if await self._send(scope, send, gone):
                self._asked.answered = True
        finally:
            broken = self._pieces is None or self._pace.cut_after is not None
            self._asked.abandoned = gone.done() and not self._asked.answered and not broken
            gone.cancel()

    async def _send(self, scope: Scope, send: Send, gone: asyncio.Future[None]) -> bool:
        pace, pieces = self._pace, self._pieces
        if pace.held and not await _first(self._wait(), gone):
            return False
        if pace.delay_s and not await _first(asyncio.sleep(pace.delay_s), gone):
            return False
        if pieces is None:
            break_connection(scope)
            await gone  # until then the server would take our silence for a bug
            return False
        headers = self._own_headers
        if self._with_length and not isinstance(pieces, AsyncIterator):
            pieces = list(pieces)
            headers = [*headers, ("content-length", str(sum(map(len, pieces))))]
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        await send({"type": "http.response.start", "status": self._status, "headers": raw})
        number = 0
        async for piece in _iterate(pieces):
            if number and pace.pause_s and not await _first(asyncio.sleep(pace.pause_s), gone):
                return False
            if gone.done():
                return False
            if pace.cut_after is not None and number >= pace.cut_after:
                return await self._cut(scope, send, gone)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            number += 1
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return True

    async def _cut(self, scope: Scope, send: Send, gone: asyncio.Future[None]) -> bool:
        if self._pace.cut_cleanly:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return True
        await asyncio.sleep(0.02)  # what was sent shall arrive before the reset does
        break_connection(scope)
        await gone
        return False


async def _iterate(pieces: Iterable[bytes] | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if isinstance(pieces, AsyncIterator):
        async for piece in pieces:
            yield piece
    else:
        for piece in pieces:
            yield piece


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _first(waiting: Any, gone: asyncio.Future[None]) -> bool:
    """Wait, unless the caller goes away before; tells whether it is still there."""
    task = asyncio.ensure_future(waiting)
    await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        return False
    return not gone.done()
