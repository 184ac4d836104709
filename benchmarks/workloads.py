"""What is measured of a target. Each workload returns plain figures; who repeats them and shows them is elsewhere.

    seq      100 runs of 10 steps always in flight           steps/s, step to step, CPU
    one      one run at a time                               step to step
    first    one event at a time                             from its POST to the first step
    fan      one run of 100 steps at once                    from the event's POST to the code after the join
    parked   runs of one step that then sleep for an hour    runs parked a second
    burst    runs of one step, triggered as fast as they are taken
    batches  events that nobody waits for, 100 in a request, no functions involved
    singles  the same, alone in a request
    length   runs of 1,000 steps beside runs of 10           cost of a step, megabytes of requests
    mixed    6,000 events a second beside `seq`              what is left of both

Times of steps are between the marks of neighbouring steps of one run, so they hold everything that happens between
the end of one step's body and the start of the next one's. Calls of models are in `models.py` and `live.py`, what needs
a server of its own in `lifetimes.py`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, TypeAlias

from benchmarks.client import Client
from benchmarks.processes import percentile
from benchmarks.targets import Stepwell, Target

IN_FLIGHT = 100
STEPS = 10
WIDTH = 100
BATCH = 100
SENDERS = 32
"""Connections that send events at a time."""
LONG_STEPS = 1000
LONG_IN_FLIGHT = 4
OFFERED_PER_S = 6000
"""Events that `mixed` offers; a sender that falls behind does not catch up."""
LIMIT_S = 120.0
"""No workload waits longer for what it started."""
LENGTH_LIMIT_S = 600.0
"""Except for this one, in which an SDK reads half a million recorded steps for each run."""

Figures: TypeAlias = dict[str, float]


@dataclass(frozen=True, slots=True)
class Size:
    """How much of each."""

    seq_s: float = 6.0
    one_steps: int = 300
    first: int = 60
    fans: int = 10
    parked: int = 1000
    burst: int = 2000
    events_s: float = 2.0
    long_runs: int = 4
    asleep: int = 10_000
    shallow: int = 1000
    deep: int = 10_000
    watch_s: float = 15.0
    """How long an idle server is watched, and one that is kept busy."""
    starts: int = 3


QUICK = Size(
    seq_s=2.0,
    one_steps=100,
    first=20,
    fans=3,
    parked=300,
    burst=500,
    events_s=0.7,
    long_runs=2,
    asleep=1000,
    shallow=300,
    deep=3000,
    watch_s=5.0,
    starts=1,
)


class Meter:
    """CPU of server and worker between two moments."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._server, self._worker = target.server_cpu_s(), target.worker_cpu_s()

    def server_s(self) -> float:
        return self._target.server_cpu_s() - self._server

    def per(self, count: int) -> Figures:
        worker = self._target.worker_cpu_s() - self._worker
        return {"server_cpu_ms": self.server_s() / count * 1e3, "worker_cpu_ms": worker / count * 1e3}


async def seq(target: Target, size: Size) -> Figures:
    """A closed loop: as many runs start as have ended."""
    target.marks.forget()
    meter = Meter(target)
    rate = await closed_loop(target, size.seq_s)
    return {"per_s": rate * STEPS, **spread(step_times(target)), **meter.per(len(target.marks.of) * STEPS)}


