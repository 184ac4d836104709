"""What every official SDK's users may rely on: one class of tests, run once for each sample service.

`test_python_sdk.py` and `test_typescript_sdk.py` derive from it and add what only their SDK does. The tests of one
class share a server and a service; each looks only at its own runs.
"""

import datetime
import hashlib
import itertools
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from tests.fleet import nodes_wanted
from tests.official.harness import FUNCTION, Kind, Server, Service

LARGE = 4 * 1024 * 1024 - 1024  # as in the services


class OfficialSdk:
    kind: ClassVar[Kind]
    error_name: ClassVar[str]  # what the SDK calls the error that the sample functions raise in their body
    step_error: ClassVar[tuple[str, str]]  # name and message of the error in the step of `caught`

    # Steps.

    def test_a_linear_function_runs_each_step_once_and_returns_its_result(
        self, server: Server, service: Service
    ) -> None:
        run = server.completed(server.send(service.event("linear"), {"echo": {"ü": [1, 2.5, None, True]}}))

        assert run.output == {"sum": 6, "echo": {"ü": [1, 2.5, None, True]}}
        assert service.ran(run.id) == ["one", "two", "three"]
        assert service.calls(run.id) <= 4  # fewer when the SDK reports steps while it goes on
        assert {line.attempt for line in service.ledger(run.id)} == {0}

    def test_the_trace_shows_the_steps_in_order_and_completed(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("linear"), {}))
        root = server.trace(run.id)

        assert root.status == "COMPLETED"
        assert root.steps == ["one", "two", "three"]
        assert [child.status for child in root.children] == ["COMPLETED"] * len(root.children)

    def test_a_step_id_used_in_a_loop_is_a_step_for_each_turn(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("repeated"), {}))

        assert run.output == [0, 1, 4, 9]
        assert service.ran(run.id) == ["item"] * 4
        assert server.trace(run.id).steps == ["item"] * 4

    def test_branches_that_wait_for_each_other_run_side_by_side(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("parallel"), {"mode": "wait"}))
        ran = service.ran(run.id)

        assert run.output == ["a1a2", "b1b2"]
        assert sorted(ran) == ["a1", "a2", "b1", "b2"]
        assert set(ran[:2]) == {"a1", "b1"}
        assert service.calls(run.id) == 7
        assert sorted(server.trace(run.id).steps) == ["a1", "a2", "b1", "b2"]

    def test_racing_branches_run_each_step_once(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("parallel"), {"mode": "race"}))

        assert run.output == ["a1a2", "b1b2"]
        assert sorted(service.ran(run.id)) == ["a1", "a2", "b1", "b2"]

    @pytest.mark.parametrize("count", [1, 2, 50])
    def test_sequential_steps_run_once_each(self, server: Server, service: Service, count: int) -> None:
        run = server.completed(server.send(service.event("steps"), {"count": count}), seconds=60)

        assert run.output == sum(range(count))
        assert service.ran(run.id) == [f"step-{i}" for i in range(count)]
        assert server.trace(run.id).steps == [f"step-{i}" for i in range(count)]

    def test_very_many_sequential_steps_run_once_each(self, server: Server, service: Service) -> None:
        count = 200 if nodes_wanted() else 1000  # the most that a run may have
        run = server.completed(server.send(service.event("steps"), {"count": count}), seconds=270)

        assert run.output == sum(range(count))
        assert service.ran(run.id) == [f"step-{i}" for i in range(count)]
        assert len(server.trace(run.id).steps) == count

    # Waiting.

    def test_sleeps_last_as_long_as_asked(self, server: Server, service: Service) -> None:
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=4)
        run = server.completed(server.send(service.event("naps"), {"until": until.isoformat()}))
        before, between, after = (line for line in service.ledger(run.id) if line.step != FUNCTION)

        assert run.output == "rested"
        assert [before.step, between.step, after.step] == ["before", "between", "after"]
        assert 0.9 <= between.time - before.time < 3
        assert -0.1 <= after.time - until.timestamp() < 2
        assert server.trace(run.id).steps == ["before", "nap", "between", "until", "after"]

    def test_a_run_waits_for_the_event_that_matches(self, server: Server, service: Service) -> None:
        order = uuid.uuid4().hex
        run = server.started(server.send(service.event("wait"), {"order": order, "seconds": 60}))
        server.waits_at(run.id, "payment")
        server.send(service.event("paid"), {"order": "somebody else's", "sum": 1})
        server.send(service.event("paid"), {"order": order, "sum": 2})
        run = server.ended(run.id)

        assert run.status == "Completed", server.explain(run.id)
        assert run.output == {"name": service.event("paid"), "data": {"order": order, "sum": 2}}
        assert service.ran(run.id) == ["before", "after"]
        assert server.trace(run.id).steps == ["before", "payment", "after"]

    def test_a_wait_that_runs_out_gives_nothing(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("wait"), {"order": uuid.uuid4().hex, "seconds": 2}))
        before, after = (line for line in service.ledger(run.id) if line.step != FUNCTION)

        assert run.output is None
        assert 1.9 <= after.time - before.time < 5

    # Invoking.

    def test_an_invoked_function_returns_its_result_to_the_caller(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("parent"), {"target": "child"}))

        assert run.output == {"result": {"doubled": 42}}
        assert server.trace(run.id).steps == ["call"]
        assert "inngest/function.invoked" in [line.facts.get("event") for line in service.ledger()]

    def test_the_caller_of_a_failing_function_catches_its_error(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("parent"), {"target": "child", "how": "fail"}))

        assert isinstance(run.output, dict)
        assert run.output["message"] == "the child failed"
        assert server.trace(run.id).child("call").status == "FAILED"

    def test_an_invoke_that_takes_too_long_times_out(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("parent"), {"target": "child", "how": "slow", "seconds": 1}))

        assert run.output == {
            "name": "InngestInvokeTimeoutError",
            "message": "Timed out waiting for invoked function to complete",
        }

    def test_invoking_a_function_that_does_not_exist_fails_at_once(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("parent"), {"target": "nobody"}), seconds=10)

        assert isinstance(run.output, dict)
        assert run.output["message"] == f"could not find function with ID: {service.slug('nobody')}"

    # Errors.

    def test_a_step_that_works_the_third_time_is_tried_three_times(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("retried"), {}))
        root = server.trace(run.id)

        assert run.output == {"succeeded_at": 2}
        assert service.attempts(run.id, "flaky") == [0, 1, 2]
        assert service.attempts(run.id, "next") == [0]
        assert root.steps == ["flaky", "next"]
        assert root.child("flaky").status == "COMPLETED"
        assert [child.name for child in root.child("flaky").children] == ["Attempt 0", "Attempt 1", "Attempt 2"]
        assert [child.status for child in root.child("flaky").children] == ["FAILED", "FAILED", "COMPLETED"]

    def test_the_error_of_a_step_without_attempts_left_can_be_caught(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("caught"), {"catch": True}))
        name, message = self.step_error

        assert run.output == {"name": name, "message": message}
        assert service.ran(run.id) == ["hopeless", "hopeless", "instead"]
        assert service.attempts(run.id, "hopeless") == [0, 1]
        assert service.attempts(run.id, "instead") == [0]
        assert server.trace(run.id).child("hopeless").status == "FAILED"

    def test_an_error_of_a_step_that_nobody_catches_fails_the_run(self, server: Server, service: Service) -> None:
        run = server.failed(server.send(service.event("caught"), {"catch": False}))

        assert service.ran(run.id) == ["hopeless", "hopeless"]
        assert (run.output["name"], run.output["message"]) == self.step_error
        assert server.trace(run.id).status == "FAILED"

    def test_a_failing_function_is_tried_again_and_then_fails(self, server: Server, service: Service) -> None:
        run = server.failed(server.send(service.event("failing"), {"n": 1}))

        assert service.ran(run.id)[:1] == ["before"]
        assert service.attempts(run.id, "before") == [0]
        assert service.attempts(run.id, FUNCTION)[-2:] == [0, 1]
        assert (run.output["name"], run.output["message"]) == (self.error_name, "bad input")
        assert server.trace(run.id).status == "FAILED"

    def test_a_failure_is_told_to_the_handler_with_the_original_event(self, server: Server, service: Service) -> None:
        event_id = server.send(service.event("failing"), {"n": 2})
        run = server.failed(event_id)
        failure = server.wait("the failure handler", 20, lambda: _failure_handled(service, run.id), run.id)
        sent = server.internal_event("inngest/function.failed", run.id)["data"]
        finished = server.internal_event("inngest/function.finished", run.id)["data"]

        assert failure["function_id"] == service.slug("failing")
        assert failure["event"]["name"] == service.event("failing")
        assert failure["event"]["data"] == {"n": 2}
        assert failure["event"]["id"] == event_id
        assert failure["error"]["name"] == self.error_name
        assert failure["error"]["message"] == "bad input"
        assert sent["error"]["error"].startswith("invalid status code: ")
        assert "code" not in sent["error"]
        assert sent["event"]["data"] == {"n": 2}
        assert finished["function_id"] == service.slug("failing")

    def test_a_non_retriable_error_ends_the_run_at_its_first_attempt(self, server: Server, service: Service) -> None:
        run = server.failed(server.send(service.event("non-retriable"), {"where": "function"}), seconds=10)

        assert service.attempts(run.id, FUNCTION) == [0]
        assert run.output["message"] == "never again"

    def test_a_step_with_a_non_retriable_error_is_tried_once(self, server: Server, service: Service) -> None:
        run = server.failed(server.send(service.event("non-retriable"), {"where": "step"}), seconds=10)

        assert service.attempts(run.id, "give-up") == [0]
        assert run.output["message"] == "never again"

    @pytest.mark.parametrize("where", ["step", "function"])
    def test_a_retry_comes_when_it_was_asked_for(self, server: Server, service: Service, where: str) -> None:
        run = server.completed(server.send(service.event("retry-after"), {"where": where}))
        first, second = (line for line in service.ledger(run.id) if line.step == "later")

        assert run.output == 1
        assert (first.attempt, second.attempt) == (0, 1)
        assert 2.9 <= second.time - first.time <= 5

    # Cancelling.

    def test_a_cancelling_event_stops_only_the_run_it_matches(self, server: Server, service: Service) -> None:
        mine, other = uuid.uuid4().hex, uuid.uuid4().hex
        cancelled = server.started(server.send(service.event("cancellable"), {"order": mine}))
        server.waits_at(cancelled.id, "pause")
        server.send(service.event("cancel"), {"order": mine})
        cancelled = server.ended(cancelled.id, seconds=10)
        # This one starts later, so by its end the sleep of the cancelled run is long over.
        completed = server.completed(server.send(service.event("cancellable"), {"order": other}))

        assert cancelled.status == "Cancelled", server.explain(cancelled.id)
        assert service.ran(cancelled.id) == ["before"]
        assert service.ran(completed.id) == ["before", "after"]
        assert server.run(cancelled.id).status == "Cancelled"
        assert server.trace(cancelled.id).status == "CANCELLED"
        assert server.internal_event("inngest/function.cancelled", cancelled.id)["data"]["event"]["data"] == {
            "order": mine
        }

    def test_a_run_cancelled_over_the_api_executes_nothing_more(self, server: Server, service: Service) -> None:
        cancelled = server.started(server.send(service.event("cancellable"), {"order": uuid.uuid4().hex}))
        server.waits_at(cancelled.id, "pause")
        server.cancel(cancelled.id)
        cancelled = server.ended(cancelled.id, seconds=10)
        server.completed(server.send(service.event("cancellable"), {"order": uuid.uuid4().hex}))

        assert cancelled.status == "Cancelled", server.explain(cancelled.id)
        assert service.ran(cancelled.id) == ["before"]

    # Large values.

    def test_a_result_of_four_mebibytes_comes_back_intact(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("large"), {"count": 1, "whole": True}), seconds=60)

        assert run.output == "a" * LARGE
        assert service.ran(run.id) == ["blob"]

    def test_state_too_large_for_a_request_is_fetched_by_the_sdk(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("large"), {"count": 3}), seconds=60)

        assert run.output == [hashlib.sha256(letter * LARGE).hexdigest() for letter in (b"a", b"b", b"c")]
        assert service.ran(run.id) == ["blob"] * 3

    # Events.

    def test_an_event_sent_by_the_service_starts_a_run(self, server: Server, service: Service) -> None:
        ids = service.send(
            {"name": service.event("linear"), "data": {"echo": "first"}},
            {"name": service.event("linear"), "data": {"echo": "second"}},
        )

        assert [server.completed(event_id).output["echo"] for event_id in ids] == ["first", "second"]

    def test_an_event_sent_from_a_step_starts_a_run(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("relay"), {}))
        [event_id] = run.output

        assert server.completed(event_id).output["echo"] == run.id
        assert server.trace(run.id).steps == ["pass on"]

    def test_an_event_sent_without_an_sdk_starts_a_run(self, server: Server, service: Service) -> None:
        [first, second] = server.send_raw([{"name": service.event("linear"), "data": {"echo": n}} for n in (1, 2)])
        [third] = server.send_raw({"name": service.event("linear"), "data": {"echo": 3}}, key="another-key")

        assert [server.completed(event_id).output["echo"] for event_id in (first, second, third)] == [1, 2, 3]

    def test_events_with_the_same_id_start_one_run(self, server: Server, service: Service) -> None:
        same, echo = uuid.uuid4().hex, itertools.count()
        first = server.send(service.event("linear"), {"echo": next(echo)}, id=same)
        if nodes_wanted() > 1:
            server.started(first)  # otherwise the other server may be quicker with the second one
        second = server.send(service.event("linear"), {"echo": next(echo)}, id=same)
        run = server.completed(first)
        # Events are taken in order: when this later one has run, the repeated one has been dealt with.
        server.completed(server.send(service.event("linear"), {"echo": next(echo)}))

        assert run.output["echo"] == 0
        assert service.ran(run.id) == ["one", "two", "three"]
        assert [found.id for found in server.runs_of(second) if found.id != run.id] == []


