"""Our own SDK against a real server does what the official ones do there, over the websocket and over HTTP."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

import pytest

from stepwell import RunFailed
from tests.fleet import once
from tests.official.behaviour import OfficialSdk
from tests.official.harness import FUNCTION, Server, Service
from tests.sdk_e2e.harness import OwnService

pytestmark = pytest.mark.slow


class OwnSdk(OfficialSdk):
    error_name = "ValueError"
    step_error = ("KeyError", "'no such row'")
    gather_calls: ClassVar[int]

    def test_branches_that_wait_for_each_other_run_side_by_side(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("parallel"), {"mode": "wait"}))

        assert run.output == ["a1a2", "b1b2"]
        assert sorted(service.ran(run.id)) == ["a1", "a2", "b1", "b2"]
        assert service.calls(run.id) == self.gather_calls

    def test_the_client_names_the_step_that_failed_the_run(self, server: Server, service: OwnService) -> None:
        run = service.client.start(service.slug("caught"), {"catch": False})
        with pytest.raises(RunFailed, match="no such row") as failed:
            run.result(timeout=20)

        assert failed.value.step == "hopeless"
        assert service.attempts(run.id, "hopeless") == [0, 1]


class OwnAsyncSdk(OwnSdk):
    """What needs `asyncio`."""

    eviction_s: ClassVar[int]  # a sleep during which the function is not kept in memory

    def test_a_task_group_goes_on_when_all_of_it_has_ended(self, server: Server, service: OwnService) -> None:
        run = server.completed(server.send(service.event("group"), {}))

        assert run.output == "abc"
        assert sorted(service.ran(run.id)) == ["a", "b", "c", "joined"]

    def test_the_first_of_several_is_the_first_on_every_replay(self, server: Server, service: OwnService) -> None:
        run = server.completed(server.send(service.event("first"), {}))

        assert run.output == ["quick", 1, "quick"]
        assert service.ran(run.id) == ["quick", "won", "last"]

    def test_a_queue_inside_the_function_hands_out_each_item_once(self, server: Server, service: OwnService) -> None:
        run = server.completed(server.send(service.event("queue"), {}))

        assert run.output == "ABCDEF"
        assert sorted(service.ran(run.id)) == list("abcdef")

    def test_plain_callables_are_steps_of_an_async_function(self, server: Server, service: OwnService) -> None:
        run = server.completed(server.send(service.event("mixed"), {}))

        assert run.output == ["a", "b"]
        assert sorted(service.ran(run.id)) == ["a", "b"]

    def test_a_run_waits_for_an_event_that_fulfils_a_condition(self, server: Server, service: OwnService) -> None:
        order = uuid.uuid4().hex
        run = server.started(server.send(service.event("large-wait"), {"order": order, "least": 10}))
        server.waits_at(run.id, "payment")
        for total in (10, 11):
            server.send(service.event("paid"), {"order": order, "sum": total})

        assert server.ended(run.id).output == 11

    def test_what_is_drawn_is_the_same_and_what_is_logged_appears_once(
        self, server: Server, service: OwnService
    ) -> None:
        run = server.completed(server.send(service.event("told"), {"seconds": self.eviction_s}))
        entries = [line.facts["drawn"] for line in service.ledger(run.id) if line.step == FUNCTION]

        assert len(entries) > 1, "it was called again after its sleep"
        assert entries == [run.output] * len(entries)
        assert service.ran(run.id) == ["one", "two"]
        assert service.lines(run.id) == [f"{run.id} begins", f"{run.id} between", f"{run.id} ends"]

    def test_a_typed_result_comes_back_over_the_client(self, server: Server, service: OwnService) -> None:
        run = service.client.start(service.slug("linear"), {"echo": 1})

        assert run.result(timeout=20) == {"sum": 6, "echo": 1}


class TestWorker(OwnAsyncSdk):
    kind = "worker"  # type: ignore[assignment]
    gather_calls = 1
    eviction_s = 6

    def test_a_failure_is_told_to_the_handler_with_the_original_event(self, server: Server, service: Service) -> None:
        event_id = server.send(service.event("failing"), {"n": 2})
        run = server.failed(event_id)
        failure: Any = server.wait("the failure handler", 20, lambda: _failure(service, run.id), run.id)

        assert failure["function_id"] == service.slug("failing")
        assert failure["event"]["data"] == {"n": 2}
        assert failure["event"]["id"] == event_id
        assert failure["error"] == {"name": "ValueError", "message": "bad input"}

    def test_a_function_without_long_waits_is_entered_once(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("steps"), {"count": 20}))

        assert service.calls(run.id) == 1

    def test_a_failing_step_is_caught_while_the_function_is_in_memory(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("caught"), {"catch": True}))

        assert service.calls(run.id) == 1


class TestUvicorn(OwnAsyncSdk):
    kind = "uvicorn"  # type: ignore[assignment]
    gather_calls = 9  # a branch may go on before the other has ended, so it is called after each step
    eviction_s = 1


@once
class TestFlask(OwnSdk):
    kind = "flask"
    gather_calls = 1
    test_very_many_sequential_steps_run_once_each = None  # type: ignore[assignment]  # a minute, and uvicorn has it


class TestBlockingWorker:
    """Plain `def` functions over the websocket: what differs from asynchronous ones."""

    kind = "blocking-worker"

    def test_steps_run_once_each_in_order(self, server: Server, service: OwnService) -> None:
        run = server.completed(server.send(service.event("steps"), {"count": 50}))

        assert run.output == sum(range(50))
        assert service.ran(run.id) == [f"step-{i}" for i in range(50)]
        assert service.calls(run.id) == 1

    def test_branches_of_parallel_run_side_by_side(self, server: Server, service: OwnService) -> None:
        run = server.completed(server.send(service.event("parallel"), {"mode": "wait"}))

        assert run.output == ["a1a2", "b1b2"]
        assert sorted(service.ran(run.id)) == ["a1", "a2", "b1", "b2"]

    def test_a_function_is_left_while_it_waits_and_goes_on_after(self, server: Server, service: OwnService) -> None:
        order = uuid.uuid4().hex
        run = server.started(server.send(service.event("wait"), {"order": order, "seconds": 60}))
        server.waits_at(run.id, "payment")
        server.wait("the suspension", 20, lambda: "suspended" in service.outcomes(run.id) or None, run.id)
        server.send(service.event("paid"), {"order": order, "sum": 2})
        run = server.ended(run.id)

        assert run.output == {"name": service.event("paid"), "data": {"order": order, "sum": 2}}
        assert service.ran(run.id) == ["before", "after"]
        assert service.calls(run.id) == 2

    def test_retries_catches_and_invokes(self, server: Server, service: OwnService) -> None:
        retried = server.send(service.event("retried"), {})
        caught = server.send(service.event("caught"), {"catch": True})
        parent = server.send(service.event("parent"), {"target": "child"})

        assert server.completed(retried).output == {"succeeded_at": 2}
        assert server.completed(caught).output == {"name": "KeyError", "message": "'no such row'"}
        assert server.completed(parent).output == {"result": {"doubled": 42}}


def _failure(service: Service, run: str) -> Any:
    told = [line.facts["failure"] for line in service.ledger() if line.step == "on-failure"]
    return next((failure for failure in told if failure["run_id"] == run), None)
