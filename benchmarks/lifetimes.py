"""What needs a server of its own, from its first start: memory, depth, recovery.

    idle     a server that has nothing to do              ready after, memory, cores
    asleep   10,000 runs that sleep, and asleep100k       bytes and cores of the server, wake-up delays among them,
             100,000 of them                              then a kill: ready after, a new run's first step
    drain    1,000 runs queued, then 10,000,              runs ended a second and their cost, the ratios of both
             and drain100k 100,000

Memory is the resident memory of the server's processes, read when it has stopped moving. Before it is read for the
first time a thousand runs have gone through, so that what only needs to be there once is there.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.processes import median, percentile
from benchmarks.targets import Stepwell
from benchmarks.tasks import fair
from benchmarks.workloads import Figures, Meter, Size, reached, submit

Make: TypeAlias = Callable[[], Stepwell]

WAKING = 200
WAKING_S = 10.0
WARM = 1000
LATER_S = 86_400.0
DRAIN_LIMIT_S = 300.0
"""Whoever is slower is measured by what ended until then."""


async def idle(make: Make, folder: Path, size: Size) -> Figures:
    ready = []
    figures: Figures = {}
    for number in range(size.starts):
        target = make()
        target.folder = folder / str(number)
        target.folder.mkdir(parents=True)
        try:
            ready.append(await target.start_server())
            await settled(target)
            figures = {"rss_mb": target.server_rss_bytes() / 1e6, "cores": await _cores(target, size.watch_s)}
        finally:
            target.stop()
    return {"ready_s": median(ready), **figures}


async def asleep(make: Make, folder: Path, size: Size) -> Figures:
    target = make()
    try:
        await target.start(folder)
        await submit(target, "seq", [{"key": target.key(), "steps": 1} for _ in range(WARM)])
        await reached(target, "done", WARM)
        await settled(target)
        before = target.server_rss_bytes()
        target.marks.forget()
        begin = time.monotonic()
        naps = [{"key": target.key(), "until": time.time() + LATER_S} for _ in range(size.asleep)]
        await submit(target, "nap", [dict(one) for one in naps])
        await reached(target, "s0", size.asleep, limit_s=900.0)
        took = time.monotonic() - begin
        await settled(target)
        after = target.server_rss_bytes()
        cores = await _cores(target, size.watch_s)
        late = await _wake(target)
        again = await _recover(target)
        return {
            "runs": float(size.asleep),
            "parked_per_s": size.asleep / took,
            "bytes_per_run": (after - before) / size.asleep,
            "rss_mb": after / 1e6,
            "cores": cores,
            "woken": float(len(late)),
            "wake_p50_ms": percentile(late, 0.5) * 1e3,
            "wake_p99_ms": percentile(late, 0.99) * 1e3,
            **again,
        }
    finally:
        target.stop()


async def drain(make: Make, folder: Path, size: Size) -> Figures:
    figures: Figures = {}
    for name, depth in (("shallow", size.shallow), ("deep", size.deep)):
        target = make()
        try:
            await target.start(folder / name)
            target.marks.forget()
            if name == "shallow":  # kept at its depth, or it would be gone before it is measured
                figures |= await _kept(target, depth, size.watch_s)
                continue
            begin = time.monotonic()
            await submit(target, "seq", [{"key": target.key(), "steps": 1} for _ in range(depth)])
            figures["accepted_per_s"] = depth / (time.monotonic() - begin)
            target.marks.read()
            left = depth - sum("done" in run for run in target.marks.of.values())
            meter, begin = Meter(target), time.monotonic()
            ended = 0
            while ended < left and time.monotonic() < begin + DRAIN_LIMIT_S:  # whole: many runs may be half done
                ended += sum(mark == "done" for _, mark in target.marks.read())
                await asyncio.sleep(0.02)
            took = time.monotonic() - begin
            figures |= {"depth": float(left), "deep_per_s": ended / took}
            figures |= {f"deep_{column}": value for column, value in meter.per(max(ended, 1)).items()}
        finally:
            target.stop()
    figures["ratio"] = figures["deep_per_s"] / figures["shallow_per_s"]
    figures["cpu_ratio"] = figures["deep_server_cpu_ms"] / figures["shallow_server_cpu_ms"]
    return figures


async def settled(target: Stepwell, limit_s: float = 60.0) -> None:
    """Wait until the server has nothing to do and its memory stays where it is."""
    until = time.monotonic() + limit_s
    calm = 0
    while calm < 3 and time.monotonic() < until:
        memory, cpu = target.server_rss_bytes(), target.server_cpu_s()
        await asyncio.sleep(1.0)
        busy = target.server_cpu_s() - cpu > 0.2 or abs(target.server_rss_bytes() - memory) > 1e6
        calm = 0 if busy else calm + 1


async def _cores(target: Stepwell, seconds: float) -> float:
    meter = Meter(target)
    begin = time.monotonic()
    await asyncio.sleep(seconds)
    return meter.server_s() / (time.monotonic() - begin)


async def _kept(target: Stepwell, depth: int, seconds: float) -> Figures:
    """What ends while always `depth` runs wait, after the first quarter."""
    await submit(target, "seq", [{"key": target.key(), "steps": 1} for _ in range(depth)])
    begin = time.monotonic()
    meter, ended = Meter(target), 0
    settled_at = begin + seconds / 4
    while (now := time.monotonic()) < begin + seconds:
        more = sum(mark == "done" for _, mark in target.marks.read())
        if now < settled_at:
            meter, ended = Meter(target), 0
        else:
            ended += more
        if more:
            await submit(target, "seq", [{"key": target.key(), "steps": 1} for _ in range(more)])
        await asyncio.sleep(0.02)
    cost = {f"shallow_{column}": value for column, value in meter.per(max(ended, 1)).items()}
    return {"shallow_per_s": ended / (time.monotonic() - settled_at), **cost}


async def _wake(target: Stepwell) -> list[float]:
    """By how many seconds runs go on too late, of some that are due one after another."""
    target.marks.forget()
    offset = time.time() - time.monotonic()
    base = time.time() + 10.0  # a worker keeps waiting runs in memory for 5 s; these are entered again
    due = {target.key(): base + WAKING_S * number / WAKING for number in range(WAKING)}
    await submit(target, "nap", [{"key": key, "until": at} for key, at in due.items()])
    await reached(target, "done", WAKING, limit_s=60.0)
    return [target.marks.of[key]["done"] + offset - at for key, at in due.items()]


async def _recover(target: Stepwell) -> Figures:
    """Kill the server and start it on what it holds."""
    target.crash()
    target.marks.forget()
    begin = time.monotonic()
    ready = await target.start_server()
    key = target.key()
    await target.trigger("seq", [{"key": key, "steps": 1}])
    ran = await target.marks.wait(key, "s0", limit_s=60.0) - begin
    return {"ready_s": ready, "first_step_s": ran}


@dataclass(frozen=True, slots=True)
class Lifetime:
    """One of the ways to measure.

    Args:
        title: For tables.
        measure: Starts targets itself, in the folder that it is given.
        long: Measured only when it is named.
        sizes: What differs from the sizes of the others.
    """

    title: str
    measure: Callable[[Make, Path, Size], Coroutine[Any, Any, Figures]]
    long: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)

    async def figures(self, make: Make, folder: Path, size: Size) -> Figures:
        return await self.measure(make, folder, dataclasses.replace(size, **self.sizes))


LIFETIMES = {
    "idle": Lifetime("a server with nothing to do", idle),
    "asleep": Lifetime("runs that sleep, then a kill", asleep),
    "drain": Lifetime("queued runs of one step", drain),
    "fair": Lifetime("1,000 queued tasks of 20 apps on 8 workers", fair, True),
    "asleep100k": Lifetime("100,000 runs that sleep, then a kill", asleep, True, {"asleep": 100_000}),
    "drain100k": Lifetime("runs queued, 1,000 and 100,000", drain, True, {"shallow": 1000, "deep": 100_000}),
}
