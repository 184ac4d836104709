"""Sessions on real nodes in virtual time: who may call, when they expire, what becomes of them in crashes."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.model import message
from stepwell.model.app import AppVersion, read_reference
from stepwell.model.errors import InvalidInput
from stepwell.model.event import DEV_ENV
from stepwell.model.ids import RunId
from stepwell.model.job import RunStatus, route_of
from stepwell.model.payload import canonical
from stepwell.model.session import Session, SessionStatus
from stepwell.node.node import NodeSettings
from stepwell.node.sessions import (
    KEEP_MS,
    SESSION_ROUTES,
    AppMismatch,
    SessionEnded,
    SessionExpired,
    SessionLost,
    SessionNotFound,
    VersionMismatch,
    WorkerLeased,
)
from stepwell.store.base import StoreUnavailable
from stepwell.testing.node import InMemoryNode
from tests.node.test_apps import version
from tests.node.test_tasks import begin, request

SHARED = NodeSettings(search_ms=1_000)


def a_node(rebuild: str = "", **options: Any) -> InMemoryNode:
    node = InMemoryNode(**options)
    node.do(node.node.apps.add(version(session=rebuild)))
    node.over = []  # type: ignore[attr-defined]
    node.node.sessions.on_over = lambda env, session: node.over.append(session)  # type: ignore[attr-defined]
    return node


def app(node: InMemoryNode) -> AppVersion:
    return node.do(node.node.apps.find(DEV_ENV, "acme/stitch"))[1]


def opened(node: InMemoryNode, idle_s: int = 60, **options: Any) -> tuple[str, RunId]:
    session = node.node.sessions.open(app(node), idle_s, **options)
    run = begin(node, request=request(session=session.id, opens=True, session_timeout_s=idle_s))
    return session.id, run


def call(node: InMemoryNode, session: str, input: Any = None) -> RunId:
    return begin(node, request=request(session=session, input=input))


def complete(node: InMemoryNode, run: RunId) -> None:
    (found,) = (one for one in node.worker.calls if one.run == run)
    node.answer(found, message.Returned(found.job, canonical({"output": 1})))


def fail(node: InMemoryNode, run: RunId) -> None:
    (found,) = (one for one in node.worker.calls if one.run == run)
    node.answer(found, message.Raised(found.job, canonical({"message": "no"})))


def get(node: InMemoryNode, session: str) -> Session:
    return node.do(node.node.sessions.get(DEV_ENV, session))


def resolve(node: InMemoryNode, session: str, reference: str = "acme/stitch") -> Session:
    return node.do(node.node.sessions.resolve(DEV_ENV, session, read_reference(reference), "acme"))


def test_a_session_is_open_from_its_first_call_on() -> None:
    node = a_node()
    session, run = opened(node)
    assert get(node, session).call_count == 0
    complete(node, run)
    found = get(node, session)
    assert (found.status, found.call_count, found.task, found.app) == ("active", 1, run, "acme/stitch@k3f9")
    assert (found.last_call_at, found.expires_at) == (node.now(), node.now() + 60_000)
    again = call(node, session)
    complete(node, again)
    assert get(node, session).call_count == 2
    assert [one.id for one in node.do(node.node.sessions.active(DEV_ENV))] == [session]
    assert node.do(node.node.sessions.active("other")) == ()


def test_a_request_that_comes_twice_opens_one_session() -> None:
    node = a_node()
    sessions = [node.node.sessions.open(app(node)).id for _ in range(2)]
    runs = {begin(node, request=request(session=one, opens=True), key="k") for one in sessions}
    assert len(runs) == 1
    assert [one.id for one in node.do(node.node.sessions.active(DEV_ENV))] == sessions[:1]


def test_a_session_that_no_task_opens_leaves_nothing() -> None:
    node = a_node()
    session = node.node.sessions.open(app(node), 5).id
    assert get(node, session).status is SessionStatus.ACTIVE
    node.pass_time(seconds=6)
    assert node.do(node.store.records(DEV_ENV, "session")) == []
    assert not node.node.sessions.any
    with pytest.raises(SessionNotFound):
        get(node, session)


def test_only_calls_that_complete_start_the_idle_time_again() -> None:
    node = a_node()
    session, run = opened(node, 10)
    complete(node, run)
    node.pass_time(seconds=8)
    complete(node, call(node, session))
    node.pass_time(seconds=8)
    fail(node, call(node, session))
    assert get(node, session).call_count == 2
    node.pass_time(seconds=3)
    assert get(node, session).status is SessionStatus.EXPIRED
    assert node.over == [session]  # type: ignore[attr-defined]
    with pytest.raises(SessionExpired, match="nobody called it for 10 s"):
        call(node, session)
    with pytest.raises(SessionExpired):
        resolve(node, session)


def test_it_does_not_expire_under_a_call_however_long_that_takes() -> None:
    node = a_node()
    session, run = opened(node, 1)
    node.pass_time(hours=2)
    assert get(node, session).status is SessionStatus.ACTIVE
    complete(node, run)
    assert get(node, session).status is SessionStatus.ACTIVE
    node.pass_time(seconds=2)
    assert get(node, session).status is SessionStatus.EXPIRED


def test_keepalive_starts_the_idle_time_again() -> None:
    node = a_node()
    session, run = opened(node, 10)
    complete(node, run)
    for _ in range(5):
        node.pass_time(seconds=8)
        kept = node.do(node.node.sessions.keepalive(DEV_ENV, session))
        assert kept.expires_at == node.now() + 10_000
    node.pass_time(seconds=11)
    with pytest.raises(SessionExpired):
        node.do(node.node.sessions.keepalive(DEV_ENV, session))


def test_an_ended_session_takes_no_calls_and_its_worker_goes() -> None:
    node = a_node()
    session, run = opened(node)
    complete(node, run)
    ended = node.do(node.node.sessions.end(DEV_ENV, session))
    assert (ended.status, ended.ended_at) == ("ended", node.now())
    assert node.over == [session]  # type: ignore[attr-defined]
    with pytest.raises(SessionEnded, match="open a new one"):
        call(node, session)
    assert node.do(node.node.sessions.end(DEV_ENV, session)).status is SessionStatus.ENDED
    assert node.over == [session]  # type: ignore[attr-defined]
    assert node.do(node.node.sessions.active(DEV_ENV)) == ()


def test_a_session_that_never_was() -> None:
    node = a_node()
    for ask in (node.node.sessions.get, node.node.sessions.end, node.node.sessions.keepalive):
        with pytest.raises(SessionNotFound):
            node.do(ask(DEV_ENV, "nope"))
    with pytest.raises(SessionNotFound):
        call(node, "nope")
    session, _ = opened(node)
    with pytest.raises(SessionNotFound):
        node.do(node.node.sessions.get("other", session))


def test_a_session_is_one_of_one_version() -> None:
    node = a_node()
    node.do(node.node.apps.add(version("two2"), current=False))
    node.do(node.node.apps.add(version("x", app="draw")))
    session, run = opened(node)
    complete(node, run)
    node.do(node.node.apps.set_current(DEV_ENV, "acme/stitch@two2"))
    assert resolve(node, session).app == "acme/stitch@k3f9"
    assert resolve(node, session, "stitch").app == "acme/stitch@k3f9"
    assert resolve(node, session, "acme/stitch@k3f9").app == "acme/stitch@k3f9"
    with pytest.raises(VersionMismatch):
        resolve(node, session, "acme/stitch@two2")
    with pytest.raises(AppMismatch):
        resolve(node, session, "acme/draw")


@pytest.mark.parametrize("idle_s", [0, 3601, -1])
def test_an_idle_timeout_out_of_range_is_refused(idle_s: int) -> None:
    node = a_node()
    with pytest.raises(InvalidInput, match="1 to 3600"):
        node.node.sessions.open(app(node), idle_s)


def test_a_worker_has_one_session() -> None:
    node = a_node()
    session, _ = opened(node)
    node.node.sessions.got_worker(DEV_ENV, session, "w1")
    node.settle()
    assert get(node, session).worker == "w1"
    with pytest.raises(WorkerLeased):
        node.node.sessions.open(app(node), workers=("w1",))
    node.node.sessions.open(app(node), workers=("w1", "w2"))


def test_calls_are_handed_on_in_the_order_of_acceptance() -> None:
    node = a_node()
    session, _ = opened(node)
    for number in range(10):
        call(node, session, number)
    order = [one.run for one in node.worker.calls]
    assert order == sorted(order)


def test_a_session_is_lost_with_its_worker() -> None:
    node = a_node()
    session, run = opened(node)
    complete(node, run)
    node.node.sessions.worker_lost(DEV_ENV, session, "it was killed by signal 9")
    node.settle()
    assert get(node, session).status is SessionStatus.LOST
    with pytest.raises(SessionLost, match=r"signal 9") as caught:
        call(node, session)
    assert (caught.value.code, caught.value.http_status) == ("WORKER_LOST", 500)


def test_a_worker_lost_before_the_first_call_is_over_loses_nothing() -> None:
    node = a_node()
    session, run = opened(node)
    node.node.sessions.got_worker(DEV_ENV, session, "w1")
    node.node.sessions.worker_lost(DEV_ENV, session, "killed")
    (found,) = node.worker.calls
    node.answer(found, message.CallLost(found.job, b"{}"))
    node.pass_time(seconds=5)
    complete(node, run)
    assert (get(node, session).status, get(node, session).call_count) == ("active", 1)


# restarts


def again(node: InMemoryNode, **options: Any) -> InMemoryNode:
    """The node in its next life, before the lease of the last one is over."""
    return InMemoryNode(name=node.node.name, epoch=2, store=node.store, scheduler=node.scheduler, **options)


def test_after_a_restart_sessions_are_lost_and_say_so() -> None:
    node = a_node()
    session, run = opened(node)
    complete(node, run)
    other = again(node)
    assert get(other, session).status is SessionStatus.LOST
    with pytest.raises(SessionLost, match="the server was started again"):
        call(other, session)


def test_a_session_whose_first_call_was_cut_off_opens_all_the_same() -> None:
    node = a_node()
    session, run = opened(node)
    other = again(node)
    other.pass_time(seconds=30)
    assert get(other, session).status is SessionStatus.ACTIVE
    complete(other, run)
    assert get(other, session).call_count == 1
    other.pass_time(seconds=61)
    assert get(other, session).status is SessionStatus.EXPIRED


def test_a_session_that_is_rebuilt_outlives_worker_and_server() -> None:
    node = a_node("rebuild")
    session, run = opened(node)
    complete(node, run)
    second = call(node, session, "two")
    complete(node, second)
    fail(node, call(node, session, "failed"))
    node.node.sessions.worker_lost(DEV_ENV, session, "killed")
    assert get(node, session).status is SessionStatus.ACTIVE
    history = node.do(node.node.sessions.history(DEV_ENV, session))
    assert [one.input for one in history] == [{"text": "hi"}, "two"]
    other = again(node)
    assert get(other, session).status is SessionStatus.ACTIVE
    assert [one.input for one in other.do(other.node.sessions.history(DEV_ENV, session))] == [{"text": "hi"}, "two"]
    complete(other, call(other, session))
    assert get(other, session).call_count == 3
    other.do(other.node.tasks.delete(DEV_ENV, second))
    with pytest.raises(SessionLost, match="was deleted"):
        other.do(other.node.sessions.history(DEV_ENV, session))


def test_a_session_with_snapshots_keeps_the_last_one() -> None:
    node = a_node("snapshot")
    session, run = opened(node)
    complete(node, run)
    assert node.do(node.node.sessions.state(DEV_ENV, session)) is None
    for state in (b"one", b"\x00two"):
        node.do(node.node.sessions.keep_state(DEV_ENV, session, state))
    other = again(node)
    assert get(other, session).status is SessionStatus.ACTIVE
    assert other.do(other.node.sessions.state(DEV_ENV, session)) == b"\x00two"
    assert get(other, session).calls == ()  # nothing is made again


def test_what_became_of_a_session_is_known_for_a_day() -> None:
    node = a_node("snapshot")
    session, run = opened(node)
    complete(node, run)
    node.do(node.node.sessions.keep_state(DEV_ENV, session, b"one"))
    node.do(node.node.sessions.end(DEV_ENV, session))
    node.pass_time(milliseconds=KEEP_MS - 60_000)
    with pytest.raises(SessionEnded):
        call(node, session)
    node.pass_time(minutes=3)
    with pytest.raises(SessionNotFound):
        call(node, session)
    assert node.do(node.store.records(DEV_ENV, "session_state")) == []


def test_a_store_that_is_away_leaves_no_session_busy() -> None:
    class Away:
        def __init__(self, store: Any) -> None:
            self._store = store
            self.away = False

        async def commit(self, transition: Any) -> Any:
            if self.away:
                raise StoreUnavailable("away")
            return await self._store.commit(transition)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

    stores: list[Away] = []

    def wrap(store: Any, _: Any) -> Any:
        stores.append(Away(store))
        return stores[-1]

    node = a_node(wrap=wrap)
    session, run = opened(node, 5)
    complete(node, run)
    stores[0].away = True
    with pytest.raises(StoreUnavailable):
        call(node, session)
    stores[0].away = False
    node.pass_time(seconds=6)
    assert get(node, session).status is SessionStatus.EXPIRED


# several nodes


def test_a_route_of_a_session_is_no_route_of_a_function() -> None:
    assert not route_of(DEV_ENV, "f").startswith(SESSION_ROUTES)


def two_nodes() -> tuple[InMemoryNode, InMemoryNode]:
    first = a_node(name="a", settings=SHARED, connected=())
    second = a_node(name="b", store=first.store, scheduler=first.scheduler, settings=SHARED, connected=())
    return first, second


def test_a_call_accepted_elsewhere_goes_to_the_node_that_has_the_worker() -> None:
    first, second = two_nodes()
    session, run = opened(first)
    complete(first, run)
    there = call(second, session)
    first.pass_time(milliseconds=50)
    assert [one.run for one in first.worker.calls] == [there]
    assert second.worker.calls == []
    complete(first, there)
    first.settle()
    assert get(second, session).call_count == 2
    assert first.store.run_rows[there].status is RunStatus.COMPLETED


def test_another_node_keeps_it_alive_and_ends_it() -> None:
    first, second = two_nodes()
    session, run = opened(first, 10)
    complete(first, run)
    for _ in range(4):
        first.pass_time(seconds=8)
        second.do(second.node.sessions.keepalive(DEV_ENV, session))
    assert get(first, session).status is SessionStatus.ACTIVE
    second.do(second.node.sessions.end(DEV_ENV, session))
    with pytest.raises(SessionEnded):
        call(first, session)
    first.pass_time(seconds=12)
    assert first.over == [session]  # type: ignore[attr-defined]


def test_the_sessions_of_a_dead_node_are_lost_and_their_calls_say_so() -> None:
    first, second = two_nodes()
    session, run = opened(first)
    complete(first, run)
    first.node.stop()
    waiting = call(second, session)
    second.pass_time(minutes=2)
    assert get(second, session).status is SessionStatus.LOST
    assert [one.run for one in second.worker.calls] == [waiting]  # whose performer has no such session
