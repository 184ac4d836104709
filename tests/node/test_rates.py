"""Rate limit, idempotency and throttle: which events start runs, and when."""

from __future__ import annotations

from typing import Any

from stepwell.model import message
from stepwell.model.function import Rate, Service, Transport
from stepwell.model.ids import StepId
from stepwell.model.job import RunStatus
from stepwell.model.op import Invoke
from stepwell.testing.node import InMemoryNode
from tests.node.cases import a, reply, service

MINUTE = 60_000
DAY = 86_400_000


def with_rates(**rates: Any) -> Service:
    return service(Transport.HTTP, **rates)


def test_events_above_a_rate_limit_start_nothing_and_are_counted() -> None:
    node = InMemoryNode(with_rates(rate_limit=Rate(1, MINUTE)))
    for _ in range(3):
        node.send("go/f")
    assert len(node.runs()) == 1
    assert node.node.matching.limited == {"f": 2}
    node.pass_time(seconds=61)
    node.send("go/f")
    assert len(node.runs()) == 2


def test_each_value_of_the_key_has_a_rate_of_its_own_and_false_has_none() -> None:
    node = InMemoryNode(with_rates(rate_limit=Rate(1, MINUTE, key="event.data.user")))
    for user in ("x", "x", "y", False, False):
        node.send("go/f", {"user": user})
    assert len(node.runs()) == 4


def test_idempotency_starts_one_run_a_day() -> None:
    node = InMemoryNode(with_rates(idempotency=Rate(1, DAY, key="event.data.cart")))
    for cart in ("a", "b", "a"):
        node.send("go/f", {"cart": cart})
    node.pass_time(hours=23)
    node.send("go/f", {"cart": "a"})
    assert len(node.runs()) == 2
    node.pass_time(hours=2)
    node.send("go/f", {"cart": "a"})
    assert len(node.runs()) == 3


def test_a_throttle_delays_starts_and_nothing_else() -> None:
    node = InMemoryNode(with_rates(throttle=Rate(1, MINUTE, 1)))
    for _ in range(4):
        node.send("go/f")
    assert (len(node.runs()), len(node.worker.calls)) == (4, 2)
    node.pass_time(seconds=61)
    assert len(node.worker.calls) == 3
    call = node.worker.calls[0]
    node.answer(call, message.Raised(call.job, b'{"name":"E","message":"x"}'))
    node.pass_time(seconds=61)
    assert len(node.worker.calls) == 4
    for call in list(node.worker.calls):
        node.answer(call, message.Returned(call.job, b"1"))
    assert [row.status for row in node.runs()] == [RunStatus.COMPLETED] * 4


def test_events_that_are_matched_together_take_turns() -> None:
    node = InMemoryNode(with_rates(throttle=Rate(2, MINUTE, 1)))
    node.do(node.node.accept("00000000-0000-4000-b000-000000000000", [node.event("go/f") for _ in range(6)]))
    assert (len(node.runs()), len(node.worker.calls)) == (6, 2)
    node.pass_time(minutes=1)
    assert len(node.worker.calls) == 4


def test_two_nodes_keep_one_rate() -> None:
    one = InMemoryNode(with_rates(rate_limit=Rate(1, MINUTE)), name="one")
    two = InMemoryNode(name="two", store=one.store, scheduler=one.scheduler)
    one.send("go/f")
    two.send("go/f")
    one.pass_time(seconds=61)
    two.send("go/f")
    one.send("go/f")  # it believes what it wrote a minute ago
    assert len(one.runs()) == 2


def test_two_nodes_that_match_at_the_same_time_start_one_run() -> None:
    one = InMemoryNode(with_rates(rate_limit=Rate(1, MINUTE)), name="one")
    two = InMemoryNode(name="two", store=one.store, scheduler=one.scheduler)
    first, second = one.event("go/f"), two.event("go/f")
    one.world.spawn(one.node.accept(first.env, [first]))
    two.world.spawn(two.node.accept(second.env, [second]))
    one.settle()
    assert len(one.runs()) == 1


def test_an_event_id_that_comes_twice_does_not_count_twice() -> None:
    node = InMemoryNode(with_rates(rate_limit=Rate(20, MINUTE, 2)))
    for _ in range(3):
        node.send("go/f", id="same")
    assert (len(node.runs()), node.node.matching.limited) == (1, {})
    node.send("go/f")
    node.send("go/f")
    assert len(node.runs()) == 3


def test_who_invokes_a_function_above_its_limit_is_told() -> None:
    node = InMemoryNode(service(Transport.HTTP, "parent", "child"))
    limited = service(Transport.HTTP, "child", rate_limit=Rate(1, MINUTE)).functions
    both = service(Transport.HTTP, "parent").functions + limited
    node.do(node.node.register(Service(name="shop", transport=Transport.HTTP, functions=both)))
    node.send("go/child")
    node.send("go/parent")
    call = next(call for call in node.worker.calls if call.function.slug == "parent")
    reply(node, call, Invoke(step=a("i"), name="i", function="child", for_ms=DAY))
    (again,) = (call for call in node.worker.calls if call.function.slug == "parent")
    assert again.memos[0].step == StepId(a("i"))
    assert again.memos[0].shape == "error"
    assert b"over its rate limit" in again.memos[0].value
