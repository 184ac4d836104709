"""Several nodes on one store: whose a call is, what they hear of one another, and who may go on without a lease."""

from __future__ import annotations

import logging

import pytest

from stepwell.model import message
from stepwell.model.event import DEV_ENV
from stepwell.model.function import Transport
from stepwell.model.ids import RunId
from stepwell.model.job import JobKind, RunStatus
from stepwell.model.op import Sleep
from stepwell.node.node import NodeSettings
from stepwell.node.watch import Watch
from stepwell.store.base import Hint, Outcome, StoreUnavailable, Transition
from stepwell.store.base import Node as NodeRow
from stepwell.store.memory import MemoryStore
from stepwell.testing.node import InMemoryNode
from stepwell.testing.world import Scheduler
from tests.node.cases import a, done, reply, report, service, wait

SETTINGS = NodeSettings(search_ms=1_000, lease_ms=6_000)


class Moody(MemoryStore):
    """Refuses everything a node asks while `away`; refuses so many commits."""

    away = False
    refuse = 0

    async def heartbeat(self, node: NodeRow) -> bool:
        self._ask()
        return await super().heartbeat(node)

    async def commit(self, transition: Transition) -> Outcome:
        if self.refuse:
            self.refuse -= 1
            raise StoreUnavailable("it is restarting")
        return await super().commit(transition)

    async def now(self) -> int:
        self._ask()
        return await super().now()

    def _ask(self) -> None:
        if self.away:
            raise StoreUnavailable("it cannot be reached")


def nodes(*connected: str, transport: Transport = Transport.SOCKET, slugs: str = "f") -> list[InMemoryNode]:
    """A node for each text: the functions, a letter each, that a worker connected there serves."""
    scheduler = Scheduler()
    store = Moody(_Clock(scheduler))
    found = []
    for number, functions in enumerate(connected):
        given = [service(transport, *slugs)] if not number else []
        one = InMemoryNode(
            *given,
            name=f"node-{number}",
            store=store,
            scheduler=scheduler,
            settings=SETTINGS,
            connected=list(functions) if transport is Transport.SOCKET else None,
        )
        found.append(one)
    return found


class _Clock:
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def now(self) -> int:
        return self._scheduler.now


def deafen(*all_nodes: InMemoryNode) -> None:
    for one in all_nodes:
        one.store.listeners.clear()


def moody(node: InMemoryNode) -> Moody:
    assert isinstance(node.store, Moody)
    return node.store


# routes


def test_a_call_is_made_where_a_worker_is_connected_at_once() -> None:
    asked, other = nodes("", "f")
    asked.send("go/f")
    other.pass_time(milliseconds=2)
    assert asked.worker.calls == []
    (call,) = other.worker.calls
    assert (call.fence, call.attempt) == (1, 0)


def test_a_call_is_born_claimed_where_a_worker_has_a_place() -> None:
    asked, _ = nodes("f", "f")
    asked.send("go/f")
    (call,) = asked.worker.calls
    assert asked.store.job_rows[call.job].owner == "node-0"
    assert asked.store.job_rows[call.job].route == f"{DEV_ENV}/f"


def test_without_a_hint_a_call_is_found_by_searching() -> None:
    asked, other = nodes("", "f")
    deafen(asked, other)
    other.pass_time(seconds=5)
    asked.send("go/f")
    other.pass_time(milliseconds=1_001)
    assert len(other.worker.calls) == 1


def test_no_node_claims_more_than_its_workers_have_room_for() -> None:
    first, second = nodes("f", "f")
    first.worker.capacity, second.worker.capacity = 2, 1
    for _ in range(5):
        first.send("go/f")
    first.pass_time(seconds=3)
    assert (len(first.worker.calls), len(second.worker.calls)) == (2, 1)
    assert [job.owner for job in first.store.job_rows.values()].count(None) == 2
    reply(first, first.worker.calls[0], wait("w", "never/comes"))
    first.node.room(DEV_ENV, "shop")
    first.pass_time(milliseconds=2)
    assert len(first.worker.calls) == 2, "the place that became free is taken without a search"


