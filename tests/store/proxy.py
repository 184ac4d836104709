"""A way to a server that can be cut at the worst moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

Fate: TypeAlias = Literal["pass", "cut before", "cut after"]
"""Of what a client sends: it arrives; it does not; it arrives and is done, and the client never hears of it."""


class Proxy:
    """Passes bytes on. `fate` is asked for each piece that a client sends; while there is silence, nothing gets
    through and nobody is told."""

    def __init__(self, port: int, fate: Callable[[bytes], Fate] = lambda data: "pass") -> None:
        self.fate = fate
        self._open = asyncio.Event()
        self._open.set()
        self.cuts = 0
        self._to = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> int:
        """Returns the port to use instead."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            there, to_there = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, to_there}
        back = asyncio.ensure_future(self._back(there, writer))
        try:
            while data := await reader.read(1 << 16):
                await self._open.wait()
                fate = self.fate(data)
                if fate == "cut before":
                    self.cuts += 1
                    return
                if fate == "cut after":
                    self.cuts += 1
                    back.cancel()
                    await asyncio.gather(back, return_exceptions=True)
                    to_there.write(data)
                    await there.read(1)  # it is done now, or refused
                    return
                to_there.write(data)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            back.cancel()
            writer.close()
            to_there.close()
            self._tasks.discard(task)

    async def _back(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await there.read(1 << 16):
                await self._open.wait()
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    def silence(self, silent: bool) -> None:
        (self._open.clear if silent else self._open.set)()

    def cut_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut_all()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