def _failure_handled(service: Service, run: str) -> Mapping[str, Any] | None:
    """What the handler of `failing` was told about a run; the handler has a run of its own."""
    told = [line.facts["failure"] for line in service.ledger() if line.step == "on-failure"]
    return next((failure for failure in told if failure["run_id"] == run), None)


class OfficialSdkAcrossRestarts:
    """Each test has a server of its own, because it kills it."""

    kind: ClassVar[Kind]

    def test_services_are_remembered_when_the_server_is_killed(self, alone: tuple[Server, Service]) -> None:
        server, service = alone
        service.register()
        before = server.completed(server.send(service.event("linear"), {}))
        server.kill()
        server.start("--no-poll")
        after = server.completed(server.send(service.event("linear"), {"echo": "again"}))

        assert after.output == {"sum": 6, "echo": "again"}
        assert server.run(before.id).output == before.output

    def test_a_run_goes_on_after_the_server_was_killed_in_its_sleep(self, alone: tuple[Server, Service]) -> None:
        server, service = alone
        service.register()
        event_id = server.send(service.event("cancellable"), {"order": uuid.uuid4().hex})
        run = server.started(event_id)
        server.waits_at(run.id, "pause")
        server.kill()
        server.start()
        run = server.completed(event_id)

        assert run.output == "not cancelled"
        assert service.ran(run.id) == ["before", "after"]

    def test_steps_recorded_before_the_server_was_killed_do_not_run_again(self, alone: tuple[Server, Service]) -> None:
        server, service = alone
        service.register()
        event_id = server.send(service.event("steps"), {"count": 200})
        run = server.started(event_id)
        server.wait("fifty steps", 60, lambda: len(service.ran(run.id)) >= 50 or None, run.id)
        server.kill()
        server.start()
        run = server.completed(event_id, seconds=120)
        ran = service.ran(run.id)

        assert run.output == sum(range(200))
        # The one step in flight at the kill may run twice: its result had not reached the server.
        assert len(ran) <= 201
        assert sorted(set(ran)) == sorted(f"step-{i}" for i in range(200))

    def test_a_service_named_on_the_command_line_is_asked_to_register(self, alone: tuple[Server, Service]) -> None:
        server, service = alone
        server.kill()
        server.start("-u", service.url)
        server.wait(
            "the service to be known",
            20,
            lambda: (
                any(
                    function["slug"] == service.slug("linear")
                    for function in server.http.get("/dev").json()["functions"]
                )
                or None
            ),
        )

        assert server.completed(server.send(service.event("linear"), {})).output["sum"] == 6