def test_nobody_overtakes_those_who_wait() -> None:
    asked, _ = nodes("f", "")
    asked.worker.capacity = 1
    for _ in range(2):
        asked.send("go/f")
        asked.pass_time(milliseconds=5)
    asked.worker.capacity = 2
    asked.send("go/f")
    asked.pass_time(milliseconds=2)
    oldest = sorted(asked.store.run_rows)[:2]
    assert [call.run for call in asked.worker.calls] == oldest


def test_a_function_that_no_worker_here_has_is_left_to_others() -> None:
    first, second = nodes("f", "g", slugs="fg")
    for _ in range(3):
        first.send("go/g")
    first.send("go/f")
    first.pass_time(milliseconds=2)
    assert [call.function.slug for call in first.worker.calls] == ["f"]
    assert [call.function.slug for call in second.worker.calls] == ["g"] * 3


def test_a_worker_that_dials_in_gets_what_waits() -> None:
    (node,) = nodes("")
    node.send("go/f")
    node.pass_time(seconds=10)
    assert node.worker.calls == []
    node.worker.functions = ("f",)
    node.node.room(DEV_ENV, "shop")
    node.pass_time(milliseconds=2)
    assert len(node.worker.calls) == 1


def test_a_call_that_waits_for_workers_is_made_when_its_service_is_reached_by_http() -> None:
    (node,) = nodes("")
    node.send("go/f")
    node.pass_time(seconds=10)
    assert node.worker.calls == []
    node.do(node.node.register(service(Transport.HTTP, "f")))
    node.pass_time(seconds=6)
    assert len(node.worker.calls) == 1


def test_a_refused_commit_keeps_no_place() -> None:
    (node,) = nodes("f")
    node.worker.capacity = 1
    node.send("go/f")
    moody(node).refuse = 2
    reply(node, node.worker.calls[0], done("a"))
    node.pass_time(seconds=1)
    assert moody(node).refuse == 0
    node.node.room(DEV_ENV, "shop")
    node.pass_time(seconds=1)
    assert len(node.worker.calls) == 1
    call = node.worker.calls[0]
    node.answer(call, message.Returned(call.job, b"1"))
    node.send("go/f")
    node.pass_time(seconds=1)
    assert len(node.worker.calls) == 1, "the only place is not kept for a call that came to nothing"


def test_a_call_given_back_costs_no_attempt() -> None:
    first, second = nodes("f", "")
    first.send("go/f")
    (call,) = first.worker.calls
    first.worker.functions, second.worker.functions = (), ("f",)  # the worker went from one to the other
    lost = message.CallLost(call.job, b"{}", free=True, code="declined")
    first.worker.stop(call.job, "gone")
    first.answer(call, lost)
    first.pass_time(milliseconds=2)
    (again,) = second.worker.calls
    assert again.attempt == 0


# what other nodes do


def test_a_result_that_another_node_records_reaches_the_function_in_memory() -> None:
    first, second = nodes("f", "")
    first.send("go/f")
    (call,) = first.worker.calls
    report(first, call, 1, wait("w", "it/comes"))
    second.send("it/comes")
    first.pass_time(milliseconds=2)
    assert [(of, memo.name) for of, memo, _ in first.worker.results] == [(call.job, "w")]


def test_results_are_told_once_however_often_hints_come() -> None:
    first, second = nodes("f", "")
    first.send("go/f")
    (call,) = first.worker.calls
    report(first, call, 1, wait("w", "it/comes"))
    second.send("it/comes")
    for _ in range(3):
        first.store._tell(Hint(runs=(call.run,)))
        first.store._tell(Hint(missed=True))
        first.pass_time(milliseconds=2)
    assert len(first.worker.results) == 1


