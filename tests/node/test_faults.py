"""What users saw when stores refused, nodes disagreed and clocks were wrong; each found by the simulator."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from stepwell.model import message
from stepwell.model.dispatch import Dispatch
from stepwell.model.function import Transport
from stepwell.model.job import Claim
from stepwell.model.op import Invoke, Sleep, StepErrored
from stepwell.model.payload import INLINE_LIMIT_BYTES
from stepwell.node.large import stored
from stepwell.node.node import NodeSettings
from stepwell.store.base import Outcome, StoreUnavailable, Transition
from stepwell.store.memory import MemoryStore
from stepwell.testing.node import InMemoryNode
from tests.node.cases import a, done, names, planned, reply, report, service, wait

SEARCHING = NodeSettings(search_ms=1_000, lease_ms=6_000)


def two_nodes(transport: Transport = Transport.HTTP, *slugs: str) -> tuple[InMemoryNode, InMemoryNode]:
    first = InMemoryNode(service(transport, *slugs), name="first", settings=SEARCHING)
    second = InMemoryNode(name="second", store=first.store, scheduler=first.scheduler, settings=SEARCHING)
    return first, second


class Refusing(MemoryStore):
    """Refuses the next so many calls of a method."""

    refuse: dict[str, int]

    def _refused(self, method: str) -> None:
        if self.refuse.get(method, 0):
            self.refuse[method] -= 1
            raise StoreUnavailable("it is restarting")

    async def commit(self, transition: Transition) -> Outcome:
        self._refused("commit")
        return await super().commit(transition)

    async def load_run(self, *what):  # type: ignore[no-untyped-def]
        self._refused("load_run")
        return await super().load_run(*what)

    async def read_events(self, keys):  # type: ignore[no-untyped-def]
        self._refused("read_events")
        return await super().read_events(keys)

    async def wait_paths(self, env: str, event: str) -> list[str | None]:
        self._refused("wait_paths")
        return await super().wait_paths(env, event)

    async def events_since(self, *what):  # type: ignore[no-untyped-def]
        self._refused("events_since")
        return await super().events_since(*what)


def a_node_whose_store_may_refuse(transport: Transport = Transport.HTTP) -> tuple[InMemoryNode, Refusing]:
    plain = InMemoryNode(service(transport))
    store = Refusing(plain.store.clock)
    store.refuse = {}
    return InMemoryNode(service(transport), store=store, scheduler=plain.scheduler), store


def test_a_timer_is_not_dropped_because_this_node_remembers_an_older_state() -> None:
    first, second = two_nodes()
    first.send("go/f")
    (call,) = first.worker.calls
    reply(first, call, Sleep(step=a("nap"), name="nap", for_ms=60_000))
    first.world.pause()
    second.pass_time(seconds=61)  # the other node wakes the run
    (call,) = second.worker.calls
    reply(second, call, Sleep(step=a("second nap"), name="second nap", for_ms=60_000))
    second.world.pause()
    first.world.unpause()
    first.pass_time(seconds=70)

    assert [(one.run, one.target) for one in first.worker.calls] == [(call.run, None)]


def test_a_call_of_a_lost_node_is_made_again_by_one_that_remembers_an_older_state() -> None:
    first, second = two_nodes()
    first.send("go/f")
    (call,) = first.worker.calls
    reply(first, call, wait("w", "paid"))
    first.world.pause()
    second.send("paid")
    assert len(second.worker.calls) == 1
    second.world.pause()  # for ever
    first.world.unpause()
    first.pass_time(seconds=30)

    assert len(first.worker.calls) == 1
    assert names(first)[-2:] == ["CallEnded", "CallScheduled"]


def test_an_answer_from_before_a_long_pause_does_not_take_the_next_attempt_with_it() -> None:
    """F13: the frozen node is given the same job again while the old answer still lies in its mailbox."""
    node = InMemoryNode(service())
    node.send("go/f")
    (call,) = node.worker.calls
    node.store.give_back([Claim(call.job, 1)])
    (job,) = node.store.claim(node.store.nodes["node"], node.now(), 1)
    node.deliver_together(
        (call, message.Returned(call.job, b"1")),
        (replaced(call, fence=job.fence), message.CallLost(call.job, b"{}", free=True)),
    )

    assert [one.run for one in node.worker.calls] == [call.run]
    assert names(node) == ["RunStarted", "CallScheduled", "CallEnded", "CallScheduled"]


def replaced(call: Dispatch, *, fence: int) -> Dispatch:
    return msgspec.structs.replace(call, fence=fence)


@pytest.mark.parametrize("method", ["wait_paths", "commit", "read_events"])
def test_an_accepted_event_starts_its_run_although_the_store_refuses_for_a_while(method: str) -> None:
    node, store = a_node_whose_store_may_refuse()
    event = node.event("go/f")
    node.do(node.node.matching.accept(event.env, [event], Transition(), node.node.new_key()))  # type: ignore[arg-type]
    before = len(node.store.run_rows)
    another = node.event("go/f")
    node.world.spawn(node.node.accept(another.env, [another]))
    node.scheduler.soon(lambda _: store.refuse.update({method: 3}))
    node.pass_time(seconds=5)

    assert len(node.store.run_rows) == before + 1
    assert not any(job.kind == "match" for job in node.store.job_rows.values())


def test_looking_back_is_done_although_the_store_refuses_for_a_while() -> None:
    node, store = a_node_whose_store_may_refuse()
    node.send("go/f")
    node.send("paid")
    (call,) = node.worker.calls
    store.refuse["events_since"] = 2
    reply(node, call, wait("w", "paid"))
    node.pass_time(seconds=5)

    assert "StepCompleted" in names(node)


def test_a_call_that_is_found_due_is_made_although_the_store_refuses_for_a_while() -> None:
    node, store = a_node_whose_store_may_refuse()
    node.send("go/f")
    (call,) = node.worker.calls
    node.answer(call, message.Raised(call.job, error=b'{"name":"E","message":"no"}'))
    store.refuse["load_run"] = 3
    node.pass_time(minutes=2)

    assert [one.attempt for one in node.worker.calls] == [1]


def test_a_parent_learns_that_the_function_it_invoked_is_unknown_before_the_match_is_forgotten() -> None:
    node, store = a_node_whose_store_may_refuse()
    node.send("go/f")
    (call,) = node.worker.calls
    reply(node, call, Invoke(step=a("child"), name="child", function="nobody"))
    node.pass_time(seconds=1)

    assert "StepFailed" in names(node)
    assert not any(job.kind == "match" for job in store.job_rows.values())


@pytest.mark.parametrize("skew_ms", [-300_000, 300_000])
def test_a_timer_set_by_a_node_with_a_wrong_clock_fires_on_time(skew_ms: int) -> None:
    """F19: time is judged by the store."""
    plain = InMemoryNode()
    plain.world.skew_ms = skew_ms
    node = InMemoryNode(service(), store=plain.store, scheduler=plain.scheduler, name="wrong")
    node.world.skew_ms = skew_ms
    node.send("go/f")
    (call,) = node.worker.calls
    reply(node, call, Sleep(step=a("nap"), name="nap", for_ms=60_000))
    node.pass_time(seconds=59)
    assert not node.worker.calls
    node.pass_time(seconds=2)
    assert len(node.worker.calls) == 1


def test_a_clock_that_jumps_does_not_move_a_timer() -> None:
    """F20."""
    node = InMemoryNode(service())
    node.send("go/f")
    (call,) = node.worker.calls
    node.world.skew_ms = 3_600_000
    reply(node, call, Sleep(step=a("nap"), name="nap", for_ms=60_000))
    node.pass_time(seconds=30)
    node.world.skew_ms = -3_600_000
    node.pass_time(seconds=29)
    assert not node.worker.calls
    node.pass_time(seconds=2)
    assert len(node.worker.calls) == 1


def test_a_function_in_memory_hears_of_what_another_node_recorded_before_its_own_step_is_acknowledged() -> None:
    first, second = two_nodes(Transport.SOCKET)
    first.send("go/f")
    (call,) = first.worker.calls
    report(first, call, 1, wait("w", "paid"))
    second.send("paid")  # taken in by the node that does not have the connection
    report(first, call, 2, done("x"))

    assert first.worker.told == ["call function", "ack 1", "result w", "ack 2"]
    assert first.worker.acknowledged[-1] == (call.job, 2, 2)


def test_news_of_one_turn_reach_a_function_in_memory_in_the_order_of_the_journal() -> None:
    node = InMemoryNode(service(Transport.SOCKET))
    node.send("go/f")
    (call,) = node.worker.calls
    report(node, call, 1, wait("w", "paid"))
    node.deliver_together(
        (call, message.Reported(call.job, (done("x"),), 2)),
        (call, message.EventMatched(a("w"), b'{"name":"paid"}', "id")),
        (call, message.Reported(call.job, (done("y"),), 3)),
    )
    assert node.worker.told == ["call function", "ack 1", "ack 2", "result w", "ack 3"]


def test_a_small_result_does_not_overtake_a_large_one_on_its_way_to_a_function_in_memory() -> None:
    node, _ = a_node_whose_store_may_refuse(Transport.SOCKET)
    node.send("go/f")
    (call,) = node.worker.calls
    report(node, call, 1, wait("large", "large"), wait("small", "small"))
    large = node.event("large", {"text": "x" * (2 * INLINE_LIMIT_BYTES)})
    slow_reads(node)
    node.world.spawn(send_large(node, large))
    node.settle()
    node.send("small")
    node.pass_time(seconds=1)

    assert [told for told in node.worker.told if told.startswith("result")] == ["result large", "result small"]


def slow_reads(node: InMemoryNode) -> None:
    """From the second one on: matching reads the event, then the function is told."""
    read, reads = node.store.read_blobs, []

    async def slowly(blobs):  # type: ignore[no-untyped-def]
        reads.append(blobs)
        if len(reads) > 1:
            await node.world.sleep(100)
        return await read(blobs)

    node.store.read_blobs = slowly  # type: ignore[method-assign]


async def send_large(node: InMemoryNode, event) -> None:  # type: ignore[no-untyped-def]
    blobs = {}  # type: ignore[var-annotated]
    body = stored(event.body, blobs)
    await node.node.accept(event.env, [replace(event, body=body)], blobs)


def test_a_report_that_comes_twice_counts_one_failed_attempt() -> None:
    node = InMemoryNode(service(Transport.SOCKET))
    node.send("go/f")
    (call,) = node.worker.calls
    failed = StepErrored(step=a("x"), name="x", error=b'{"name":"E"}', started_at=node.now())
    report(node, call, 1, failed)
    report(node, call, 1, failed)
    node.pass_time(minutes=1)
    report(node, call, 1, failed)

    assert names(node).count("StepRetried") == 1
    assert [retry[2] for retry in node.worker.retries] == [1]


def test_the_function_is_not_called_twice_at_once_so_no_step_runs_in_two_places() -> None:
    node = InMemoryNode(service())
    node.send("go/f")
    (call,) = node.worker.calls
    reply(
        node,
        call,
        Sleep(step=a("s1"), name="s1", for_ms=1_000),
        Sleep(step=a("s2"), name="s2", for_ms=1_001),
    )
    node.pass_time(seconds=2)
    assert len(node.worker.calls) == 1  # may be running the next step at once
    (call,) = node.worker.calls
    reply(node, call, done("next"))
    assert len(node.worker.calls) == 1


def test_a_function_is_told_to_plan_while_a_step_has_a_call_of_its_own() -> None:
    """F34: C runs once."""
    node = InMemoryNode(service())
    node.send("go/f")
    (call,) = node.worker.calls
    reply(node, call, planned("A", race=True), planned("C", race=True))
    by_target: dict[object, Dispatch] = {one.target: one for one in node.worker.calls}
    reply(node, by_target[a("A")], done("A", race=True))
    (continuation,) = [one for one in node.worker.calls if one.target is None]

    assert continuation.disable_immediate_execution


def test_an_event_sent_by_a_step_is_found_although_another_branch_finished_in_between() -> None:
    """F22 in a parallel group."""
    node = InMemoryNode(service())
    node.send("go/f")
    (call,) = node.worker.calls
    reply(node, call, planned("sends"), planned("slow"))
    by_target = {one.target: one for one in node.worker.calls}
    node.pass_time(seconds=1)
    node.send("paid")
    reply(node, by_target[a("sends")], done("sends"))
    node.pass_time(seconds=60)
    reply(node, by_target[a("slow")], done("slow"))
    (call,) = node.worker.calls
    reply(node, call, wait("w", "paid"))

    assert names(node).count("StepCompleted") == 3


def test_two_waits_find_an_event_each_when_both_came_before_them() -> None:
    """F22: what one of them takes, the other must not take too, nor be left without."""
    node = InMemoryNode(service())
    node.send("go/f")
    (call,) = node.worker.calls
    node.send("paid", {"n": 1})
    node.send("paid", {"n": 2})
    reply(node, call, wait("first", "paid"), wait("second", "paid"))

    run = node.do(node.node.turns.run(call.run))
    assert run is not None
    assert sorted(step.output[9:14] for step in run.steps.values()) == [b'"n":1', b'"n":2']  # type: ignore[index]


def test_an_event_starts_a_function_that_was_registered_at_another_node() -> None:
    first = InMemoryNode(name="first", settings=SEARCHING)
    second = InMemoryNode(name="second", store=first.store, scheduler=first.scheduler, settings=SEARCHING)
    first.do(first.node.register(service()))
    second.pass_time(seconds=2)
    second.send("go/f")

    assert [one.function.slug for one in second.worker.calls] == ["f"]


def test_a_call_is_made_by_a_node_that_has_not_heard_of_its_service_yet() -> None:
    first = InMemoryNode(name="first", settings=SEARCHING)
    second = InMemoryNode(name="second", store=first.store, scheduler=first.scheduler, settings=SEARCHING)
    first.do(first.node.register(service()))
    first.send("go/f")
    (call,) = first.worker.calls
    first.answer(call, message.Raised(call.job, error=b"{}", retry_at=first.now() + 100))
    first.world.pause()
    second.pass_time(milliseconds=1_200)

    assert [one.attempt for one in second.worker.calls] == [1]


def test_a_function_in_memory_is_told_that_a_failed_attempt_was_the_last() -> None:
    node = InMemoryNode(service(Transport.SOCKET))
    node.send("go/f")
    (call,) = node.worker.calls
    report(node, call, 1, StepErrored(step=a("x"), name="x", error=b'{"name":"E"}', retry=False))

    assert node.worker.told == ["call function", "result x", "ack 1"]
    assert node.worker.results[0][1].shape == "error"
