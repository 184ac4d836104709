"""Ordinary asyncio code around steps ends with the same result whether it stays in memory, is evicted at each
wait, or is called again for each step; and no step body runs twice."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest

import stepwell
from stepwell.sdk.function import Function
from tests.sdk.loops import LOOPS, run_on
from tests.sdk.parking_cases import CASES, Marks
from tests.sdk.recorder import Mode, Server


def function_of(name: str, marks: Marks) -> Function[Any, Any]:
    case: Any = CASES[name]
    handler = functools.partial(case.handler, marks=marks)
    return stepwell.Service("cases").function(on="test/started", id=name)(handler)


SIX = ["gather", "task_group", "queue", "anyio_group", "wait_first_completed", "every_kind_of_wait"]


@pytest.mark.parametrize("mode", ["live", "evicted", "replay"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_hundred_and_twenty_runs_of_six_shapes_stay_apart(loop: str, mode: Mode) -> None:
    async def all_at_once() -> None:
        marks = [(name, Marks()) for name in SIX for _ in range(20)]
        servers = [Server(function_of(name, one), answers=CASES[name].answers) for name, one in marks]
        recorded = await asyncio.gather(*(server.run(mode) for server in servers))
        for run, (name, one) in zip(recorded, marks, strict=True):
            assert (name, run.output, sorted(one.bodies)) == (name, CASES[name].output, sorted(CASES[name].bodies))

    run_on(loop, all_at_once())


@pytest.mark.parametrize("mode", ["live", "evicted", "replay"])
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", CASES)
def test_a_shape_ends_right_and_runs_each_step_once(name: str, loop: str, mode: Mode) -> None:
    case, marks = CASES[name], Marks()
    server = Server(function_of(name, marks), answers=case.answers, retries=case.retries)

    recorded = run_on(loop, server.run(mode))

    assert recorded.output == case.output
    assert sorted(marks.bodies) == sorted(case.bodies)
    assert marks.finishing == case.finishing