def test_what_a_lost_hint_would_have_told_is_told_with_the_next() -> None:
    first, second = nodes("f", "")
    first.send("go/f")
    (call,) = first.worker.calls
    report(first, call, 1, wait("w", "it/comes"))
    heard = list(first.store.listeners)
    deafen(first)
    second.send("it/comes")
    first.pass_time(milliseconds=5)
    assert first.worker.results == []
    first.store.listeners.extend(heard)
    first.store._tell(Hint(missed=True))
    first.pass_time(milliseconds=2)
    assert len(first.worker.results) == 1


@pytest.mark.parametrize("transport", [Transport.SOCKET, Transport.HTTP])
def test_a_call_is_stopped_when_another_node_cancels_its_run(transport: Transport) -> None:
    first, second = nodes("f", "", transport=transport)
    first.send("go/f")
    (call,) = first.worker.calls
    second.do(second.node.cancel(call.run, "asked at another node"))
    first.pass_time(milliseconds=2)
    assert first.worker.stopped == [(call.job, "cancelled")]
    assert first.store.run_rows[call.run].status is RunStatus.CANCELLED


def test_who_follows_a_run_at_another_node_is_woken() -> None:
    first, second = nodes("f", "")
    watch = second.node.watch = Watch()
    woken: list[RunId] = []

    first.send("go/f")
    (call,) = first.worker.calls
    with watch.follow(call.run, lambda: woken.append(call.run)) as follower:
        second.pass_time(milliseconds=5)
        assert woken == []
        report(first, call, 1, done("a"))
        second.pass_time(milliseconds=2)
        assert woken == [call.run]
        assert follower.take()
        assert not follower.take()


def test_who_follows_is_woken_now_and_then_in_case_a_hint_got_lost() -> None:
    first, second = nodes("f", "")
    watch = second.node.watch = Watch()
    deafen(first)
    first.send("go/f")
    (call,) = first.worker.calls
    woken: list[RunId] = []
    with watch.follow(call.run, lambda: woken.append(call.run)):
        second.pass_time(seconds=6)
        assert woken == [call.run]


def test_no_event_that_comes_after_a_registration_misses_it_on_any_node() -> None:
    first, second = nodes("f", "f")
    deafen(first)
    second.send("go/other")  # it has just looked what services there are
    first.do(first.node.register(service(Transport.SOCKET, "f", "late")))
    second.send("go/late")
    assert [row.function for row in first.runs()] == ["late"]


# leases


def test_a_node_without_a_lease_makes_no_calls_and_says_so() -> None:
    (node,) = nodes("f")
    moody(node).away = True
    node.pass_time(milliseconds=5_500)
    cut_off = [node.node.cut_off]
    node.send("go/f")
    assert node.worker.calls == []
    moody(node).away = False
    node.pass_time(milliseconds=600)
    cut_off.append(node.node.cut_off)
    assert cut_off == [True, False]
    assert len(node.worker.calls) == 1


def test_a_node_gives_up_before_anybody_may_take_its_calls() -> None:
    node, other = nodes("f", "f")
    moody(node).away = True
    while not node.node.cut_off:
        node.pass_time(milliseconds=10)
    assert node.store.nodes["node-0"].lease_until > node.now(), "the lease that others look at"
    assert other.node.cut_off


def test_a_call_that_was_held_back_is_made_if_it_is_still_ours() -> None:
    (node,) = nodes("f", transport=Transport.HTTP)
    node.send("go/f")
    (call,) = node.worker.calls
    reply(node, call, Sleep(step=a("s"), name="s", for_ms=5_500))
    moody(node).away = True
    node.pass_time(seconds=9)  # the timer was not claimed either
    assert node.worker.calls == []
    moody(node).away = False
    node.pass_time(seconds=2)
    assert len(node.worker.calls) == 1


def test_who_was_given_up_starts_over_by_himself() -> None:
    (node,) = nodes("f")
    row = node.store.nodes["node-0"]
    node.store.nodes["node-0"] = NodeRow("node-0", row.epoch + 7, 0)  # nobody would write this; a copied disk might
    node.pass_time(seconds=5)
    assert node.store.nodes["node-0"].epoch > row.epoch + 7
    node.send("go/f")
    node.pass_time(seconds=1)
    assert len(node.worker.calls) == 1
    assert not node.node.stopped


