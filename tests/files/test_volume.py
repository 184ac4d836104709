"""Large files: they pass through, and nothing is left of one that was cut off."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest

from stepwell.node.files import UNFINISHED_S

MIB = 1024 * 1024
SERVER = """
import asyncio, sys
from pathlib import Path
from stepwell.server import Server, ServerSettings

async def main():
    data = Path(sys.argv[1])
    server = Server(ServerSettings(port=0, data=data, discovery=False, manage_logging=False))
    await server.start()
    print(server.url, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()

asyncio.run(main())
"""


class Serving:
    """A server in a process of its own."""

    def __init__(self, data: Path) -> None:
        self.folder = data / "files"
        command = [sys.executable, "-c", SERVER, str(data)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url.startswith("http"), "the server did not start"
        self._inside = psutil.Process(self._process.pid)

    @property
    def memory(self) -> int:
        return int(self._inside.memory_info().rss)

    @property
    def open_files(self) -> int:
        return len([one for one in self._inside.open_files() if str(self.folder) in one.path])

    @property
    def lying(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._end()

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._end()

    def _end(self) -> None:
        self._process.wait(30)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    serving = Serving(tmp_path / "data")
    yield serving
    serving.stop()


def client(serving: Serving) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=serving.url, timeout=120, trust_env=False)


async def announced(http: httpx2.AsyncClient, size: int) -> dict[str, Any]:
    entry = {"uri": "", "filename": "large.bin", "size": size}
    [file] = (await http.post("/files", json={"files": [entry]})).json()["data"]
    return dict(file)


def piece_of(number: int) -> bytes:
    return number.to_bytes(8, "big") * (MIB // 8)


async def content(count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield piece_of(number)


async def cut_off(serving: Serving, url: str, size: int, sent: int) -> None:
    """Announce `size` MiB, send `sent`, and be gone."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    target = f"{parts.path}?{parts.query}"
    writer.write(f"PUT {target} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-length: {size * MIB}\r\n\r\n".encode())
    async for piece in content(sent):
        writer.write(piece)
        await writer.drain()
    async with asyncio.timeout(30):
        while sum(path.stat().st_size for path in serving.lying) < (sent - 2) * MIB:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    writer.transport.abort()
    assert not reader.at_eof()


async def unseen(http: httpx2.AsyncClient, file: dict[str, Any]) -> None:
    assert (await http.get(file["uri"])).status_code == 404
    assert (await http.get(f"/files/{file['id']}")).status_code == 404
    assert (await http.post("/files/list")).json()["data"]["items"] == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, pytest.param(1024, marks=pytest.mark.long)])
async def test_f73_an_upload_that_is_cut_off_in_the_middle(serving: Serving, size: int) -> None:
    """No file is seen, what had come is gone at once, sending it again works, and memory does not grow with it."""
    async with client(serving) as http:
        small = await announced(http, MIB)
        await http.put(small["upload_url"], content=piece_of(0))
        await http.delete(f"/files/{small['id']}")
        before = serving.memory

        file = await announced(http, size * MIB)
        await cut_off(serving, file["upload_url"], size, size // 2)
        async with asyncio.timeout(10):
            while serving.lying:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await unseen(http, file)

        sent = await http.put(file["upload_url"], content=content(size))
        assert sent.status_code == 200, sent.text
        digest = hashlib.sha256()
        peak = 0
        async with http.stream("GET", file["uri"]) as answer:
            assert int(answer.headers["content-length"]) == size * MIB
            async for piece in answer.aiter_bytes(MIB):
                digest.update(piece)
                peak = max(peak, serving.memory)
        expected = hashlib.sha256()
        for number in range(size):
            expected.update(piece_of(number))
        assert digest.digest() == expected.digest()
        last = await http.get(file["uri"], headers={"range": f"bytes={size * MIB - 8}-"})
        assert last.content == (size - 1).to_bytes(8, "big")
        grown = max(peak, serving.memory) - before
        assert grown < 24 * MIB, f"memory grew by {grown // MIB} MiB"


@pytest.mark.slow
async def test_downloads_that_are_cut_off_leave_nothing_open(serving: Serving) -> None:
    async with client(serving) as http:
        file = await announced(http, 32 * MIB)
        assert (await http.put(file["upload_url"], content=content(32))).status_code == 200

        async def some() -> None:
            async with http.stream("GET", file["uri"]) as answer:
                await anext(answer.aiter_bytes(MIB))

        await asyncio.gather(*[some() for _ in range(30)])
        async with asyncio.timeout(10):
            while serving.open_files:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_what_a_killed_server_was_receiving_is_gone_within_an_hour(tmp_path: Path) -> None:
    serving = Serving(tmp_path / "data")
    async with client(serving) as http:
        file = await announced(http, 8 * MIB)
        parts = urlsplit(file["upload_url"])
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        head = f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {8 * MIB}\r\n\r\n"
        writer.write(head.encode())
        async for piece in content(5):
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(30):
            while not serving.lying:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        serving.kill()
        writer.transport.abort()
    [part] = serving.lying

    serving = Serving(tmp_path / "data")  # soon after: somebody might be writing it
    try:
        async with client(serving) as http:
            assert serving.lying == [part]
            await unseen(http, file | {"uri": urlsplit(file["uri"]).path})
            again = await http.put(f"{parts.path}?{parts.query}", content=content(8))
            assert again.status_code == 200
    finally:
        serving.stop()

    assert UNFINISHED_S + 600 <= 3_600, "a sweep every ten minutes finds it within the hour"
    ago = time.time() - UNFINISHED_S - 1
    os.utime(part, (ago, ago))
    serving = Serving(tmp_path / "data")
    try:
        async with asyncio.timeout(10):
            while part in serving.lying:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert len(serving.lying) == 1
    finally:
        serving.stop()
