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
from tests.faults.harness import MIB, WorkerProgram, timed
from tests.faults.harness import Server as FaultServer

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
async def test_a_server_takes_no_more_memory_after_a_while_of_steady_work(tmp_path: Path) -> None:
    """F74: runs with 4 KiB at a steady rate, while lists are looked at and runs are followed; a process of its own."""
    server = FaultServer(tmp_path, "--keep-runs-at-most", "2000", "--keep-runs", "1m")
    await server.start()
    worker = WorkerProgram("steady", server, tmp_path)
    try:
        await server.serves("steady-f")
        await steady(server, 20)
        await server.all_ended(60)
        before = opened(server)
        samples: list[tuple[float, float]] = []
        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(look_on(server))
            began = time.monotonic()
            while (passed := time.monotonic() - began) < MINUTES * 60:
                await steady(server, 5)
                samples.append((passed / 60, server.memory("VmRSS") / MIB))
            pace = len(samples) * 1000 / (time.monotonic() - began)
            looking.cancel()
        await server.all_ended(60)
        await asyncio.sleep(1)
        growth = slope([one for one in samples if one[0] >= samples[-1][0] / 3])
        shown = [round(mib) for _, mib in samples[:: len(samples) // 20 or 1]]
        told = f"{pace:.0f} runs a second, {growth:.2f} MiB a minute: {shown}"
        print(told)
        if MINUTES >= 10:
            assert growth < 0.1, told
        else:  # caches fill for some six minutes
            assert samples[-1][1] - samples[0][1] < 20, told
        for what, count in opened(server).items():
            assert count <= before[what] + 3, (what, before, opened(server))
        assert await server.waits() == 0
    finally:
        await worker.stop()
        await server.close()


async def steady(server: FaultServer, seconds: int) -> None:
    """200 runs a second, in pieces of a tenth of a second."""
    for _ in range(seconds * 10):
        began = time.monotonic()
        await server.send(*({"name": "steady/f", "data": {"text": PAYLOAD}} for _ in range(20)))
        await asyncio.sleep(max(0.0, began + 0.1 - time.monotonic()))


async def look_on(server: FaultServer) -> None:
    """What an open page asks every two seconds, and who follows the newest runs to their end."""
    while True:
        await server.status()
        for run in (await server.get("/api/runs?limit=10"))["runs"]:
            async with server.http.stream("GET", f"/api/runs/{run['id']}/follow") as stream:
                async for _ in stream.aiter_lines():
                    pass
        await asyncio.sleep(2)


def opened(server: FaultServer) -> dict[str, int]:
    place = Path(f"/proc/{server.program.pid}")
    return {"threads": len(list((place / "task").iterdir())), "files": len(list((place / "fd").iterdir()))}


@pytest.mark.long
async def test_a_million_ended_runs_slow_nothing_down_and_go(tmp_path: Path) -> None:
    """F60: a store with 1,000,000 runs opens and lists as quickly as one with 10,000; a sweep leaves 100,000."""
    store = SqliteStore(tmp_path)
    await store.open()
    opens_s: list[float] = []
    lists_s: list[float] = []
    laid = 0
    began = time.monotonic()
    for goal in (10_000, 1_000_000):
        for first in range(laid, goal, 5_000):
            await asyncio.gather(*map(store.commit, history(first, 5_000)))
        laid = goal
        await store.close()
        with timed() as took:
            await store.open()
        opens_s.append(took())
        lists_s.append(await listed_s(store))
    laid_s = time.monotonic() - began
    retention = Retention(store, AsyncioWorld(), "n", Keep(most_runs=100_000), loose_ms=0)
    sizes = []
    with timed() as took:
        await retention.sweep()
    sizes.append((tmp_path / "stepwell.db").stat().st_size >> 20)
    assert await store.count_runs(RunQuery(DEV_ENV)) == 100_000
    lists_s.append(await listed_s(store))
    for first in range(laid, laid + 100_000, 5_000):
        await asyncio.gather(*map(store.commit, history(first, 5_000)))
    await retention.sweep()
    sizes.append((tmp_path / "stepwell.db").stat().st_size >> 20)
    assert await store.count_runs(RunQuery(DEV_ENV)) == 100_000
    await store.close()
    (tmp_path / "stepwell.db").unlink()
    print(
        f"laid in {laid_s:.0f} s; opened in {[round(one * 1000) for one in opens_s]} ms, listed in "
        f"{[round(one * 1000, 1) for one in lists_s]} ms; swept in {took():.0f} s; {sizes} MiB"
    )
    assert opens_s[1] < 1
    assert lists_s[1] < 3 * lists_s[0] + 0.002
    assert sizes[1] <= sizes[0]


async def listed_s(store: SqliteStore) -> float:
    """How long it takes to list the newest runs, and the newest of one status and of one function."""
    with timed() as took:
        for _ in range(20):
            assert len(await store.runs(RunQuery(DEV_ENV, limit=50))) == 50
            await store.runs(RunQuery(DEV_ENV, statuses=(RunStatus.COMPLETED,), limit=50))
            await store.runs(RunQuery(DEV_ENV, functions=("f",), limit=50))
    return took() / 20


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
