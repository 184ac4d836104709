"""Workers that are killed, drained, joined by others, or lose their server: runs go on from their recorded steps."""

from __future__ import annotations

import signal
import uuid
from collections import Counter

import pytest

from tests.fleet import nodes_wanted
from tests.official.harness import FUNCTION, Server
from tests.sdk_e2e.harness import OwnService, ended_by

pytestmark = pytest.mark.slow


def test_another_worker_takes_over_from_one_that_is_killed(alone: tuple[Server, OwnService]) -> None:
    server, service = alone
    first = service.start()
    event = server.send(service.event("steps"), {"count": 30, "hold": 10})
    run = server.started(event)
    server.wait("the tenth step", 30, lambda: "step-10" in service.ran(run.id) or None, run.id)
    second = service.start()
    ended_by(signal.SIGKILL, first)
    service.let_go()
    run = server.completed(event)

    assert run.output == sum(range(30))
    assert Counter(service.ran(run.id)) == {**{f"step-{i}": 1 for i in range(30)}, "step-10": 2}
    assert service.pids(run.id) == [first.process.pid, second.process.pid]


def test_a_drained_worker_hands_its_runs_back_and_no_step_runs_twice(alone: tuple[Server, OwnService]) -> None:
    server, service = alone
    first = service.start()
    events = [server.send(service.event("steps"), {"count": 12, "hold": 5}) for _ in range(5)]
    runs = [server.started(event) for event in events]
    for run in runs:
        server.wait("the fifth step", 30, lambda run=run: "step-5" in service.ran(run.id) or None, run.id)  # type: ignore[misc]
    second = service.start()
    first.process.send_signal(signal.SIGTERM)
    server.wait("draining", 20, lambda: "draining" in first.log.read_text() or None)
    service.let_go()
    status = first.process.wait(20)
    ended = [server.completed(event) for event in events]

    assert status == 0, first.tail()
    for run in ended:
        assert run.output == sum(range(12))
        assert service.ran(run.id) == [f"step-{i}" for i in range(12)], server.explain(run.id)
        assert {line.attempt for line in service.ledger(run.id)} == {0}, "handing back consumes no attempt"
        assert service.pids(run.id) == [first.process.pid, second.process.pid]


def test_a_worker_whose_functions_only_wait_ends_at_once(alone: tuple[Server, OwnService]) -> None:
    server, service = alone
    first = service.start()
    order = uuid.uuid4().hex
    run = server.started(server.send(service.event("wait"), {"order": order, "seconds": 60}))
    server.waits_at(run.id, "payment")
    assert ended_by(signal.SIGTERM, first, seconds=15) == 0
    second = service.start()
    server.send(service.event("paid"), {"order": order, "sum": 2})
    run = server.ended(run.id)

    assert run.status == "Completed"
    assert service.ran(run.id) == ["before", "after"]
    assert service.pids(run.id) == [first.process.pid, second.process.pid]


def test_two_workers_of_one_service_share_its_runs(alone: tuple[Server, OwnService]) -> None:
    server, service = alone
    both = {service.start().process.pid, service.start().process.pid}
    events = [server.send(service.event("steps"), {"count": 3, "hold": 1}) for _ in range(20)]
    runs = [server.started(event) for event in events]
    for run in runs:
        server.wait("the first step", 30, lambda run=run: "step-1" in service.ran(run.id) or None, run.id)  # type: ignore[misc]
    service.let_go()
    for event in events:
        server.completed(event)
    share = Counter(pid for run in runs for pid in service.pids(run.id))

    assert [service.ran(run.id) for run in runs] == [["step-0", "step-1", "step-2"]] * 20
    if nodes_wanted() < 2:
        assert share == dict.fromkeys(both, 10)
    else:  # a server prefers the workers that are connected to it, while they have room
        assert set(share) <= both
        assert share.total() == 20


def test_a_function_that_waits_long_is_dropped_and_entered_again(alone: tuple[Server, OwnService]) -> None:
    server, service = alone
    service.start()
    order = uuid.uuid4().hex
    run = server.started(server.send(service.event("wait"), {"order": order, "seconds": 60}))
    server.waits_at(run.id, "payment")
    server.wait("the suspension", 20, lambda: "suspended" in service.outcomes(run.id) or None, run.id)
    server.send(service.event("paid"), {"order": order, "sum": 2})
    run = server.ended(run.id)

    assert run.output == {"name": service.event("paid"), "data": {"order": order, "sum": 2}}
    assert service.ran(run.id) == ["before", "after"]
    assert service.calls(run.id) == 2


def test_a_worker_finds_a_server_again_that_was_killed(alone: tuple[Server, OwnService]) -> None:
    server, service = alone
    service.start()
    event = server.send(service.event("steps"), {"count": 30, "hold": 10})
    run = server.started(event)
    server.wait("the tenth step", 30, lambda: "step-10" in service.ran(run.id) or None, run.id)
    server.kill()
    server.start()
    service.let_go()
    run = server.completed(event)

    assert run.output == sum(range(30))
    assert Counter(service.ran(run.id)) == {**{f"step-{i}": 1 for i in range(30)}, "step-10": 2}
    assert [line.attempt for line in service.ledger(run.id) if line.step != FUNCTION] == [0] * 31
