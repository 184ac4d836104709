"""An expression that no event of that shape can match says so, once, and costs nobody else anything."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from stepwell.engine.expr import MismatchKind
from stepwell.model import message, op
from stepwell.model.dispatch import Dispatch, Memo
from stepwell.model.event import DEV_ENV, Event, event_body
from stepwell.model.function import Function, Service, Transport, Trigger
from stepwell.model.ids import EventKey, JobId, StepId, step_id
from stepwell.model.job import RunStatus
from stepwell.node.mismatches import LINES, REASONS, REMEMBERED, Mismatches
from stepwell.node.node import Node
from stepwell.store.memory import MemoryStore
from stepwell.testing.world import START, Scheduler, VirtualWorld

WAIT = step_id("paid")
MISSING, FAILED = MismatchKind.MISSING, MismatchKind.FAILED


class Waiters:
    """A performer of functions that wait for `shop/paid`, each by the expression its event carries, and end."""

    def __init__(self, deliver: Callable[..., None]) -> None:
        self._deliver = deliver

    def perform(self, dispatch: Dispatch) -> None:
        wait = op.WaitForEvent(
            step=WAIT, name="paid", event="shop/paid", expression=dispatch.function.slug, for_ms=60_000
        )
        done = any(memo.step == WAIT for memo in dispatch.memos)
        ops: tuple[op.Op, ...] = (op.Completed(step=StepId(""), name=""),) if done else (wait,)
        self._deliver(dispatch.run, dispatch.job, dispatch.fence, message.Replied(dispatch.job, ops))

    def deliver_result(self, call: JobId, memo: Memo, news: int) -> None: ...
    def deliver_retry(self, call: JobId, step: StepId, attempt: int, news: int) -> None: ...
    def acknowledge(self, call: JobId, number: int, news: int) -> None: ...
    def stop(self, call: JobId, reason: str) -> None: ...
    def ended(self, call: JobId) -> None: ...
    async def close(self) -> None: ...


class Shop:
    """A node on which each function is named by the expression it waits with."""

    def __init__(self, *waits: str, condition: str | None = None) -> None:
        self.scheduler = Scheduler()
        self.world = VirtualWorld(self.scheduler)
        self.store = MemoryStore(self.world)
        waiters = Waiters(lambda *what: self.node.deliver(*what))
        self.node = Node("a", epoch=1, store=self.store, world=self.world, performer=waiters)
        triggers = (Trigger(event="shop/order", expression=condition),)
        functions = tuple(Function(slug=wait, name=wait, service="shop", triggers=triggers) for wait in waits)
        self.world.spawn(self.node.start())
        self.pass_time()
        self.node.registry.put(Service(name="shop", transport=Transport.HTTP, functions=functions))

    def pass_time(self, milliseconds: int = 2_000) -> None:
        self.scheduler.run_until(self.scheduler.now + milliseconds)
        assert self.world.errors == []

    def send(self, name: str, **data: Any) -> None:
        now = self.node.world.now()
        key = EventKey(self.node.new_key())
        body = event_body(name=name, id=key, ts=now, data=data)
        event = Event(key=key, internal_id=key, id=key, name=name, ts=now, received_at=now, body=body)
        self.world.spawn(self.node.accept(DEV_ENV, [event]))
        self.pass_time()

    def completed(self) -> list[str]:
        rows = self.store.run_rows.values()
        return sorted(row.function for row in rows if row.status is RunStatus.COMPLETED)


def test_two_waits_that_cannot_match_say_why_and_eight_others_resume(caplog: pytest.LogCaptureFixture) -> None:
    good = [f"async.data.order == event.data.order && {n} > 0" for n in range(1, 9)]
    missing, unlike = "async.data.orderid == event.data.order", "async.data.order == '7'"
    shop = Shop(*good, missing, unlike)
    shop.send("shop/order", order=7)
    with caplog.at_level(logging.WARNING, logger="stepwell.node"):
        shop.send("shop/paid", order=7)

    assert shop.completed() == sorted(good)
    assert shop.node.matching.mismatches == {"failed": 0, "missing": 1, "unlike": 1}
    told = "\n".join(record.getMessage() for record in caplog.records)
    assert "async.data.orderid" in told
    assert "is missing" in told
    (run,) = (row.id for row in shop.store.run_rows.values() if row.function == unlike)
    assert f"step {WAIT} of run {run} (unlike): the condition is false: async.data.order is a number" in told


@pytest.mark.parametrize(
    ("wait", "kind"),
    [
        ("async.data.gone > 5", "missing"),
        ("async.data.word > 5", "failed"),
        ("async.data.order in ['7']", "unlike"),
    ],
)
def test_a_wait_without_an_index_says_why_too(wait: str, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop(wait)
    shop.send("shop/order", order=7)
    for _ in range(3):
        shop.send("shop/paid", order=7, word="x")

    assert shop.completed() == []
    assert shop.node.matching.mismatches[kind] >= 3
    assert sum("of run" in record.getMessage() for record in caplog.records) == 1


def test_another_order_is_nothing_to_speak_of(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop("async.data.order == event.data.order", "async.data.order > 100")
    shop.send("shop/order", order=7)
    shop.send("shop/paid", order=8)

    assert not any(shop.node.matching.mismatches.values())
    assert caplog.records == []


def test_a_trigger_that_cannot_fit_names_its_function(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop("anything", condition="event.data.amout > 5")
    shop.send("shop/order", amount=7)

    assert shop.store.run_rows == {}
    assert shop.node.matching.mismatches == {"failed": 0, "missing": 1, "unlike": 0}
    (record,) = caplog.records
    assert "a trigger of function anything (missing)" in record.getMessage()
    assert "event.data.amout is missing or null" in record.getMessage()


def test_an_event_gives_a_bounded_number_of_reasons() -> None:
    mismatches = Mismatches()
    look = mismatches.of("shop/paid", START)
    for number in range(REASONS + 30):
        look.into("a step", f"event.data.x{number} == 1", {"event": {}})
    assert mismatches.counts["missing"] == REASONS


def test_reasons_are_logged_once_few_a_minute_and_remembered_in_bounds(caplog: pytest.LogCaptureFixture) -> None:
    mismatches = Mismatches()
    for number in range(3 * REMEMBERED):
        mismatches.tell("a step", "shop/paid", f"x{number} == 1", MISSING, "because", START)
    assert len(caplog.records) == LINES + 1
    assert len(mismatches._told) == REMEMBERED

    caplog.clear()
    for _ in range(5):
        mismatches.tell("a step", "shop/paid", "new == 1", FAILED, "because", START + 60_000)
    assert len(caplog.records) == 1
    assert mismatches.counts == {"failed": 5, "missing": 3 * REMEMBERED, "unlike": 0}
