"""Between a program and the database: a wire that can be cut without either end noticing."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit


class Wire:
    """Passes bytes between a port of its own and the database at a URL.

    While it is cut, what either end sends is thrown away and nobody is told: no reset, no end. Connections from before
    stay dead when it heals, as they do when a network has forgotten them; new ones work.
    """

    def __init__(self, url: str) -> None:
        self._to = urlsplit(url)
        self._server: asyncio.Server | None = None
        self._cut = False
        self._cuts = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        user = self._to.netloc.rpartition("@")[0]
        self.url = urlunsplit(self._to._replace(netloc=f"{user}@127.0.0.1:{port}"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        self._cut = True
        self._cuts += 1

    def heal(self) -> None:
        self._cut = False

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        born = self._cuts
        try:
            while self._cut:
                await asyncio.sleep(0.05)
                born = self._cuts
            inside, out = await asyncio.open_connection(self._to.hostname, self._to.port)
            try:
                up = asyncio.create_task(self._carry(reader, out, born))
                down = asyncio.create_task(self._carry(inside, writer, born))
                await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
                for one in (up, down):
                    one.cancel()
                await asyncio.gather(up, down, return_exceptions=True)
            finally:
                out.close()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, born: int) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self._cut or self._cuts != born:
                    continue
                writer.write(data)
                await writer.drain()
