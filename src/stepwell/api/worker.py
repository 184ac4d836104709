"""The websocket of our own workers. What is said on it: `stepwell.wire.worker`; who listens: `workers.connection`.

The key is checked before the handshake is answered, so nobody without one sees a frame.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from starlette.websockets import WebSocketDisconnect, WebSocketState

from stepwell.model.errors import Unauthorized

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.websockets import WebSocket

    from stepwell.api.site import Connection, Site

_UNSUPPORTED_DATA = 1003
_POLICY = 1008
_TRY_LATER = 1013


def worker_endpoint(site: Site) -> Callable[[WebSocket], Awaitable[None]]:
    """What answers at `/worker`."""

    async def endpoint(websocket: WebSocket) -> None:
        try:
            site.keys.check_bearer(websocket.headers.get("authorization"))
        except Unauthorized:
            site.counts["refused:unauthorized"] += 1
            client = websocket.client.host if websocket.client is not None else ""
            site.refusals.note(client, "a worker", "its signing key is missing or wrong")
            await websocket.close(_POLICY, "unauthorized")
            return
        if site.closing or site.connect is None:
            await websocket.close(_TRY_LATER, "this server takes no workers now")
            return
        await websocket.accept()

        async def close(code: int, reason: str) -> None:
            if websocket.application_state is not WebSocketState.DISCONNECTED:
                await websocket.close(code, reason)

        connection = site.connect(websocket.send_bytes, close)
        writer = asyncio.create_task(_write(connection), name="worker connection")
        try:
            await _read(websocket, connection)
        finally:
            connection.lost()
            await asyncio.gather(writer, return_exceptions=True)

    return endpoint


async def _write(connection: Connection) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the socket is gone; its reader says so
        await connection.run()


async def _read(websocket: WebSocket, connection: Connection) -> None:
    while True:
        received = await websocket.receive()
        if received["type"] == "websocket.disconnect":
            return
        data = received.get("bytes")
        if data is None:
            await websocket.close(_UNSUPPORTED_DATA, "frames of this protocol are binary")
            return
        await connection.receive(data)
