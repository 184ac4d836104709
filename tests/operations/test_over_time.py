"""What a server has after a while of work: no more memory, tasks, sockets and rows than it needs for what is there.

STEPWELL_TEST_MINUTES  how long the load goes on, 2.5 by default; 30 in earnest
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

import stepwell
from stepwell.model.event import DEV_ENV
from stepwell.model.ids import RunId, ulid
from stepwell.model.job import RunRow, RunStatus
from stepwell.model.journal import CallScheduled, RunCompleted, RunStarted, StepCompleted
from stepwell.node.clock import AsyncioWorld
from stepwell.node.retention import Keep, Retention
from stepwell.server import Server, ServerSettings
from stepwell.store.base import RunQuery, RunWrite, Transition
from stepwell.store.meters import SECONDS
from stepwell.store.sqlite import SqliteStore
from tests.docs.running import working

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell.model.ids import EventKey
    from stepwell.model.journal import Entry

MINUTES = float(os.environ.get("STEPWELL_TEST_MINUTES", "2.5"))
RUNS_PER_S = 50
PAYLOAD = "x" * 4096
SHORT = SECONDS.index(0.05) + 1
"""The first bucket of what took longer than 50 ms."""
service = stepwell.Service("over-time")


@service.function(on="time/order")
async def order(ctx: stepwell.Context[Any]) -> str:
    text = await ctx.step.run("first", echo, ctx.event.data["text"])
    return await ctx.step.run("second", echo, text)


async def echo(text: str) -> str:
    return text


def resident_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("/proc/self/status has no VmRSS")


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
async def test_memory_levels_off_and_what_was_open_is_closed(tmp_path: Path) -> None:
    """Server and worker are in this process, so both may not grow. Streams follow runs all the while."""
    settings = ServerSettings(
        port=0, data=tmp_path, discovery=False, manage_logging=False, cached_runs=200, keep=Keep(most_runs=500)
    )
    server = Server(settings)
    await server.start()
    workers = working([service], server)
    await asyncio.to_thread(workers.__enter__)
    try:
        limits = httpx2.Limits(max_connections=8, max_keepalive_connections=8)
        async with httpx2.AsyncClient(base_url=server.url, timeout=30, limits=limits) as client:
            await load(client, 5)
            await settle(server)
            await sweep(server)
            before = counted()
            samples: list[tuple[float, float]] = []
            began = time.monotonic()
            while (passed := time.monotonic() - began) < MINUTES * 60:
                await load(client, 5)
                await sweep(server)
                gc.collect()
                samples.append((passed / 60, resident_mib()))
            await settle(server)
            await sweep(server)
        settled = counted()
        late = [one for one in samples if one[0] >= samples[-1][0] / 3]
        growth = slope(late)
        assert growth < max(0.1, 3 / MINUTES), f"{growth:.2f} MiB a minute: {[round(mib) for _, mib in samples]}"
        for what, count in settled.items():
            assert count <= before[what] + 3, (what, before, settled)
        assert (await server.node.store.status())["live_runs"] == 0
        assert not server.node.turns._boxes
    finally:
        await asyncio.to_thread(workers.__exit__, None, None, None)
        await server.stop()


async def load(client: httpx2.AsyncClient, seconds: float) -> None:
    """Runs at a steady rate, a tenth of which somebody follows."""
    for second in range(int(seconds)):
        began = time.monotonic()
        events = [{"name": "time/order", "data": {"text": PAYLOAD, "n": number}} for number in range(RUNS_PER_S)]
        answer = await client.post("/e/key", json=events)
        assert answer.status_code == 200, answer.text
        if second % 2:
            runs = (await client.get("/api/runs", params={"limit": 5})).json()["runs"]
            for run in runs[:2]:
                async with client.stream("GET", f"/api/runs/{run['id']}/follow") as stream:
                    async for _ in stream.aiter_lines():
                        break
        await asyncio.sleep(max(0.0, began + 1 - time.monotonic()))


async def sweep(server: Server) -> None:
    """What a day of such sweeps would do to events too: pages of the database that are in memory count as well."""
    retention = server.site.retention
    assert retention is not None
    await retention.sweep()
    after: EventKey | None = None
    while True:
        now = server.node.world.now()
        _, after = await server.node.store.remove_events(after, now - 5000, (), 200, now)
        if after is None:
            return


async def settle(server: Server) -> None:
    for _ in range(300):
        if not (await server.node.store.status())["live_runs"] and not server.node.turns.busy:
            await asyncio.sleep(0.5)
            return
        await asyncio.sleep(0.1)
    raise AssertionError("runs did not end")


def counted() -> dict[str, int]:
    gc.collect()
    return {
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),
    }


def slope(samples: list[tuple[float, float]]) -> float:
    """The line through the samples, in their second unit for one of the first."""
    count = len(samples)
    mean_at, mean = sum(at for at, _ in samples) / count, sum(value for _, value in samples) / count
    spread = sum((at - mean_at) ** 2 for at, _ in samples)
    return sum((at - mean_at) * (value - mean) for at, value in samples) / spread


def history(first: int, count: int) -> Iterator[Transition]:
    """Ended runs of two steps each."""
    for number in range(first, first + count):
        at = 1_000_000 + number
        run = RunId(ulid(at, number))
        entries: tuple[Entry, ...] = (
            RunStarted(at=at, function="f", service="s", events=(b'{"data":{},"name":"a"}',)),
            CallScheduled(at=at, call=f"{run}.2"),  # type: ignore[arg-type]
            *[StepCompleted(at=at, step=f"{step:040x}", output=b'{"data":1}') for step in (1, 2)],  # type: ignore[arg-type]
            RunCompleted(at=at),
        )
        row = RunRow(
            id=run, env=DEV_ENV, shard=1, function="f", service="s", status=RunStatus.COMPLETED, seq=len(entries),
            created_at=at, ended_at=at,
        )  # fmt: skip
        yield Transition(run=RunWrite(row, 0, entries))


@pytest.mark.long
async def test_history_levels_off(tmp_path: Path) -> None:
    """100,000 runs come and end while the newest 10,000 are kept: the file stops growing and lists stay quick."""
    store = SqliteStore(tmp_path)
    await store.open()
    retention = Retention(store, AsyncioWorld(), "n", Keep(most_runs=10_000), loose_ms=0)
    sizes: list[int] = []
    times: list[float] = []
    shares: list[float] = []
    for first in range(0, 100_000, 5_000):
        runs = list(history(first, 5_000))
        for start in range(0, len(runs), 500):
            await asyncio.gather(*map(store.commit, runs[start : start + 500]))
        seconds = store.meters()["commit_seconds"]
        before = list(seconds.counts)
        await retention.sweep()
        grown = [after - earlier for after, earlier in zip(seconds.counts, before, strict=True)]
        shares.append(sum(grown[SHORT:]) / sum(grown))
        sizes.append((tmp_path / "stepwell.db").stat().st_size)
        began = time.perf_counter()
        for _ in range(20):
            assert len(await store.runs(RunQuery(DEV_ENV, limit=50))) == 50
            await store.runs(RunQuery(DEV_ENV, statuses=(RunStatus.COMPLETED,), limit=50))
        times.append((time.perf_counter() - began) / 20)
    assert await store.count_runs(RunQuery(DEV_ENV)) == 10_000
    assert sizes[-1] < 1.2 * sizes[5], [size >> 20 for size in sizes]
    assert sorted(times[-6:])[3] < 3 * sorted(times[:6])[3], times
    assert sum(shares) / len(shares) < 0.02, shares  # of 50 transactions of a sweep at most one takes over 50 ms
    await store.close()
    began = time.perf_counter()
    await store.open()
    assert time.perf_counter() - began < 1
    await store.close()
