"""Debounce and batches: events that wait together, and the one run that they start."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from stepwell.model import message
from stepwell.model.event import DEV_ENV
from stepwell.model.function import Batch, Debounce, Rate, Service, Transport
from stepwell.model.job import JobKind
from stepwell.model.op import Invoke
from stepwell.model.payload import decode
from stepwell.testing.node import InMemoryNode
from tests.node.cases import a, reply, service

MINUTE = 60_000


def with_options(**options: Any) -> Service:
    return service(Transport.HTTP, **options)


def numbers(node: InMemoryNode) -> list[list[int]]:
    """What the runs began with: `n` of each of their events."""
    return [[decode(event)["data"]["n"] for event in call.events] for call in node.worker.calls]


def send(node: InMemoryNode, *several: int, **data: Any) -> None:
    for number in several:
        node.send("go/f", {"n": number, **data})


def test_the_last_event_starts_the_run_once_none_came_for_the_period() -> None:
    node = InMemoryNode(with_options(debounce=Debounce(5_000)))
    send(node, 1)
    node.pass_time(seconds=4)
    send(node, 2)
    node.pass_time(seconds=4)
    send(node, 3)
    node.pass_time(milliseconds=4_900)
    assert numbers(node) == []
    node.pass_time(milliseconds=200)
    assert numbers(node) == [[3]]
    node.pass_time(minutes=1)
    assert len(node.runs()) == 1
    send(node, 4)
    node.pass_time(seconds=6)
    assert numbers(node) == [[3], [4]]
    assert [job.kind for job in node.store.job_rows.values()] == [JobKind.CALL] * 2


def test_the_timeout_ends_an_endless_debounce() -> None:
    node = InMemoryNode(with_options(debounce=Debounce(1_000, timeout_ms=10_000)))
    for number in range(42):
        send(node, number)
        node.pass_time(milliseconds=500)
    assert numbers(node) == [[20], [41]] or numbers(node) == [[19], [39]] or numbers(node) == [[20], [40]]


def test_each_key_is_debounced_by_itself() -> None:
    node = InMemoryNode(with_options(debounce=Debounce(1_000, "event.data.user")))
    send(node, 1, 2, user="x")
    send(node, 3, user="y")
    node.pass_time(seconds=2)
    assert sorted(numbers(node)) == [[2], [3]]


def test_an_older_event_changes_nothing() -> None:
    node = InMemoryNode(with_options(debounce=Debounce(1_000)))
    newer = node.event("go/f", {"n": 1})
    older = node.event("go/f", {"n": 2})
    node.do(node.node.accept(DEV_ENV, [newer]))
    node.do(node.node.accept(DEV_ENV, [replace(older, ts=newer.ts - 1)]))
    node.pass_time(seconds=2)
    assert numbers(node) == [[1]]


def test_a_full_batch_starts_at_once_and_a_part_filled_one_at_its_time() -> None:
    node = InMemoryNode(with_options(batch=Batch(3, 5_000)))
    send(node, 1, 2)
    assert numbers(node) == []
    send(node, 3)
    assert numbers(node) == [[1, 2, 3]]
    send(node, 4, 5)
    node.pass_time(seconds=4)
    assert numbers(node) == [[1, 2, 3]]
    node.pass_time(seconds=2)
    assert numbers(node) == [[1, 2, 3], [4, 5]]
    assert sorted(row.event_count for row in node.runs()) == [2, 3]


def test_events_that_come_together_fill_batches() -> None:
    node = InMemoryNode(with_options(batch=Batch(10, 5_000)))
    events = [node.event("go/f", {"n": number}) for number in range(95)]
    node.do(node.node.accept(DEV_ENV, events))
    node.pass_time(seconds=6)
    assert sorted(map(len, numbers(node))) == [5] + [10] * 9
    assert sorted(number for batch in numbers(node) for number in batch) == list(range(95))


def test_each_key_has_batches_of_its_own() -> None:
    node = InMemoryNode(with_options(batch=Batch(2, 5_000, "event.data.user")))
    send(node, 1, user="x")
    send(node, 2, user="y")
    send(node, 3, user="x")
    assert numbers(node) == [[1, 3]]


def test_an_event_for_which_the_condition_is_false_runs_alone() -> None:
    node = InMemoryNode(with_options(batch=Batch(2, 5_000, condition="event.data.n < 10")))
    send(node, 1, 100, 2)
    assert numbers(node) == [[100], [1, 2]]


def test_an_event_is_in_one_batch_however_often_it_comes() -> None:
    node = InMemoryNode(with_options(batch=Batch(3, 5_000)))
    for _ in range(3):
        node.send("go/f", {"n": 1}, id="same")
    node.pass_time(seconds=6)
    assert numbers(node) == [[1]]


def test_a_node_that_is_lost_leaves_its_window_to_others() -> None:
    node = InMemoryNode(with_options(batch=Batch(3, 5_000)), name="one")
    send(node, 1, 2)
    node.node.stop()
    node.world.end()
    other = InMemoryNode(store=node.store, scheduler=node.scheduler, name="two")
    other.pass_time(seconds=6)
    assert numbers(other) == [[1, 2]]


def test_two_nodes_fill_one_batch() -> None:
    one = InMemoryNode(with_options(batch=Batch(4, 5_000)), name="one")
    two = InMemoryNode(name="two", store=one.store, scheduler=one.scheduler)
    for number in range(6):
        send((one, two)[number % 2], number)
    one.pass_time(seconds=6)
    found = numbers(one) + numbers(two)
    assert sorted(map(len, found)) == [2, 4]
    assert sorted(number for batch in found for number in batch) == list(range(6))


def test_what_is_matched_again_after_a_crash_is_not_collected_again() -> None:
    node = InMemoryNode(with_options(batch=Batch(3, 5_000)))
    send(node, 1)
    event = next(iter(node.store.event_rows))
    again = node.event("go/f", {"n": 2})
    node.do(node.node.accept(DEV_ENV, [again]))
    (match,) = [job for job in node.store.job_rows.values() if job.kind is JobKind.WINDOW]
    node.do(node.node.matching.match(replace(match, kind=JobKind.MATCH, keys=(event,), id="m", fence=9)))
    node.pass_time(seconds=6)
    assert numbers(node) == [[1, 2]]


def test_a_rate_limit_counts_events_before_they_are_debounced() -> None:
    node = InMemoryNode(with_options(debounce=Debounce(1_000), rate_limit=Rate(1, MINUTE)))
    send(node, 1, 2)
    node.pass_time(seconds=2)
    assert numbers(node) == [[1]]
    assert node.node.matching.limited == {"f": 1}


def test_windows_of_a_throttled_function_start_one_after_the_other() -> None:
    node = InMemoryNode(with_options(batch=Batch(2, 5_000), throttle=Rate(1, MINUTE)))
    send(node, 1, 2, 3, 4)
    assert numbers(node) == [[1, 2]]
    node.pass_time(seconds=61)
    assert numbers(node) == [[1, 2], [3, 4]]


def test_an_invocation_does_not_wait_for_others() -> None:
    functions = (
        service(Transport.HTTP, "parent").functions
        + service(Transport.HTTP, "child", debounce=Debounce(MINUTE)).functions
    )
    node = InMemoryNode(Service(name="shop", transport=Transport.HTTP, functions=functions))
    node.send("go/parent")
    (call,) = node.worker.calls
    reply(node, call, Invoke(step=a("i"), name="i", function="child", for_ms=86_400_000))
    (child,) = node.worker.calls
    node.answer(child, message.Returned(child.job, b"5"))
    (again,) = node.worker.calls
    assert again.memos[0].value == b"5"
