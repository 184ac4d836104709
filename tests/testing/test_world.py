"""Virtual time: what tests and the simulator stand on."""

from __future__ import annotations

import pytest

from stepwell.testing.world import START, Crashed, Scheduler, VirtualWorld


def test_time_passes_only_when_nothing_is_left_to_do() -> None:
    scheduler = Scheduler()
    seen: list[object] = []
    scheduler.after(365 * 86_400_000, lambda _: seen.append("a year later"))
    scheduler.soon(lambda _: seen.append("now"))
    scheduler.run_until(START + 366 * 86_400_000)
    assert seen == ["now", "a year later"]


def test_things_of_the_same_moment_happen_in_the_order_of_asking() -> None:
    scheduler = Scheduler()
    seen: list[object] = []
    for number in range(5):
        scheduler.after(10, seen.append, number)
    scheduler.run_until(START + 10)
    assert seen == [0, 1, 2, 3, 4]


def test_a_paused_process_does_in_the_end_what_came_meanwhile() -> None:
    scheduler = Scheduler()
    seen: list[object] = []
    world = VirtualWorld(scheduler)

    async def naps() -> None:
        await world.sleep(10)
        seen.append(world.now() - START)

    world.spawn(naps())
    world.call_at(START + 20, lambda: seen.append("alarm"))
    scheduler.run_until(START + 5)
    world.pause()
    scheduler.run_until(START + 100)
    assert seen == []
    scheduler.after(0, lambda _: world.unpause())
    scheduler.run_until(START + 100)
    assert seen == [100, "alarm"]


def test_a_crash_ends_all_tasks_of_that_process_and_no_other() -> None:
    scheduler = Scheduler()
    seen: list[object] = []
    dying, living = VirtualWorld(scheduler), VirtualWorld(scheduler)

    async def works(world: VirtualWorld, name: str) -> None:
        await world.sleep(10)
        seen.append(name)

    async def dies() -> None:
        raise Crashed("here")

    dying.spawn(works(dying, "dead"))
    living.spawn(works(living, "alive"))
    dying.spawn(dies())
    scheduler.run_until(START + 100)
    assert seen == ["alive"]
    assert not dying.alive


def test_a_clock_that_jumps_moves_neither_sleeps_nor_alarms() -> None:
    scheduler = Scheduler()
    seen: list[object] = []
    world = VirtualWorld(scheduler)
    world.call_at(world.now() + 1_000, lambda: seen.append(scheduler.now - START))
    world.skew_ms = 3_600_000
    scheduler.run_until(START + 5_000)
    assert seen == [1_000]


def test_an_error_that_escapes_a_task_is_kept_for_the_test() -> None:
    scheduler = Scheduler()
    world = VirtualWorld(scheduler)

    async def fails() -> None:
        raise ValueError("a bug")

    world.spawn(fails())
    scheduler.run_until(START)
    with pytest.raises(ValueError, match="a bug"):
        raise world.errors[0]
