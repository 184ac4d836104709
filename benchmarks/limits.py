"""What the machine allows, measured with the least code that does the same: the ceiling of every other figure.

    fsync       append 1 KiB to a file and sync it
    commit      one step's worth of rows in SQLite (a journal entry, the run moved), synced; alone and 100 together
    request     a 1 KiB POST from aiohttp, which calls HTTP workers, to uvicorn, which answers our requests
    message     a 300-byte websocket message there and back, between the libraries that our worker and server use

One at a time gives the least that a round trip takes, many at a time the least CPU that each costs.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
from websockets.asyncio.client import connect

from benchmarks.client import Client
from benchmarks.processes import Child, free_port, percentile
from benchmarks.workloads import Figures

BODY = b"x" * 1024
MESSAGE = b"x" * 300
ENTRY = b"x" * 250
GROUP = 100
AT_ONCE = 64
PAUSE_S = 0.001
"""Between two that are timed alone. Whoever never pauses is soon interrupted on a busy machine, for milliseconds."""


class Limits:
    """The echo server and the folder that limits are measured with."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._port = free_port()
        command = [
            *(sys.executable, "-m", "uvicorn", "benchmarks.echo:app", "--host", "127.0.0.1", "--port", str(self._port)),
            *("--loop", "uvloop", "--http", "httptools", "--ws", "websockets-sansio", "--ws-per-message-deflate"),
            *("false", "--no-access-log", "--log-level", "error", "--lifespan", "off"),
        ]
        root = str(Path(__file__).parents[1])
        self._echo = Child("echo server", command, folder / "echo.log", {"PYTHONPATH": root})

    async def start(self) -> None:
        until = time.monotonic() + 30
        while True:
            self._echo.check()
            client = Client(self._port)
            try:
                await client.request("POST", "/")
                return
            except (OSError, EOFError):
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.1)
            finally:
                client.close()

    def stop(self) -> None:
        self._echo.stop()

    def cpu_s(self) -> float:
        """CPU time of the echo server so far."""
        return self._echo.cpu_s()

    async def measure(self, seconds: float) -> dict[str, Figures]:
        """Every limit once. Each takes about `seconds`."""
        return {
            "fsync": self._fsync(seconds),
            "commit": self._commits(1, seconds),
            "commit grouped": self._commits(GROUP, seconds),
            "request": await self._requests(1, seconds),
            "request loaded": await self._requests(AT_ONCE, seconds),
            "message": await self._messages(1, seconds),
            "message loaded": await self._messages(AT_ONCE, seconds),
        }

    # disk

    def _fsync(self, seconds: float) -> Figures:
        file = self._folder / "appended"
        opened = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

        def once() -> None:
            os.write(opened, BODY)
            os.fdatasync(opened)

        try:
            return _repeat(once, 1, seconds, PAUSE_S)
        finally:
            os.close(opened)
            file.unlink()

    def _commits(self, group: int, seconds: float) -> Figures:
        file = self._folder / "limit.db"
        database = sqlite3.connect(file, isolation_level=None)
        serial = 0

        def once() -> None:
            nonlocal serial
            database.execute("BEGIN IMMEDIATE")
            rows = [(f"01J9ZC3X9YV6W3T4N8Q2M5{number:04d}", serial, ENTRY) for number in range(group)]
            database.executemany("INSERT INTO entry VALUES (?, ?, ?)", rows)
            database.executemany("INSERT OR REPLACE INTO run VALUES (?, ?, ?)", rows)
            database.execute("COMMIT")
            serial += 1

        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            database.execute(
                "CREATE TABLE entry (run TEXT, seq INTEGER, body BLOB, PRIMARY KEY (run, seq)) WITHOUT ROWID"
            )
            database.execute("CREATE TABLE run (id TEXT PRIMARY KEY, seq INTEGER, body BLOB) WITHOUT ROWID")
            return _repeat(once, group, seconds, PAUSE_S if group == 1 else 0)
        finally:
            database.close()
            for name in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
                name.unlink(missing_ok=True)

    # loopback

    async def _requests(self, at_once: int, seconds: float) -> Figures:
        url = f"http://127.0.0.1:{self._port}/"
        times: list[float] = []
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await session.post(url, data=BODY)  # connects
            other, own, begin = self._echo.cpu_s(), time.process_time(), time.monotonic()

            async def sender() -> None:
                while (sent := time.monotonic()) < begin + seconds:
                    async with session.post(url, data=BODY) as answer:
                        await answer.read()
                    times.append(time.monotonic() - sent)

            await asyncio.gather(*[sender() for _ in range(at_once)])
        return self._both_ends(times, other, own, begin)

    async def _messages(self, at_once: int, seconds: float) -> Figures:
        times: list[float] = []
        async with connect(f"ws://127.0.0.1:{self._port}/", compression=None) as socket:
            other, own, begin = self._echo.cpu_s(), time.process_time(), time.monotonic()
            sent = [time.monotonic()] * at_once
            for _ in range(at_once):
                await socket.send(MESSAGE)
            while sent[0] < begin + seconds:
                await socket.recv()
                now = time.monotonic()
                times.append(now - sent.pop(0))
                sent.append(now)
                await socket.send(MESSAGE)
            for _ in range(at_once):
                await socket.recv()
        return self._both_ends(times, other, own, begin)

    def _both_ends(self, times: list[float], other: float, own: float, begin: float) -> Figures:
        """`server_cpu_ms` is what uvicorn spent, `client_cpu_ms` this process."""
        count = len(times)
        return {
            "per_s": count / (time.monotonic() - begin),
            "p50_ms": percentile(times, 0.5) * 1e3,
            "p99_ms": percentile(times, 0.99) * 1e3,
            "server_cpu_ms": (self._echo.cpu_s() - other) / count * 1e3,
            "client_cpu_ms": (time.process_time() - own) / count * 1e3,
        }


def _repeat(once: Callable[[], None], each: int, seconds: float, pause_s: float) -> Figures:
    times = []
    own, begin = time.process_time(), time.monotonic()
    while (at := time.monotonic()) < begin + seconds:
        once()
        times.append(time.monotonic() - at)
        if pause_s:
            time.sleep(pause_s)
    count = len(times) * each
    return {
        "per_s": count / sum(times),
        "p50_ms": percentile(times, 0.5) * 1e3,
        "p99_ms": percentile(times, 0.99) * 1e3,
        "client_cpu_ms": (time.process_time() - own) / count * 1e3,
    }
