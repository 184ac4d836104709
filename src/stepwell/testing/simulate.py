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

from stepwell.testing.faulty import MESSAGE_TYPES, POINTS
from stepwell.testing.simulation import Simulation, Violation


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m stepwell.testing.simulate", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="play this one and tell its story")
    parser.add_argument("--seconds", type=float, help="stop after so many seconds")
    parser.add_argument("--no-coverage", action="store_true", help="do not demand that every crash point was hit")
    options = parser.parse_args(arguments)
    logging.getLogger("stepwell.node").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", RuntimeWarning)  # coroutines that die before their first step
    if options.seed is not None:
        return _play_one(options.seed)
    return _play_many(options.first, options.seeds, options.seconds, demand=not options.no_coverage)


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


def _play_many(first: int, seeds: int, seconds: float | None, *, demand: bool) -> int:
    began = time.perf_counter()
    transitions = runs = crashes = played = 0
    points: dict[tuple[str, str], int] = {}
    gc.disable()  # a universe is one big knot of references: untied in one go every few seeds, not while it runs
    for seed in range(first, first + seeds):
        try:
            result = Simulation(seed).play()
        except Violation as violation:
            print(violation)
            print(f"\nto see it again: make sim SEED={seed}")
            print(f"caught by {violation.invariant!r} after {played + 1} seeds")
            return 1
        played += 1
        transitions += result.transitions
        runs += result.runs
        crashes += result.crashes
        for key, count in result.points.items():
            points[key] = points.get(key, 0) + count
        if played % 20 == 0:
            gc.collect()
        if seconds is not None and time.perf_counter() - began > seconds:
            break
    took = time.perf_counter() - began
    print(f"{played} seeds, {runs} runs, {transitions} transitions, {crashes} crashes in {took:.1f} s")
    print(f"{transitions / took:.0f} transitions/s, {transitions / played:.0f} a seed\n")
    missing = _print_points(points)
    if missing and demand:
        print(f"\nnever hit: {', '.join(f'{kind} {point}' for kind, point in missing)}")
        return 1
    return 0


def _print_points(points: dict[tuple[str, str], int]) -> list[tuple[str, str]]:
    """The table of deaths. Returns the pairs that are missing."""
    print(f"{'nodes died':<26}" + "".join(f"{point:>38}" for point in POINTS))
    for kind in MESSAGE_TYPES:
        print(f"{kind:<26}" + "".join(f"{points.get((kind, point), 0):>38}" for point in POINTS))
    return [(kind, point) for kind in MESSAGE_TYPES for point in POINTS if not points.get((kind, point))]


if __name__ == "__main__":
    sys.exit(main())
