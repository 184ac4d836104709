"""`python -m stepwell.testing.simulate`: play seeds, stop at the first that breaks an invariant.

--seeds 20000    as many, from --first on          --seed 7       just this one, with its whole story
--seconds 60     as many as fit in that time       --no-coverage  do not ask for every crash point
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stepwell.testing.faulty import IMPOSSIBLE, MESSAGE_TYPES, POINTS
from stepwell.testing.simulation import Simulation, Violation

if TYPE_CHECKING:
    from collections.abc import Mapping

CHUNK = 20
ENOUGH_SEEDS = 5_000
"""So many hit every crash point."""

MANY_SEEDS = 20_000
MANY_TRANSITIONS = 2_000_000
"""What so many seeds come to at least, or the universes have become too small."""


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m stepwell.testing.simulate", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="play this one and tell its story")
    parser.add_argument("--seconds", type=float, help="stop after so many seconds")
    parser.add_argument("--processes", type=int, default=1, help="how many at a time")
    parser.add_argument("--no-coverage", action="store_true", help="do not demand that every crash point was hit")
    options = parser.parse_args(arguments)
    _prepare()
    if options.seed is not None:
        return _play_one(options.seed)
    seeds = range(options.first, options.first + options.seeds)
    return _play_many(seeds, options.seconds, options.processes, demand=not options.no_coverage)


def _play_one(seed: int) -> int:
    simulation = Simulation(seed, story=True)
    try:
        result = simulation.play()
    except Violation as violation:
        print(violation)
        return 1
    print("\n".join(simulation.watcher.tail()))
    print(f"seed {seed}: {result.runs} runs, {result.transitions} transitions, {result.crashes} crashes; all is well")
    return 0


@dataclass(slots=True)
class _Totals:
    """What some seeds amounted to; or the first violation among them."""

    seeds: int = 0
    runs: int = 0
    transitions: int = 0
    crashes: int = 0
    cpu: float = 0.0  # seconds
    points: Counter[tuple[str, str]] = field(default_factory=Counter)
    violation: tuple[int, str, str] | None = None  # seed, invariant, story

    def add(self, other: _Totals) -> None:
        self.seeds += other.seeds
        self.runs += other.runs
        self.transitions += other.transitions
        self.crashes += other.crashes
        self.cpu += other.cpu
        self.points += other.points
        self.violation = self.violation or other.violation


def _prepare() -> None:
    logging.getLogger("stepwell.node").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", RuntimeWarning)  # coroutines that die before their first step
    gc.disable()  # universes are untied; the rest goes every few seeds
    gc.freeze()


def _play_some(seeds: range) -> _Totals:
    began = time.process_time()
    totals = _Totals()
    for seed in seeds:
        simulation = Simulation(seed)
        try:
            result = simulation.play()
        except Violation as violation:
            totals.violation = (seed, violation.invariant, str(violation))
            break
        simulation.untie()
        totals.add(_Totals(1, result.runs, result.transitions, result.crashes, points=Counter(result.points)))
    gc.collect()
    totals.cpu = time.process_time() - began
    return totals


def _play_many(seeds: range, seconds: float | None, processes: int, *, demand: bool) -> int:
    began = time.perf_counter()
    totals = _Totals()
    chunks = [seeds[first : first + CHUNK] for first in range(0, len(seeds), CHUNK)]
    with ProcessPoolExecutor(processes, initializer=_prepare) if processes > 1 else nullcontext() as pool:
        for some in pool.map(_play_some, chunks) if pool is not None else map(_play_some, chunks):
            totals.add(some)
            if totals.violation is not None or (seconds is not None and time.perf_counter() - began > seconds):
                if pool is not None:
                    pool.shutdown(wait=False, cancel_futures=True)
                break
    if totals.violation is not None:
        seed, invariant, story = totals.violation
        print(story)
        print(f"\nto see it again: make sim SEED={seed}")
        print(f"caught by {invariant!r} after {totals.seeds + 1} seeds")
        return 1
    took = time.perf_counter() - began
    speed, size = totals.transitions / totals.cpu, totals.transitions // totals.seeds
    print(f"{totals.seeds} seeds, {totals.runs} runs, {totals.transitions} transitions, {totals.crashes} crashes")
    print(f"{took:.1f} s, {totals.cpu:.1f} CPU s, {speed:.0f} transitions per CPU s, {size} transitions a seed\n")
    missing = _print_points(totals.points)
    if missing and demand and totals.seeds >= ENOUGH_SEEDS:
        print(f"\nnever hit: {', '.join(f'{kind} {point}' for kind, point in missing)}")
        return 1
    if totals.seeds == len(seeds) >= MANY_SEEDS and totals.transitions < MANY_TRANSITIONS:
        print(f"\ntoo little happens: {totals.seeds} seeds must come to {MANY_TRANSITIONS} transitions")
        return 1
    return 0


def _print_points(points: Mapping[tuple[str, str], int]) -> list[tuple[str, str]]:
    """The table of deaths. Returns the pairs that are missing."""
    print(f"{'nodes died':<26}" + "".join(f"{point:>38}" for point in POINTS))
    for kind in MESSAGE_TYPES:
        print(f"{kind:<26}" + "".join(f"{points.get((kind, point), 0):>38}" for point in POINTS))
    wanted = [(kind, point) for kind in MESSAGE_TYPES for point in POINTS if (kind, point) not in IMPOSSIBLE]
    return [pair for pair in wanted if not points.get(pair)]


if __name__ == "__main__":
    sys.exit(main())
