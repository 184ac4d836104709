"""The same tests on a store that several server processes share.

    STEPWELL_TEST_STORE=postgres   servers of the suites that run real ones keep their state in PostgreSQL
    STEPWELL_TEST_NODES=2          so many processes for each of these servers

A server's address stays one: a balancer stands there and gives each new connection to the next process.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress

import pytest


def nodes_wanted() -> int:
    """How many processes a server is to have; 0 for one with SQLite."""
    if os.environ.get("STEPWELL_TEST_STORE", "sqlite") != "postgres":
        return 0
    return int(os.environ.get("STEPWELL_TEST_NODES", "2"))


once = pytest.mark.skipif(nodes_wanted() > 0, reason="of the SDK, whatever the server keeps its state in")
"""For tests that need not be run on each store."""


def new_database() -> str:
    """The URL of an empty database, of the cluster of this session."""
    from tests.postgres import shared_cluster

    return shared_cluster().database()


def rows_of(url: str) -> bytes:
    """The values in all tables of a database, one after the other."""

    async def read() -> bytes:
        import asyncpg

        connection = await asyncpg.connect(url)
        try:
            tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
            found: list[bytes] = []
            for (table,) in await connection.fetch(tables):
                for row in await connection.fetch(f'SELECT * FROM "{table}"'):
                    found += [value if isinstance(value, bytes) else str(value).encode() for value in row.values()]
            return b"\n".join(found)
        finally:
            await connection.close()

    return asyncio.run(read())


def drop_database(url: str) -> None:
    from tests.postgres import shared_cluster

    shared_cluster().drop(url)


class Balancer:
    """Listens on both loopbacks, in a thread of its own; each connection goes to the next port that answers."""

    def __init__(self, port: int, ports: Sequence[int]) -> None:
        self._port = port
        self._ports = list(ports)
        self._next = 0
        self._ready = threading.Event()
        self._carrying: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="balancer", daemon=True)
        self._thread.start()
        assert self._ready.wait(10), "the balancer does not listen"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._closed.set)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._closed = asyncio.get_running_loop(), asyncio.Event()
        servers = []
        for host in ("127.0.0.1", "::1"):
            with suppress(OSError):  # no IPv6 on this machine
                servers.append(await asyncio.start_server(self._pass, host, self._port))
        self._ready.set()
        await self._closed.wait()
        for server in servers:
            server.close()
        for task in tuple(self._carrying):
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        out: asyncio.StreamWriter | None = None
        try:
            for _ in self._ports:
                port = self._ports[self._next % len(self._ports)]
                self._next += 1
                with suppress(OSError):
                    inside, out = await asyncio.open_connection("127.0.0.1", port)
                    break
            else:
                return
            for one in (writer, out):
                one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.gather(_carry(reader, out), _carry(inside, writer))
        except asyncio.CancelledError:
            pass  # the end of the balancer
        finally:
            self._carrying.discard(task)
            for end in (writer, out):
                if end is not None:
                    end.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side ends; its end is passed on, as is a connection that breaks."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.close()
