"""Very many connections on which nothing happens, and work beside them (F77)."""

from __future__ import annotations

import asyncio
import base64
import os
import resource
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

import stepwell
from stepwell.model.job import RunRow
from stepwell.wire import worker as frames
from tests.faults.harness import CEILING_BYTES, MIB, Server, WorkerProgram, connected, gathered, timed, until
from tests.fleet import nodes_wanted

pytestmark = pytest.mark.slow

KIB = 1024
AT_MOST_KIB = 40
"""What a connection may take, on average."""


class Idle(asyncio.Protocol):
    """Sends a request, and from then on nothing but the answers to pings of a websocket.

    Args:
        first: The request, or a part of one.
        then: Sent once its answer has begun.
    """

    def __init__(self, first: bytes, then: bytes = b"") -> None:
        self._first, self._then = first, then
        self._came = b""
        self._answered = False
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._first)

    def data_received(self, data: bytes) -> None:
        self._came += data
        if not self._answered:
            _, end, rest = self._came.partition(b"\r\n\r\n")
            if not end:
                return
            self._answered = True
            if self._then:
                self._came = rest
                self.transport.write(self._then)
            self.begun.set_result(None)
        if self._then:
            self._pong()

    def _pong(self) -> None:
        while len(self._came) >= 2:
            length, start = self._came[1] & 127, 2
            if length == 126:
                start = 4
                length = int.from_bytes(self._came[2:4])
            if len(self._came) < start + length:
                return
            if self._came[0] & 15 == 9:
                self.transport.write(bytes((0x8A, 0x80 | length, 0, 0, 0, 0)) + self._came[start : start + length])
            self._came = self._came[start + length :]

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(self._came)


def follower(run: str) -> tuple[bytes, bytes]:
    return f"GET /api/runs/{run}/follow HTTP/1.1\r\nhost: localhost\r\n\r\n".encode(), b""


def worker(number: int) -> tuple[bytes, bytes]:
    runtime = {"type": "ws", "url": "ws://connected?fnId=idle-f&stepId=step"}
    step = {"id": "step", "name": "step", "runtime": runtime, "retries": {"attempts": 4}}
    function = {"id": "idle-f", "name": "f", "triggers": [{"event": "idle/f"}], "steps": {"step": step}}
    hello = frames.encode(
        frames.Hello(
            version=frames.VERSION,
            worker=f"idle-{number}",
            service="idle",
            sdk="stepwell-py:v0.1.0",
            functions=msgspec.json.encode([function]),
            instance=f"idle-{number}",
        )
    )
    key = base64.b64encode(os.urandom(16)).decode()
    asked = (
        "GET /worker HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        f"sec-websocket-key: {key}\r\nsec-websocket-version: 13\r\n\r\n"
    )
    return asked.encode(), b"\x82" + bytes((0xFE,)) + struct.pack(">H", len(hello)) + bytes(4) + hello


HALF = b"POST /e/slow HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"


@contextmanager
def files(count: int) -> Iterator[None]:
    """Let this process, and those it starts, open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"a process may open {hard} files here, and {count} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def latencies_ms(server: Server, seconds: float) -> list[int]:
    """How long the server took from an event to the end of its run of two steps, 30 of them a second, in order."""
    before = {row.id for row in await server.rows("steady-f")}
    with timed() as took:
        while took() < seconds:
            await server.event("steady/f", text="x")
            await asyncio.sleep(0.03)

    async def new() -> list[RunRow]:
        found = [row for row in await server.rows("steady-f") if row.id not in before]
        return found if all(row.ended_at is not None for row in found) else []

    rows = await until("the end of all", new, 30, server.explain)
    return sorted((row.ended_at or 0) - row.created_at for row in rows)


@pytest.mark.skipif(nodes_wanted() > 0, reason="with nodes, a balancer in this process is what is measured")
@pytest.mark.parametrize(
    ("followers", "workers", "silent", "halves", "slack_ms"),
    [
        pytest.param(400, 400, 100, 100, 500, id="F77-tenth"),  # beside other tests on the same machine
        pytest.param(3_900, 5_000, 500, 600, 20, id="F77", marks=pytest.mark.long),
    ],
)
async def test_idle_connections_cost_little_and_hold_up_nobody(
    unstarted: Server, tmp_path: Path, followers: int, workers: int, silent: int, halves: int, slack_ms: int
) -> None:
    """F77: those who follow a run, workers that wait, who says nothing, and who stops in the middle of a request.

    The last two are sent away after a while.
    """
    server, count = unstarted, followers + workers + silent + halves
    service = stepwell.Service("parked")

    @service.function(on="parked/f")
    async def f(ctx: stepwell.Context[Any]) -> None:
        await ctx.step.wait_for_event("never", "parked/never", timeout="1h")

    with files((3 if server.nodes else 1) * count + 500):  # the balancer before nodes is in this process
        await server.start(within=60)
        load = WorkerProgram("steady", server, tmp_path)
        open_ones: list[Idle] = []
        try:
            await server.serves("steady-f")
            async with connected(server, service):
                run = await server.run_of(await server.event("parked/f"))
                await until("a waiting run", lambda: _waits(server), 10, server.explain)
                await latencies_ms(server, 2)
                before = await latencies_ms(server, 8)
                before_bytes = server.memory("VmRSS")
                wanted = [follower(run) for _ in range(followers)] + [worker(number) for number in range(workers)]
                open_ones += await gathered([_opened(server, *one) for one in wanted], 100)
                open_ones += await gathered([_opened(server, b"", begins=False) for _ in range(silent)], 100)
                slow = await gathered([_opened(server, HALF, begins=False) for _ in range(halves)], 100)
                open_ones += slow
                await asyncio.gather(*(one.begun for one in open_ones[: followers + workers]))
                during = await latencies_ms(server, 8)
                taken = server.memory("VmRSS") - before_bytes
                told = await asyncio.wait_for(asyncio.gather(*(one.ended for one in slow)), 60)
                ended = Counter(one.ended.done() for one in open_ones[: followers + workers])
                last = await latencies_ms(server, 4)
        finally:
            for one in open_ones:
                one.transport.abort()
            await load.stop()
    p99 = [found[len(found) * 99 // 100] for found in (before, during, last)]
    print(
        f"{count} connections, {taken / count / KIB:.1f} KiB each, {server.memory() / MIB:.0f} MiB at most; 99 of 100 "
        f"runs took {p99[0]} ms at most before, {p99[1]} ms beside them, {p99[2]} ms in the end"
    )
    assert all(b" 408 " in one and b"body_idle_s" in one for one in told), told[0]
    assert ended == {False: followers + workers}, "nobody who waits is sent away for being quiet"
    assert taken / count < AT_MOST_KIB * KIB
    assert server.memory() < CEILING_BYTES
    assert max(p99[1:]) < 2 * p99[0] + slack_ms


async def _waits(server: Server) -> bool:
    return await server.waits() == 1


async def _opened(server: Server, first: bytes, then: bytes = b"", *, begins: bool = True) -> Idle:
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(lambda: Idle(first, then), "127.0.0.1", server.port)
    if begins:
        await asyncio.wait_for(asyncio.shield(protocol.begun), 30)
    return protocol
