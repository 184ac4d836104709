"""The function of the simulator that starts by the clock: its judge sees what is wrong."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace as changed

from stepwell.model.event import TICK
from stepwell.model.ids import EventKey, derived_ulid
from stepwell.store.base import Outcome, Transition
from stepwell.testing.clockwork import EACH_OCCURRENCE, RETIRED_MS, SLUG
from stepwell.testing.simulation import Simulation, Violation
from stepwell.testing.verdict import Verdict

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")


def with_a_clock() -> Simulation:
    """The first seed that has one."""
    for seed in range(100):
        simulation = Simulation(seed)
        if not simulation.clockwork.over:
            return simulation
    raise AssertionError("no seed has one")


def test_about_an_eighth_of_the_seeds_have_a_clock() -> None:
    assert 15 < sum(not Simulation(seed).clockwork.over for seed in range(200)) < 40


def test_a_function_starts_by_the_clock_all_the_time() -> None:
    simulation = with_a_clock()
    simulation.play()
    assert sum(row.function == SLUG for row in simulation.store.run_rows.values()) > RETIRED_MS // 2 // 11_000


def test_an_occurrence_that_never_comes_is_a_violation() -> None:
    simulation = with_a_clock()
    apply = simulation.store.apply
    lost = 0

    def forgetful(transition: Transition) -> Outcome:
        nonlocal lost
        well_at = simulation.clockwork._well_at
        if 0 < well_at < simulation.scheduler.now and any(event.name == TICK for event in transition.events):
            lost += 1
            if lost == 1:
                transition = msgspec.structs.replace(
                    transition, events=(), jobs=tuple(j for j in transition.jobs if j.kind != "match")
                )
        return apply(transition)

    simulation.store.apply = forgetful  # type: ignore[method-assign]
    with pytest.raises(Violation, match="never came") as found:
        simulation.play()
    assert found.value.invariant == EACH_OCCURRENCE


def test_an_occurrence_that_comes_twice_is_a_violation() -> None:
    simulation = with_a_clock()
    simulation.play()
    events = simulation.store.event_rows
    first = next(event for event in events.values() if event.name == TICK)
    twin = EventKey(f"{first.key[:10]}{derived_ulid(0, 'twin')[10:]}")
    events[twin] = changed(first, key=twin)
    with pytest.raises(Violation, match="came twice"):
        Verdict(simulation).give()


def test_an_occurrence_without_a_run_is_a_violation() -> None:
    simulation = with_a_clock()
    simulation.play()
    store = simulation.store
    run = next(row.id for row in store.run_rows.values() if row.function == SLUG)
    del store.run_rows[run]
    with pytest.raises(Violation, match="started 0 runs"):
        Verdict(simulation).give()
