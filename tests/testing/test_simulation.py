"""The simulator itself: it tells the same story twice, and its judges see what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import get_args

import msgspec
import pytest
from msgspec.structs import replace as changed

from stepwell.model import journal, message
from stepwell.model.job import Job
from stepwell.store.base import RunWrite, Transition
from stepwell.testing import simulate
from stepwell.testing.faulty import MESSAGE_TYPES
from stepwell.testing.simulation import Simulation, Violation
from stepwell.testing.verdict import Verdict

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")


def test_some_seeds_end_as_they_must() -> None:
    results = [Simulation(seed).play() for seed in range(40)]
    assert sum(result.transitions for result in results) > 2_000
    assert sum(result.crashes for result in results) > 20
    assert all(result.runs >= 3 for result in results)


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
        timers = [job for job in transition.jobs if job.kind == "timer" and not job.id.endswith(".finish")]
        if timers and not lost:
            lost.extend(timers)
            kept = tuple(job for job in transition.jobs if job is not timers[0])
            transition = msgspec.structs.replace(transition, jobs=kept)
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
            transition = msgspec.structs.replace(transition, run=twice)
        return apply(transition)

    simulation.store.apply = doubling  # type: ignore[method-assign]
    with pytest.raises(Violation) as caught:
        simulation.play()
    assert caught.value.invariant == "one result"


def test_a_seed_in_which_too_little_happens_is_a_violation() -> None:
    simulation = Simulation(10)
    simulation._plan_events = lambda: None  # type: ignore[method-assign]
    with pytest.raises(Violation, match=r"too small: 0 runs of 3, no parallel group .*, no wait") as caught:
        simulation.play()
    assert caught.value.invariant == "enough to do"


def test_an_event_from_before_the_look_back_is_a_violation() -> None:
    simulation = Simulation(11)
    simulation.play()
    entries, number = next(
        (entries, number)
        for entries in simulation.store.journals.values()
        for number, entry in enumerate(entries)
        if isinstance(entry, journal.WaitStarted)
        and any(isinstance(end, journal.StepCompleted) and end.event and end.step == entry.step for end in entries)
    )
    entries[number] = changed(entries[number], since=simulation.now())
    with pytest.raises(Violation, match=r"got an event that is \d+ ms too old"):
        Verdict(simulation).give()


@pytest.mark.parametrize(
    ("whose", "text"), [("its own", "by the event that started it"), ("an old one", "by an event from 1 ms before it")]
)
def test_a_run_cancelled_by_a_wrong_event_is_a_violation(whose: str, text: str) -> None:
    simulation, entries = _with_a_run_cancelled_by_an_event()
    end = entries[-1]
    assert isinstance(end, journal.RunCancelled)
    assert end.event is not None
    row = next(row for row in simulation.store.run_rows.values() if simulation.store.journals[row.id] is entries)
    assert row.event is not None
    if whose == "its own":
        entries[-1] = changed(end, event=row.event)
    else:
        events = simulation.store.event_rows
        key = next(key for key in events if key == end.event)
        events[key] = changed(events[key], received_at=row.created_at - 1)
    with pytest.raises(Violation, match=text):
        Verdict(simulation).give()


def _with_a_run_cancelled_by_an_event() -> tuple[Simulation, list[journal.Entry]]:
    for seed in range(200):
        simulation = Simulation(seed)
        simulation.play()
        for entries in simulation.store.journals.values():
            end = entries[-1]
            if isinstance(end, journal.RunCancelled) and end.event is not None:
                return simulation, entries
    raise AssertionError("no seed has one")


def test_every_message_is_among_those_that_nodes_die_of() -> None:
    names = {one.__name__ for one in get_args(message.Message)}
    assert names - set(MESSAGE_TYPES) == {"Logged"}


def test_many_seeds_have_to_come_to_many_transitions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(simulate, "MANY_SEEDS", 2)
    arguments = range(2), None, 1
    assert simulate._play_many(*arguments, demand=True) == 1
    told = capsys.readouterr().out
    assert "too little happens: 2 seeds must come to 2000000 transitions" in told
    assert "transitions per CPU s" in told
    monkeypatch.setattr(simulate, "MANY_TRANSITIONS", 20)
    assert simulate._play_many(*arguments, demand=True) == 0
