"""The simulator itself: it tells the same story twice, and its judges see what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from msgspec.structs import replace as changed

from stepwell.model import journal
from stepwell.model.job import Job
from stepwell.store.base import RunWrite, Transition
from stepwell.testing.simulation import Simulation, Violation

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")


def test_some_seeds_end_as_they_must() -> None:
    results = [Simulation(seed).play() for seed in range(40)]
    assert sum(result.transitions for result in results) > 2_000
    assert sum(result.crashes for result in results) > 20
    assert all(result.runs >= 1 for result in results)


def test_a_seed_tells_the_same_story_whatever_the_order_of_sets() -> None:
    stories = [
        subprocess.run(
            [sys.executable, "-m", "stepwell.testing.simulate", "--seed", "11"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert stories[0] == stories[1]
    assert len(stories[0].splitlines()) > 50


def test_a_lost_row_is_a_violation_that_names_the_seed_and_the_invariant() -> None:
    simulation = Simulation(11)
    apply = simulation.store.apply
    lost: list[Job] = []

    def forgetful(transition):  # type: ignore[no-untyped-def]
        timers = [job for job in transition.jobs if job.kind == "timer"]
        if timers and not lost:
            lost.extend(timers)
            kept = tuple(job for job in transition.jobs if job is not timers[0])
            transition = replace(transition, jobs=kept)
        return apply(transition)

    simulation.store.apply = forgetful  # type: ignore[method-assign]
    with pytest.raises(Violation, match=r"seed 11: progress: .* the timer of step") as caught:
        simulation.play()
    assert caught.value.invariant == "progress"


def test_a_second_result_is_a_violation() -> None:
    simulation = Simulation(11)
    apply = simulation.store.apply

    def doubling(transition: Transition):  # type: ignore[no-untyped-def]
        write = transition.run
        if write is not None and type(write.entries[-1]) is journal.StepCompleted:
            row = changed(write.row, seq=write.row.seq + 1)
            twice = RunWrite(row, write.expected_seq, (*write.entries, write.entries[-1]))
            transition = replace(transition, run=twice)
        return apply(transition)

    simulation.store.apply = doubling  # type: ignore[method-assign]
    with pytest.raises(Violation) as caught:
        simulation.play()
    assert caught.value.invariant == "one result"
