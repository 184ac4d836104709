"""Answers of models as they come: from the provider through the server to those who follow the run.

    first     an answer begins                                     from its first token to a subscriber
    relay     100 answers of 100 tokens a second, each followed    cores, delay of a token
    open      2,000 subscribers of 1,000 answers that go on        memory

Every token says when it was sent (`benchmarks/apps/provider.py`), so a delay holds everything from the provider's
socket to the subscriber's: what it takes the server to read, publish and write it, and what it waits for others.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.client import Client
from benchmarks.lifetimes import settled
from benchmarks.models import prompt
from benchmarks.processes import percentile
from benchmarks.targets import Stepwell
from benchmarks.workloads import Figures, Meter, Size, Workload

AHEAD_S = 1.0
"""Between the start of a run and its first token, so that its subscriber is there."""
AT_ONCE = 10
RELAYED = 100
TOKENS_PER_S = 100
OPEN = 1000
PER_RUN = 2
LOOPBACKS = tuple(f"127.0.0.{number}" for number in range(1, 11))
"""A host each, since a server makes 100 requests to one host at a time."""
PATIENCE_S = 60.0
_TOKEN = re.compile(rb'"text":"([0-9]+) ([0-9 ]*)"')


class Subscriber(asyncio.Protocol):
    """Follows one run, and takes the time of each token."""

    def __init__(self, port: int, run: str) -> None:
        self.delays: list[float] = []
        """Of the first token in each event."""
        self.tokens = 0
        self.begun = asyncio.get_running_loop().create_future()
        self.lost = False
        self._port = port
        self._path = f"/api/runs/{run}/stream"
        self._rest = b""

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", self._port)
        self._transport.write(f"GET {self._path} HTTP/1.1\r\nHost: localhost:{self._port}\r\n\r\n".encode())

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        data = self._rest + data
        whole = data.rfind(b"\n\n") + 2
        self._rest = data[whole:] if whole > 1 else data
        for sent, more in _TOKEN.findall(data[:whole] if whole > 1 else b""):
            self.delays.append((now - int(sent)) / 1e9)
            self.tokens += 1 + more.count(b" ")
        if self.delays and not self.begun.done():
            self.begun.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


async def first(target: Stepwell, size: Size) -> Figures:
    asked = {"provider": target.tokens_url, "prompt": prompt(delay_s=AHEAD_S, tokens=20, pause_s=0.01)}
    found: list[Subscriber] = []
    for _ in range(0, size.first, AT_ONCE):
        followed = await _follow(target, [asked] * AT_ONCE)
        await _begun(followed)
        found += followed
        await asyncio.sleep(0.3)  # until they have ended
        _close(followed)
    times = [one.delays[0] for one in found]
    return {"p50_ms": percentile(times, 0.5) * 1e3, "p95_ms": percentile(times, 0.95) * 1e3}


async def relay(target: Stepwell, size: Size) -> Figures:
    tokens = int((size.seq_s + 3) * TOKENS_PER_S)
    asked = {"provider": target.tokens_url, "prompt": prompt(delay_s=AHEAD_S, tokens=tokens, pause_s=1 / TOKENS_PER_S)}
    followed = await _follow(target, [asked] * RELAYED)
    await _begun(followed)
    await asyncio.sleep(0.5)
    for one in followed:
        one.delays.clear()
        one.tokens = 0
    meter, begin = Meter(target), time.monotonic()
    await asyncio.sleep(size.seq_s)
    took = time.monotonic() - begin
    cores, tokens = meter.server_s() / took, sum(one.tokens for one in followed)
    delays = [delay for one in followed for delay in one.delays]
    _close(followed)
    await asyncio.sleep(3)  # until they have ended
    return {
        "tokens_per_s": tokens / took,
        "events_per_s": len(delays) / took,
        "cores": cores,
        "p50_ms": percentile(delays, 0.5) * 1e3,
        "p95_ms": percentile(delays, 0.95) * 1e3,
    }


async def open_streams(target: Stepwell, size: Size) -> Figures:
    await settled(target)
    before = target.server_rss_bytes()
    text = prompt(delay_s=AHEAD_S, tokens=int(PATIENCE_S), pause_s=1.0)
    port = target.tokens_url.rpartition(":")[2]
    places = [f"http://{LOOPBACKS[number % len(LOOPBACKS)]}:{port}" for number in range(OPEN)]
    followed = await _follow(target, [{"provider": place, "prompt": text} for place in places], PER_RUN)
    await _begun(followed)
    await asyncio.sleep(size.watch_s / 3)
    begin, meter = time.monotonic(), Meter(target)
    for one in followed:
        one.tokens = 0
    await asyncio.sleep(5)
    took = time.monotonic() - begin
    figures = {
        "streams": float(sum(not one.lost for one in followed)),
        "rss_mb": target.server_rss_bytes() / 1e6,
        "kb_per_stream": (target.server_rss_bytes() - before) / len(followed) / 1e3,
        "tokens_per_s": sum(one.tokens for one in followed) / took,
        "cores": meter.server_s() / took,
    }
    _close(followed)
    return figures


async def _follow(target: Stepwell, asked: list[Mapping[str, Any]], each: int = 1) -> list[Subscriber]:
    """Start runs, with so many subscribers for each."""
    client = Client(target.port)
    try:
        events = [
            {"name": "bench/live", "data": {"key": target.key(), **one}, "id": f"{target.key()}-{time.monotonic_ns()}"}
            for one in asked
        ]
        status, answer = await client.request("POST", "/e/bench", json.dumps(events).encode())
        if status != 200:
            raise RuntimeError(f"events were answered with {status}: {answer[:300]!r}")
        runs = [await _run_of(client, event) for event in json.loads(answer)["ids"]]
    finally:
        client.close()
    found = [Subscriber(target.port, run) for run in runs for _ in range(each)]
    for one in found:
        await one.connect()
    return found


async def _run_of(client: Client, event: str) -> str:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        runs = json.loads((await client.request("GET", f"/v1/events/{event}/runs"))[1])["data"]
        if runs:
            return str(runs[0]["run_id"])
        await asyncio.sleep(0.005)
    raise TimeoutError(f"event {event} started no run")


async def _begun(followed: list[Subscriber]) -> None:
    """Wait until each has had a token. Raises `TimeoutError`."""
    await asyncio.wait_for(asyncio.gather(*[one.begun for one in followed]), PATIENCE_S)


def _close(followed: list[Subscriber]) -> None:
    for one in followed:
        one.close()


LIVE = {
    "first-token": Workload("the first token of an answer, to a subscriber", first, only="websocket"),
    "relay": Workload(f"{RELAYED} answers of {TOKENS_PER_S} tokens a second", relay, only="websocket"),
    "open": Workload(f"{OPEN * PER_RUN:,} streams of {OPEN:,} answers", open_streams, only="websocket"),
}
"""What is measured of live answers."""
