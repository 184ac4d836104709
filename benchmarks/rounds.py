"""Rounds of measurements: in each the limits once, then every workload once for every target in turn.

Everything found is a line of a `Record`, which goes to a file at once: a later round may be interrupted. A line is

    {"machine": ..., "cores": ..., "at": ...}                                  first
    {"limits": {limit: figures}, "round": n}
    {"target": ..., "workload": ..., "round": n, "figures": {...}, "foreign_cores": cores that others used}
    {"target": ..., "workload": ..., "round": n, "error": what went wrong}

The last two also say store, nodes, and what kind of target it is.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import sys
import time
from collections.abc import Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.lifetimes import LIFETIMES
from benchmarks.limits import Limits
from benchmarks.live import LIVE
from benchmarks.models import MODELS
from benchmarks.processes import Foreign
from benchmarks.targets import Setup, Stepwell, Target, targets
from benchmarks.tasks import TASKS
from benchmarks.workloads import QUICK, WORKLOADS, Figures, Size, Workload

SHORT = WORKLOADS | MODELS | LIVE | TASKS
"""What is measured of targets that run, one after the other."""
WHOLE_LIVES = ("websocket", "official")
"""Whose memory, depth and recovery are measured when no target is named: minutes each, and others are like these."""


class Record:
    """What was found, in the order of finding it.

    Args:
        file: Gets every line at once.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.lines: list[dict[str, Any]] = []
        self._file = file

    def add(self, **line: Any) -> None:
        self.lines.append(line)
        if self._file is not None:
            with self._file.open("a") as out:
                out.write(json.dumps(line) + "\n")

    @staticmethod
    def read(file: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in file.read_text().splitlines() if line]


async def measure(
    setup: Setup,
    chosen: Sequence[str],
    workloads: Sequence[str],
    rounds: int,
    *,
    quick: bool,
    folder: Path,
    record: Record,
) -> None:
    """Everything of Stepwell that is named. Each round has servers of its own."""
    size = QUICK if quick else Size()
    limits = Limits(folder / "limits")
    short = {name: one for name, one in SHORT.items() if name in workloads}
    fresh = {name: LIFETIMES[name] for name in workloads if name in LIFETIMES}

    def make(name: str) -> Stepwell:
        return next(one for one in targets(setup) if one.name == name)

    begin(record)
    try:
        await limits.start()
        for number in range(1, rounds + 1):
            place, facts = folder / str(number), {"round": number, "store": setup.store, "nodes": setup.nodes}
            say(f"round {number} of {rounds}: limits")
            record.add(limits=await limits.measure(0.3 if quick else 1.0), round=number)
            if short:
                started = [make(name) for name in chosen]
                await in_turn(record, started, short, size, place, **facts)
            for workload, lifetime in fresh.items():
                for name in chosen if len(chosen) < len(targets(setup)) else WHOLE_LIVES:
                    say(f"round {number} of {rounds}: {workload} {name}")
                    figures = lifetime.figures(functools.partial(make, name), place / f"{name}-{workload}", size)
                    await noted(record, make(name), workload, figures, **facts)
    finally:
        limits.stop()
        say("")


async def in_turn(
    record: Record,
    chosen: Sequence[Target],
    workloads: Mapping[str, Workload],
    size: Size,
    place: Path,
    **facts: Any,
) -> None:
    """Start the targets, measure each workload for all of them, stop them. One that does not start is left out."""
    running = []
    try:
        for target in chosen:
            say(f"starting {target.name}")
            running.append(target)
            if not await noted(record, target, "start", _started(target, place / target.name, workloads), **facts):
                running.pop().stop()
        for name, workload in workloads.items():
            for target in running:
                if workload.only not in ("", target.name):
                    continue
                say(f"round {facts['round']}: {name} {target.name}")
                await noted(record, target, name, workload.measure(target, size), **facts)
    finally:
        for target in running:
            target.stop()


async def _started(target: Target, folder: Path, workloads: Collection[str]) -> Figures:
    begun = time.monotonic()
    await target.start(folder)
    took = time.monotonic() - begun
    if not (MODELS | LIVE).keys().isdisjoint(workloads):
        await target.start_provider()
    return {"took_s": took}


def begin(record: Record, **facts: Any) -> None:
    """The first line: where and when."""
    machine = f"{_processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    record.add(machine=machine, cores=os.cpu_count(), at=time.strftime("%Y-%m-%d %H:%M"), **facts)


async def noted(
    record: Record, target: Target, workload: str, taken: Coroutine[Any, Any, Figures], **facts: Any
) -> bool:
    """Record what a workload finds, or what goes wrong: then it is False."""
    foreign = Foreign(target.children())
    where = {"target": target.name, "title": target.title, "http": target.http, "workload": workload, **facts}
    try:
        figures = await taken
    except (TimeoutError, RuntimeError, OSError, EOFError) as err:
        record.add(**where, error=f"{type(err).__name__}: {str(err)[-1000:]}")
        say(f"{workload} {target.name}: {err!r}\n")
        return False
    others = {"foreign_cores": foreign.cores()} if foreign.complete else {}
    record.add(**where, figures=figures, **others)
    return True


def say(text: str) -> None:
    """Progress, for whoever waits."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
