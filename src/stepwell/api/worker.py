"""The websocket of our own workers. What is said on it: `stepwell.wire.worker`; who listens: `workers.socket`.

The key is checked before the handshake is answered, so nobody without one sees a frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.model.errors import Unauthorized

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.websockets import WebSocket

    from stepwell.api.site import Site


def worker_endpoint(site: Site) -> Callable[[WebSocket], Awaitable[None]]:
    """What answers at `/worker`."""

    async def endpoint(websocket: WebSocket) -> None:
        try:
            site.keys.check_bearer(websocket.headers.get("authorization"))
        except Unauthorized:
            site.counts["refused:unauthorized"] += 1
            await websocket.close(1008, "unauthorized")
            return
        if site.closing or site.dialled is None:
            await websocket.close(1013, "this server takes no workers now")
            return
        await site.dialled(websocket)

    return endpoint
