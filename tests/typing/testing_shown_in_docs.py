"""Tests that users write, and what checkers know of them. Never run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

import stepwell
from stepwell.testing import FinishedRun, RecordedStep


@dataclass
class Order:
    id: str


@dataclass
class Receipt:
    id: str


service = stepwell.Service("shop")
placed = stepwell.event("shop/order.placed", Order)
cancelled = stepwell.event("shop/order.cancelled", Receipt)


@service.function(on=placed | cancelled)
async def ship(ctx: stepwell.Context[Order | Receipt]) -> list[Receipt]:
    return []


@service.function(on=stepwell.cron("@daily"))
def nightly(ctx: stepwell.SyncContext[None]) -> int:
    return 1


def shipped() -> None:
    run = stepwell.testing.run(ship, placed(Order("o1")))
    assert_type(run, FinishedRun[list[Receipt]])
    assert_type(run.output[0].id, str)
    assert_type(run.steps["charge"], RecordedStep)
    assert_type(run.steps["charge"].completed, bool)
    assert_type(run.events_sent, list[stepwell.Event[Any]])
    assert_type(run.took, timedelta)
    assert_type(run.error, stepwell.RunFailed | None)
    batch = stepwell.testing.run(ship, [placed(Order("o1")), placed(Order("o2"))], crash_after_each_step=True)
    assert_type(batch.output, list[Receipt])
    answered = stepwell.testing.run(
        ship,
        cancelled(Receipt("r1")),
        events=[placed(Order("o1"))],
        functions=[nightly],
        invoke={"tally": 5},
        steps={"charge": Receipt("r1"), "fail": ValueError("no")},
    )
    assert_type(answered.output, list[Receipt])
    assert_type(stepwell.testing.run(nightly).output, int)


async def shipped_async() -> None:
    run = await stepwell.testing.run_async(ship, placed(Order("o1")))
    assert_type(run.output, list[Receipt])


def refused() -> None:
    stepwell.testing.run(nightly, placed(Order("o1")))  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    stepwell.testing.run(ship)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    stepwell.testing.run(ship, placed(Order("o1")), step={})  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
