"""What is measured of a target. Each workload returns plain figures; who repeats them and shows them is elsewhere.

    seq      100 runs of 10 steps always in flight           steps/s, step to step, CPU
    one      one run at a time                               step to step
    first    one event at a time                             from its POST to the first step
    fan      one run of 100 steps at once                    from the event's POST to the code after the join
    parked   runs of one step that then sleep for an hour    runs parked a second, memory of the server for each
    events   events that nobody waits for, 100 in a request and alone, no functions involved

Times of steps are between the marks of neighbouring steps of one run, so they hold everything that happens between
the end of one step's body and the start of the next one's.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from benchmarks.client import Client
from benchmarks.processes import percentile
from benchmarks.targets import Target

IN_FLIGHT = 100
STEPS = 10
WIDTH = 100
BATCH = 100
SENDERS = 32
"""Connections that send events at a time."""
LIMIT_S = 120.0
"""No workload waits longer for what it started."""

Figures: TypeAlias = dict[str, float]


@dataclass(frozen=True, slots=True)
class Size:
    """How much of each."""

    seq_s: float = 6.0
    one_steps: int = 300
    first: int = 60
    fans: int = 10
    parked: int = 1000
    events_s: float = 2.0


QUICK = Size(seq_s=2.0, one_steps=100, first=20, fans=3, parked=300, events_s=0.7)


class Meter:
    """CPU of server and worker between two moments."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._server, self._worker = target.server.cpu_s(), target.worker.cpu_s()

    def per(self, count: int) -> Figures:
        server = self._target.server.cpu_s() - self._server
        worker = self._target.worker.cpu_s() - self._worker
        return {"server_cpu_ms": server / count * 1e3, "worker_cpu_ms": worker / count * 1e3}


async def seq(target: Target, size: Size) -> Figures:
    """A closed loop: as many runs start as have ended."""
    client, marks = target.client, target.marks
    marks.forget()
    meter = Meter(target)
    begin = time.monotonic()
    until = begin + size.seq_s
    await client.events([_sequence(target, STEPS) for _ in range(IN_FLIGHT)])
    running = IN_FLIGHT
    while running:
        now = time.monotonic()
        if now > until + LIMIT_S:
            raise TimeoutError(f"{running} runs of {target.name} did not end")
        ended = sum(name == "done" for _, name in marks.read())
        running -= ended
        if ended and now < until:
            await client.events([_sequence(target, STEPS) for _ in range(ended)])
            running += ended
        await asyncio.sleep(0.004)
    count = len(marks.of) * STEPS
    settled = begin + size.seq_s / 4  # before, everybody begins at once
    inside = sum(settled <= at < until for run in marks.of.values() for name, at in run.items() if name != "done")
    return {"per_s": inside / (until - settled), **_spread(_steps(target)), **meter.per(count)}


async def one(target: Target, size: Size) -> Figures:
    target.marks.forget()
    meter = Meter(target)
    runs = -(-size.one_steps // STEPS)
    for _ in range(runs):
        await _ended(target, _sequence(target, STEPS))
    return {**_spread(_steps(target)), **meter.per(runs * STEPS)}


async def first(target: Target, size: Size) -> Figures:
    target.marks.forget()
    meter = Meter(target)
    times = []
    for _ in range(size.first):
        sent = time.monotonic()
        run = await _ended(target, _sequence(target, 1))
        times.append(run["s0"] - sent)
        await asyncio.sleep(0.01)  # the end of a run costs a commit too; it is not this one's
    return {**_spread(times), **meter.per(size.first)}


async def fan(target: Target, size: Size) -> Figures:
    target.marks.forget()
    meter = Meter(target)
    times = []
    for _ in range(size.fans):
        sent = time.monotonic()
        run = await _ended(target, {"name": "bench/fan", "data": {"key": target.key(), "width": WIDTH}})
        times.append(run["done"] - sent)
    return {**_spread(times), **meter.per(size.fans * WIDTH)}


async def parked(target: Target, size: Size) -> Figures:
    client, marks = target.client, target.marks
    marks.forget()
    before, meter = target.server.rss_bytes(), Meter(target)
    begin = time.monotonic()
    for _ in range(0, size.parked, BATCH):
        await client.events([{"name": "bench/nap", "data": {"key": target.key()}} for _ in range(BATCH)])
    while len(marks.of) < size.parked:
        marks.read()
        if time.monotonic() > begin + LIMIT_S:
            raise TimeoutError(f"{size.parked - len(marks.of)} runs of {target.name} did not begin")
        await asyncio.sleep(0.01)
    took = max(run["s0"] for run in marks.of.values()) - begin
    await asyncio.sleep(1.0)  # until the last ones sleep
    kib = (target.server.rss_bytes() - before) / size.parked / 1024
    return {"per_s": size.parked / took, **meter.per(size.parked), "server_kib": kib}


async def batches(target: Target, size: Size) -> Figures:
    return await _events(target, size, BATCH)


async def singles(target: Target, size: Size) -> Figures:
    return await _events(target, size, 1)


WORKLOADS: dict[str, Callable[[Target, Size], Awaitable[Figures]]] = {
    "seq": seq,
    "one": one,
    "first": first,
    "fan": fan,
    "parked": parked,
    "batches": batches,
    "singles": singles,
}
TITLES = {
    "seq": f"{IN_FLIGHT} runs in flight, per step",
    "one": "one run at a time, step to step",
    "first": "event to first step",
    "fan": f"{WIDTH}-way fan-out, event to join",
    "parked": "runs that go to sleep",
    "batches": f"events in batches of {BATCH}",
    "singles": f"single events, {SENDERS} senders",
}


def _sequence(target: Target, steps: int) -> dict[str, object]:
    return {"name": "bench/seq", "data": {"key": target.key(), "steps": steps}}


async def _ended(target: Target, event: dict[str, object]) -> dict[str, float]:
    """The marks of the run that the event starts."""
    data = event["data"]
    assert isinstance(data, dict)
    key = data["key"]
    await target.client.events([event])
    await target.marks.wait(key, "done", limit_s=LIMIT_S)
    return target.marks.of[key]


def _steps(target: Target) -> list[float]:
    """The times from each step to the next."""
    times = []
    for run in target.marks.of.values():
        starts = [run[f"s{number}"] for number in range(STEPS) if f"s{number}" in run]
        times += [later - sooner for sooner, later in pairwise(starts)]
    return times


def _spread(times_s: list[float]) -> Figures:
    return {"p50_ms": percentile(times_s, 0.5) * 1e3, "p99_ms": percentile(times_s, 0.99) * 1e3}


async def _events(target: Target, size: Size, batch: int) -> Figures:
    order = {"id": "o-4711", "total": 129.5, "currency": "eur", "items": [{"sku": f"s-{n}", "n": n} for n in range(6)]}
    body = json.dumps([{"name": "bench/unheard", "data": order}] * batch).encode()
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
    return {"per_s": accepted / took, **_spread(times), **meter.per(accepted)}
