"""Runs that share a limit: who is called, who waits, and what gives a place to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from stepwell.model import message
from stepwell.model.event import DEV_ENV
from stepwell.model.function import Concurrency, Service, Transport
from stepwell.model.job import RunStatus
from stepwell.model.op import Offload, Sleep
from stepwell.node.reads.runs import run_trace, waiting_for
from stepwell.node.reads.trace_text import render
from stepwell.testing.node import InMemoryNode
from tests.node.cases import a, done, planned, reply, report, service, wait

if TYPE_CHECKING:
    from stepwell.model.dispatch import Dispatch


def limited(*limits: Concurrency, transport: Transport = Transport.HTTP, **details: object) -> Service:
    return service(transport, concurrency=limits or (Concurrency(1),), **details)


def called(node: InMemoryNode) -> list[str]:
    """The runs that are being called, in the order of their events."""
    runs = sorted(row.id for row in node.runs())
    return sorted("abcdefgh"[runs.index(call.run)] for call in node.worker.calls)


def returns(node: InMemoryNode, call: Dispatch) -> None:
    node.answer(call, message.Returned(call.job, b"1"))


def start(node: InMemoryNode, count: int = 3, **data: object) -> None:
    for number in range(count):
        node.send("go/f", {"n": number, **data})
        node.pass_time(milliseconds=10)


def test_as_many_as_the_limit_says_are_called_and_the_others_follow_in_order() -> None:
    node = InMemoryNode(limited(Concurrency(2)))
    start(node, 4)
    assert called(node) == ["a", "b"]
    returns(node, node.worker.calls[1])
    assert called(node) == ["a", "c"]
    returns(node, node.worker.calls[0])
    returns(node, node.worker.calls[0])
    returns(node, node.worker.calls[0])
    assert [row.status for row in node.runs()] == [RunStatus.COMPLETED] * 4
    assert node.store.job_rows == {}
    assert list(node.store.wrong_slots()) == []


def test_each_value_of_the_key_has_places_of_its_own() -> None:
    node = InMemoryNode(limited(Concurrency(1, "event.data.user")))
    for user in ("x", "x", "y", "x", "y"):
        node.send("go/f", {"user": user})
        node.pass_time(milliseconds=10)
    assert called(node) == ["a", "c"]


def test_functions_of_an_environment_share_a_key_if_they_say_so() -> None:
    shared = service(Transport.HTTP, "f", "g", concurrency=(Concurrency(1, "event.data.user", "env"),))
    node = InMemoryNode(shared)
    node.send("go/f", {"user": "x"})
    node.send("go/g", {"user": "x"})
    node.send("go/g", {"user": "y"})
    assert len(node.worker.calls) == 2
    own = service(Transport.HTTP, "f", "g", concurrency=(Concurrency(1, "event.data.user"),))
    node = InMemoryNode(own)
    node.send("go/f", {"user": "x"})
    node.send("go/g", {"user": "x"})
    assert len(node.worker.calls) == 2


def test_both_of_two_limits_must_have_room() -> None:
    node = InMemoryNode(limited(Concurrency(2), Concurrency(1, "event.data.user")))
    for user in ("x", "x", "x", "y", "z"):
        node.send("go/f", {"user": user})
        node.pass_time(milliseconds=10)
    assert called(node) == ["a", "d"]
    returns(node, node.worker.calls[1])
    assert called(node) in (["a", "e"], ["a", "b"])


@pytest.mark.parametrize("pause", ["sleep", "wait"])
def test_a_run_that_sleeps_or_waits_has_no_place(pause: str) -> None:
    node = InMemoryNode(limited())
    start(node, 2)
    assert called(node) == ["a"]
    op = Sleep(step=a("s"), name="s", for_ms=60_000) if pause == "sleep" else wait("w", "x/y", 60_000)
    reply(node, node.worker.calls[0], op)
    assert called(node) == ["b"]
    node.pass_time(seconds=61)
    assert called(node) == ["b"]
    returns(node, node.worker.calls[0])
    assert called(node) == ["a"]


def test_the_next_step_of_a_run_comes_before_runs_that_came_later() -> None:
    node = InMemoryNode(limited())
    start(node, 2)
    reply(node, node.worker.calls[0], done("one"))
    assert called(node) == ["a"]


def test_planned_steps_are_called_one_after_the_other() -> None:
    node = InMemoryNode(limited())
    start(node, 1)
    reply(node, node.worker.calls[0], planned("one"), planned("two"), planned("three"))
    for _ in range(3):
        (call,) = node.worker.calls
        assert call.target is not None
        reply(node, call, done({a("one"): "one", a("two"): "two", a("three"): "three"}[call.target]))
    assert node.worker.calls[0].target is None


def test_a_retry_takes_its_place_when_its_time_has_come() -> None:
    node = InMemoryNode(limited())
    start(node, 2)
    (call,) = node.worker.calls
    node.answer(call, message.Raised(call.job, b'{"name":"E","message":"x"}'))
    assert called(node) == ["b"]
    node.pass_time(minutes=30)
    assert called(node) == ["b"]  # the retry is due, and waits
    returns(node, node.worker.calls[0])
    (call,) = node.worker.calls
    assert (called(node), call.attempt) == (["a"], 1)
    returns(node, call)
    assert [row.status for row in node.runs()] == [RunStatus.COMPLETED] * 2


def test_a_retry_with_room_is_made_at_its_time() -> None:
    node = InMemoryNode(limited())
    start(node, 1)
    (call,) = node.worker.calls
    node.answer(call, message.Raised(call.job, b'{"name":"E","message":"x"}'))
    assert node.worker.calls == []
    node.pass_time(minutes=30)
    assert [call.attempt for call in node.worker.calls] == [1]


def test_a_cancelled_run_gives_its_place_to_the_next_and_one_in_line_leaves_it() -> None:
    node = InMemoryNode(limited())
    start(node, 3)
    first, second, _ = sorted(row.id for row in node.runs())
    node.do(node.node.cancel(second, "test"))
    node.do(node.node.cancel(first, "test"))
    assert called(node) == ["c"]
    assert list(node.store.wrong_slots()) == []


def test_a_function_in_memory_does_not_linger_with_a_place() -> None:
    node = InMemoryNode(limited(transport=Transport.SOCKET))
    start(node, 2)
    (call,) = node.worker.calls
    assert not call.lingers
    report(node, call, 1, Sleep(step=a("s"), name="s", for_ms=60_000))
    node.answer(call, message.Suspended(call.job, 0))
    assert called(node) == ["b"]
    unlimited = InMemoryNode(service(Transport.SOCKET))
    start(unlimited, 1)
    assert unlimited.worker.calls[0].lingers


def test_requests_of_the_server_need_a_place_too() -> None:
    node = InMemoryNode(limited())
    start(node, 2)
    reply(node, node.worker.calls[0], Offload(step=a("f"), name="f", kind="step.fetch", request=b"{}"))
    # Without a gateway the request fails at once and the run goes on, before the other that came later.
    assert called(node) == ["a"]


def test_a_limit_that_is_raised_or_removed_holds_for_those_who_wait() -> None:
    node = InMemoryNode(limited())
    start(node, 4)
    assert called(node) == ["a"]
    node.do(node.node.register(limited(Concurrency(3))))
    node.send("go/f", {})
    assert called(node) == ["a", "b", "c"]


def test_priority_decides_who_comes_first() -> None:
    node = InMemoryNode(limited(priority="event.data.p"))
    for priority in (0, 0, -100, 100, "no number", 10**9):
        node.send("go/f", {"p": priority})
        node.pass_time(milliseconds=10)
    order = []
    while node.worker.calls:
        order += called(node)
        returns(node, node.worker.calls[0])
    assert order == ["a", "f", "d", "b", "e", "c"]


def test_what_a_lost_node_did_goes_on_with_its_place() -> None:
    node = InMemoryNode(limited(), name="one")
    start(node, 2)
    other = InMemoryNode(store=node.store, scheduler=node.scheduler, name="two", epoch=1)
    node.node.stop()
    node.world.end()
    other.pass_time(seconds=60)
    (call,) = other.worker.calls
    (row,) = (row for row in other.runs() if row.id == call.run)
    assert row.id == min(row.id for row in other.runs())
    assert list(node.store.wrong_slots()) == []


def test_a_whole_run_keeps_its_place_while_it_sleeps() -> None:
    node = InMemoryNode(service(Transport.HTTP, run_concurrency=(Concurrency(1),)))
    start(node, 3)
    assert called(node) == ["a"]
    reply(node, node.worker.calls[0], Sleep(step=a("s"), name="s", for_ms=60_000))
    assert called(node) == []
    node.pass_time(seconds=61)
    assert called(node) == ["a"]
    returns(node, node.worker.calls[0])
    assert called(node) == ["b"]
    node.do(node.node.cancel(node.worker.calls[0].run, "test"))
    assert called(node) == ["c"]
    returns(node, node.worker.calls[0])
    assert node.store.job_rows == {}
    assert list(node.store.wrong_slots()) == []


def test_a_whole_run_keeps_its_place_when_its_node_is_lost() -> None:
    node = InMemoryNode(service(Transport.HTTP, run_concurrency=(Concurrency(1),)), name="one")
    start(node, 2)
    reply(node, node.worker.calls[0], Sleep(step=a("s"), name="s", for_ms=600_000))
    node.node.stop()
    node.world.end()
    other = InMemoryNode(store=node.store, scheduler=node.scheduler, name="two", epoch=1)
    other.pass_time(seconds=300)
    assert other.worker.calls == []
    other.pass_time(seconds=400)
    assert called(other) == ["a"]


def test_a_function_without_limits_has_jobs_without_slots() -> None:
    node = InMemoryNode(service(Transport.HTTP))
    start(node, 2)
    assert all(job.slots == () and job.rank == 0 for job in node.store.job_rows.values())
    assert node.store.book.places == {}


def test_the_number_of_a_limit_is_not_part_of_what_a_run_counts_for() -> None:
    node = InMemoryNode(limited(Concurrency(1, "event.data.user")))
    start(node, 1, user="x")
    (before,) = node.store.book.gates
    changed = limited(Concurrency(5, "event.data.user"))
    node.do(node.node.register(replace(changed, name="shop")))
    start(node, 1, user="x")
    assert list(node.store.book.gates) == [before]


def test_a_run_says_for_what_it_waits() -> None:
    node = InMemoryNode(limited(Concurrency(1, "event.data.user")))
    start(node, 2, user="x")
    (first, second) = (row.id for row in node.runs())
    seen = [node.do(run_trace(node.store, DEV_ENV, run)) for run in (first, second)]
    assert [trace.lacks if trace is not None else None for trace in seen] == [
        (),
        ("the concurrency of its function by event.data.user",),
    ]
    assert seen[1] is not None
    assert "waits for a slot of the concurrency of its function by event.data.user" in render(seen[1], node.now())
    assert node.do(waiting_for(node.store, node.runs())) == {
        second: ("the concurrency of its function by event.data.user",)
    }
