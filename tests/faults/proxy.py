"""Between a connected worker and its server: frames that come twice, or in the wrong order."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace, TracebackType
from typing import Any, Self

from websockets.asyncio.client import connect
from websockets.asyncio.server import Server as Sockets
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from stepwell.sdk.worker import socket_url
from stepwell.wire.worker import MAX_FRAME_BYTES, PATH
from tests.faults.harness import Server, free_port


class Proxy:
    """Passes frames on, but not quite.

    Args:
        repeats: Every frame of the worker but the first (Hello) is delivered twice: half of them at once, half of
            them after the next one.
        swaps: So many times, two frames of the worker that follow one another change places.
    """

    def __init__(self, server: Server, *, repeats: bool = False, swaps: int = 0) -> None:
        self._server = server
        self._port = free_port()
        self._repeats = repeats
        self._swaps = swaps
        self._draw = random.Random(swaps)
        self._sockets: Sockets | None = None
        self.repeated = 0
        self.swapped = 0

    async def __aenter__(self) -> Self:
        self._sockets = await serve(self._relay, "127.0.0.1", self._port, max_size=MAX_FRAME_BYTES, compression=None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._sockets is not None
        self._sockets.close()
        await self._sockets.wait_closed()

    def as_server(self) -> Any:
        """What workers take for their server."""
        return SimpleNamespace(url=f"http://127.0.0.1:{self._port}")

    async def _relay(self, worker: ServerConnection) -> None:
        assert worker.request is not None
        assert worker.request.path == PATH
        async with connect(socket_url(self._server.url), max_size=MAX_FRAME_BYTES, compression=None) as server:

            async def down() -> None:
                async for frame in server:
                    await worker.send(frame)

            tasks = [asyncio.create_task(down()), asyncio.create_task(self._up(worker, server))]
            _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            for failure in await asyncio.gather(*tasks, return_exceptions=True):
                assert failure is None or isinstance(failure, (asyncio.CancelledError, ConnectionClosed)), failure

    async def _up(self, worker: Any, server: Any) -> None:
        later: bytes | None = None
        held: bytes | None = None
        first = True
        while True:
            try:
                # A frame that is held back for the next one is let go when there is none.
                frame = await asyncio.wait_for(worker.recv(), 0.2 if held is not None else None)
            except TimeoutError:
                assert held is not None
                await server.send(held)
                held = None
                continue
            if first:
                first = False
                await server.send(frame)
                continue
            if held is not None:
                await server.send(frame)
                await server.send(held)
                held = None
                self.swapped += 1
            elif self.swapped < self._swaps and self._draw.random() < 0.5:
                held = frame
                continue
            else:
                await server.send(frame)
            if later is not None:
                await server.send(later)
                self.repeated += 1
                later = None
            if self._repeats:
                if self._draw.random() < 0.5:
                    await server.send(frame)
                    self.repeated += 1
                else:
                    later = frame