def test_after_an_outage_nobody_takes_the_work_of_those_who_come_back_a_moment_later() -> None:
    first, second = nodes("f", "f")
    first.send("go/f")
    (call,) = first.worker.calls
    moody(first).away = True
    first.pass_time(seconds=20)
    moody(first).away = False
    first.pass_time(seconds=8)
    assert first.store.job_rows[call.job].owner == "node-0"
    report(first, call, 1, done("a"))
    assert first.worker.acknowledged == [(call.job, 1, 1)]
    assert second.worker.calls == []


def test_the_log_tells_of_a_lost_node_once(caplog: pytest.LogCaptureFixture) -> None:
    lost, other, _third = nodes("f", "f", "f")
    lost.send("go/f")
    lost.node.stop()  # without giving anything back
    with caplog.at_level(logging.INFO, logger="stepwell.node"):
        other.pass_time(seconds=20)
    assert [record.getMessage() for record in caplog.records] == [
        "node node-0 is lost; 1 jobs of lost nodes are taken over"
    ]


def test_a_store_that_is_away_is_told_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    (node,) = nodes("f")
    moody(node).away = True
    with caplog.at_level(logging.INFO, logger="stepwell.node"):
        node.pass_time(seconds=25)
        moody(node).away = False
        node.pass_time(seconds=2)
        moody(node).away = True
        node.pass_time(seconds=3)
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    failed = ("WARNING", "node node-0 could not renew its lease: it cannot be reached")
    assert told.count(failed) == 4
    assert told[-2:] == [("INFO", "node node-0 reaches its store again"), failed]


# leaving


def test_a_draining_node_leaves_new_calls_to_others() -> None:
    leaving, staying = nodes("f", "f")
    leaving.node.drain()
    leaving.send("go/f")
    staying.pass_time(milliseconds=2)
    assert leaving.worker.calls == []
    assert len(staying.worker.calls) == 1


def test_a_node_that_leaves_takes_its_lease_along() -> None:
    leaving, staying = nodes("f", "f")
    leaving.send("go/f")
    (call,) = leaving.worker.calls
    leaving.node.drain()
    leaving.node.stop()
    leaving.do(leaving.node.leave())
    staying.pass_time(milliseconds=5)
    (again,) = staying.worker.calls
    assert (again.run, again.attempt) == (call.run, 0)
    assert {job.owner for job in staying.store.job_rows.values() if job.kind is JobKind.CALL} == {"node-1"}


def test_who_saw_the_store_fail_gives_others_a_moment_before_it_takes_their_work() -> None:
    first, second = nodes("f", "f")
    first.send("go/f")
    (call,) = first.worker.calls
    row = first.store.nodes["node-0"]
    moody(first).away = True
    first.world.pause()
    second.pass_time(milliseconds=2_200)
    first.store.nodes["node-0"] = NodeRow("node-0", row.epoch, second.now() - 1)
    moody(first).away = False
    second.pass_time(seconds=1)
    assert not second.node.cut_off, "its own lease has not run out meanwhile"
    first.world.unpause()
    second.pass_time(seconds=2)
    assert first.store.job_rows[call.job].owner == "node-0"


def test_a_lease_that_is_being_renewed_does_not_outlive_its_node() -> None:
    (node,) = nodes("f")
    store = moody(node)
    renew = store.heartbeat

    async def slow(row: NodeRow) -> bool:
        if row.lease_until:
            await node.world.sleep(500)
        return await renew(row)

    store.heartbeat = slow  # type: ignore[method-assign,assignment]
    node.pass_time(milliseconds=2_100)  # the renewal is on its way
    node.node.drain()
    node.node.stop()
    node.do(node.node.leave())
    node.pass_time(seconds=10)
    assert store.nodes["node-0"].lease_until == 0