async def one(target: Target, size: Size) -> Figures:
    target.marks.forget()
    meter = Meter(target)
    runs = -(-size.one_steps // STEPS)
    for _ in range(runs):
        await one_run(target, "seq", steps=STEPS)
    return {**spread(step_times(target)), **meter.per(runs * STEPS)}


async def first(target: Target, size: Size) -> Figures:
    target.marks.forget()
    meter = Meter(target)
    times = []
    for _ in range(size.first):
        sent = time.monotonic()
        run = await one_run(target, "seq", steps=1)
        times.append(run["s0"] - sent)
        await asyncio.sleep(0.01)  # the end of a run costs a commit too; it is not this one's
    return {**spread(times), **meter.per(size.first)}


async def fan(target: Target, size: Size) -> Figures:
    target.marks.forget()
    meter = Meter(target)
    times = []
    for _ in range(size.fans):
        sent = time.monotonic()
        run = await one_run(target, "fan", width=WIDTH)
        times.append(run["done"] - sent)
    return {**spread(times), **meter.per(size.fans * WIDTH)}


async def parked(target: Target, size: Size) -> Figures:
    target.marks.forget()
    meter = Meter(target)
    begin = time.monotonic()
    until = time.time() + 3600
    await submit(target, "nap", [{"key": target.key(), "until": until} for _ in range(size.parked)])
    await reached(target, "s0", size.parked)
    took = max(run["s0"] for run in target.marks.of.values()) - begin
    await asyncio.sleep(1.0)  # until the last ones sleep
    return {"per_s": size.parked / took, **meter.per(size.parked)}


async def burst(target: Target, size: Size) -> Figures:
    target.marks.forget()
    meter = Meter(target)
    begin = time.monotonic()
    await submit(target, "seq", [{"key": target.key(), "steps": 1} for _ in range(size.burst)])
    accepted = time.monotonic() - begin
    await reached(target, "done", size.burst)
    took = max(run["done"] for run in target.marks.of.values()) - begin
    return {"per_s": size.burst / took, "accepted_per_s": size.burst / accepted, **meter.per(size.burst)}


async def batches(target: Stepwell, size: Size) -> Figures:
    return await _events(target, size, BATCH)


async def singles(target: Stepwell, size: Size) -> Figures:
    return await _events(target, size, 1)


async def length(target: Stepwell, size: Size) -> Figures:
    figures: Figures = {}
    for steps in (STEPS, LONG_STEPS):
        target.marks.forget()
        meter = Meter(target)
        runs = size.long_runs * LONG_STEPS // steps
        waiting = min(LONG_IN_FLIGHT, runs)
        await submit(target, "seq", [{"key": target.key(), "steps": steps} for _ in range(waiting)])
        begun, ended = waiting, 0
        until = time.monotonic() + LENGTH_LIMIT_S
        while ended < runs:
            more = _count_ended(target, until)
            ended += more
            more = min(more, runs - begun)
            if more > 0:
                await target.trigger("seq", [{"key": target.key(), "steps": steps} for _ in range(more)])
                begun += more
            await asyncio.sleep(0.002)
        count = runs * steps
        name = str(steps)
        figures |= {f"{column}_{name}": value for column, value in meter.per(count).items()}
        figures[f"step_p50_ms_{name}"] = spread(step_times(target, steps))["p50_ms"]
        figures[f"sent_kb_{name}"] = target.marks.received_bytes / count / 1e3
    figures["times"] = figures[f"server_cpu_ms_{LONG_STEPS}"] / figures[f"server_cpu_ms_{STEPS}"]
    return figures


async def mixed(target: Stepwell, size: Size) -> Figures:
    target.marks.forget()
    alone = await closed_loop(target, size.seq_s)
    times: list[float] = []
    refused = 0
    begin = time.monotonic()
    until = begin + size.seq_s
    body = _unheard(BATCH)
    slots = int(size.seq_s * OFFERED_PER_S / BATCH)
    numbers = iter(range(slots))

    async def sender() -> None:
        client = Client(target.port)
        nonlocal refused
        try:
            for number in numbers:
                at = begin + number * BATCH / OFFERED_PER_S
                await asyncio.sleep(max(0.0, at - time.monotonic()))
                if (sent := time.monotonic()) >= until:
                    return
                try:
                    await client.post(body)
                    times.append(time.monotonic() - sent)
                except RuntimeError:
                    refused += 1
        finally:
            client.close()

    target.marks.forget()
    senders = asyncio.gather(*[sender() for _ in range(4)])
    loaded = await closed_loop(target, size.seq_s)
    await senders
    return {
        "events_per_s": len(times) * BATCH / size.seq_s,
        "refused": float(refused),
        **spread(times),
        "alone_steps_per_s": alone * STEPS,
        "steps_per_s": loaded * STEPS,
        "share": loaded / alone,
    }


# parts that other workloads have in common


async def closed_loop(
    target: Target,
    seconds: float,
    *,
    kind: str = "seq",
    steps: int = STEPS,
    in_flight: int = IN_FLIGHT,
    data: Mapping[str, object] = MappingProxyType({}),
) -> float:
    """Start a run whenever one has ended, with `data` beside its key and steps.

    Steps a second, in runs (so divided by `steps`), after the first quarter.
    """

    async def start(count: int) -> None:
        await submit(target, kind, [{"key": target.key(), "steps": steps, **data} for _ in range(count)])

    begin = time.monotonic()
    until = begin + seconds
    await start(in_flight)
    running = in_flight
    while running:
        ended = _count_ended(target, until + LIMIT_S)
        running -= ended
        if ended and time.monotonic() < until:
            await start(ended)
            running += ended
        await asyncio.sleep(0.004)
    settled = begin + seconds / 4  # before, everybody begins at once
    of = target.marks.of.values()
    inside = sum(settled <= at < until for run in of for name, at in run.items() if name != "done")
    return inside / (until - settled) / steps


async def submit(target: Target, kind: str, datas: list[dict[str, object]]) -> None:
    """Start many runs; on return all are durable."""
    for at in range(0, len(datas), BATCH):
        await target.trigger(kind, datas[at : at + BATCH])


async def reached(target: Target, name: str, count: int, limit_s: float = LIMIT_S) -> None:
    """Wait until so many runs have left the mark. Raises `TimeoutError`."""
    until = time.monotonic() + limit_s
    seen = sum(name in run for run in target.marks.of.values())
    while seen < count:
        seen += sum(found == name for _, found in target.marks.read())
        if time.monotonic() > until:
            raise TimeoutError(f"{count - seen} of {count} runs of {target.name} did not reach {name!r}")
        target.check()
        await asyncio.sleep(0.02)


def _count_ended(target: Target, until: float) -> int:
    if time.monotonic() > until:
        raise TimeoutError(f"runs of {target.name} did not end")
    return sum(name == "done" for _, name in target.marks.read())


async def one_run(target: Target, kind: str, **data: object) -> dict[str, float]:
    """The marks of a new run."""
    key = target.key()
    await target.trigger(kind, [{"key": key, **data}])
    await target.marks.wait(key, "done", limit_s=LIMIT_S)
    return target.marks.of[key]


def step_times(target: Target, steps: int = STEPS) -> list[float]:
    """The times from each step to the next."""
    times = []
    for run in target.marks.of.values():
        starts = [run[f"s{number}"] for number in range(steps) if f"s{number}" in run]
        times += [later - sooner for sooner, later in pairwise(starts)]
    return times


def spread(times_s: list[float]) -> Figures:
    return {"p50_ms": percentile(times_s, 0.5) * 1e3, "p99_ms": percentile(times_s, 0.99) * 1e3}


def _unheard(count: int) -> bytes:
    order = {"id": "o-4711", "total": 129.5, "currency": "eur", "items": [{"sku": f"s-{n}", "n": n} for n in range(6)]}
    return json.dumps([{"name": "bench/unheard", "data": order}] * count).encode()


async def _events(target: Stepwell, size: Size, batch: int) -> Figures:
    body = _unheard(batch)
    times: list[float] = []
    meter = Meter(target)
    begin = time.monotonic()

    async def sender() -> None:
        client = Client(target.port)
        try:
            while (sent := time.monotonic()) < begin + size.events_s:
                await client.post(body)
                times.append(time.monotonic() - sent)
        finally:
            client.close()

    await asyncio.gather(*[sender() for _ in range(SENDERS if batch == 1 else 4)])
    took = time.monotonic() - begin
    accepted = len(times) * batch
    await asyncio.sleep(0.2)  # matching them costs the server too
    return {"per_s": accepted / took, **spread(times), **meter.per(accepted)}


@dataclass(frozen=True, slots=True)
class Workload:
    """One of the ways to measure.

    Args:
        title: For tables.
        measure: Takes a target that runs. Those not in `COMMON` take a Stepwell.
        long: Not part of `--quick`, unless it is named.
        only: The one target that it is measured of; empty for all.
    """

    title: str
    measure: Callable[[Any, Size], Coroutine[Any, Any, Figures]]
    long: bool = False
    only: str = ""


COMMON = {
    "seq": Workload(f"{IN_FLIGHT} runs in flight, per step", seq),
    "one": Workload("one run at a time, step to step", one),
    "first": Workload("event to first step", first),
    "fan": Workload(f"{WIDTH}-way fan-out, event to join", fan),
    "burst": Workload("runs of one step, as fast as taken", burst),
}
"""What any product can be asked for."""
WORKLOADS = {
    **COMMON,
    "parked": Workload("runs that go to sleep", parked),
    "batches": Workload(f"events in batches of {BATCH}", batches),
    "singles": Workload(f"single events, {SENDERS} senders", singles),
    "length": Workload(f"runs of {STEPS} and of {LONG_STEPS:,} steps, {LONG_IN_FLIGHT} in flight", length, True),
    "mixed": Workload(f"{OFFERED_PER_S:,} events/s beside {IN_FLIGHT} runs in flight", mixed),
}
"""What is measured of a Stepwell that has run for a while."""
