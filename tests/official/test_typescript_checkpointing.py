"""The official TypeScript SDK reports steps while its call is open: by default, and when all kinds of things go wrong.

Every request passes a proxy, once from the server to the service and once from the service to the server, so the tests
see and disturb both.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.official.conftest import need_node
from tests.official.harness import Server, Service
from tests.official.proxy import Proxy, proxy

pytestmark = pytest.mark.official

CALL = "fnId="
CHECKPOINT = "/v1/checkpoint/"


class World:
    """A server, a service, and a proxy on each way between them."""

    def __init__(self, server: Server, service: Service, to_service: Proxy, to_server: Proxy) -> None:
        self.server = server
        self.service = service
        self.to_service = to_service
        self.to_server = to_server

    def calls(self) -> int:
        return len(self.to_service.statuses(CALL))

    def checkpoints(self) -> list[int | None]:
        return self.to_server.statuses(CHECKPOINT)

    def completed(self, function: str, data: dict[str, object] | None = None) -> tuple[str, object]:
        """Run a function to its end. Its id, and what it returned."""
        run = self.server.completed(self.server.send(self.service.event(function), data or {}))
        return run.id, run.output


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    need_node()
    folder = tmp_path_factory.mktemp("checkpointing")
    with contextlib.ExitStack() as stack:
        server = Server(folder)
        stack.callback(server.close)
        server.start()
        to_server = stack.enter_context(proxy(server.url))
        to_service = stack.enter_context(proxy(""))
        service = Service(
            "typescript",
            folder,
            to_server.url,
            script="checkpointing.mjs",
            environment={"INNGEST_SERVE_ORIGIN": to_service.url},
        )
        stack.callback(service.close)
        to_service.target = f"http://127.0.0.1:{service.port}"
        server.services.append(service)
        service.register()
        yield World(server, service, to_service, to_server)


@pytest.fixture
def world(programs: World) -> Iterator[World]:
    for one in (programs.to_service, programs.to_server):
        one.passed.clear()
        one.refused.clear()
    yield programs
    for one in (programs.to_service, programs.to_server):
        one.refuse = lambda method, path: None
        one.patience_s = lambda method, path: None
        one.lose = lambda method, path: False


def test_a_sequence_of_steps_takes_one_call_and_a_checkpoint_each(world: World) -> None:
    run, output = world.completed("slow", {"count": 5, "ms": 20})

    assert output == 10
    assert world.service.ran(run) == [f"step-{n}" for n in range(5)]
    assert world.calls() == 1
    assert world.checkpoints() == [200] * 5


def test_the_trace_shows_each_step_when_it_ran(world: World) -> None:
    run, _ = world.completed("slow", {"count": 3, "ms": 100})
    root = world.server.trace(run)
    answer = world.server.http.get(f"/api/runs/{run}").json()
    steps = [one for one in answer["trace"]["children"] if one["name"] != "Finalization"]
    times = [(_seconds(one["started_at"]), _seconds(one["ended_at"])) for one in steps]
    began = [line.time for line in world.service.ledger(run)[1:]]

    assert root.status == "COMPLETED"
    assert root.steps == ["step-0", "step-1", "step-2"]
    assert [(one["status"], one["attempts"]) for one in steps] == [("COMPLETED", 1)] * 3
    for (start, end), at in zip(times, began, strict=True):
        assert abs(start - at) < 0.05
        assert 0.09 <= end - start < 0.2
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(times))
    assert len(answer["requests"]) == 1


def test_parallel_steps_between_reported_ones_are_planned(world: World) -> None:
    run, output = world.completed("mixed")
    ran = world.service.ran(run)

    assert output == list("abcdef")
    assert sorted(ran) == list("abcdef")
    assert (ran[0], set(ran[1:3]), ran[3:]) == ("a", {"b", "c"}, ["d", "e", "f"])
    # a and the plan, b, c, d and the sleep, e and f and the result
    assert world.calls() == 5
    assert world.checkpoints() == [200] * 4
    assert sorted(world.server.trace(run).steps) == ["a", "b", "c", "d", "e", "f", "nap"]


def test_each_step_has_all_its_attempts_and_what_is_recorded_does_not_run_again(world: World) -> None:
    run, output = world.completed("flaky")

    assert output == 2
    assert Counter(world.service.ran(run)) == {"before": 1, "flaky": 3, "between": 1, "flaky again": 3}
    assert world.service.attempts(run, "flaky") == [0, 1, 2]
    assert world.service.attempts(run, "between") == [0]
    assert world.service.attempts(run, "flaky again") == [0, 1, 2]
    spans = {child.name: child for child in world.server.trace(run).children}
    assert {name: spans[name].attempts for name in ("before", "flaky", "between", "flaky again")} == {
        "before": 1,
        "flaky": 3,
        "between": 1,
        "flaky again": 3,
    }


def test_a_function_that_fails_after_a_checkpoint_goes_on_from_there(world: World) -> None:
    run, output = world.completed("stumbling")

    assert output == "after"
    assert world.service.ran(run) == ["before", "after"]


def test_a_cancelled_run_stops_at_its_next_checkpoint(world: World) -> None:
    server, service = world.server, world.service
    run = server.started(server.send(service.event("slow"), {"count": 50, "ms": 200}))
    server.wait("two checkpoints", 20, lambda: len(world.checkpoints()) >= 2 or None, run.id)
    assert server.http.delete(f"/v1/runs/{run.id}").status_code == 200
    server.wait("the refusal", 20, lambda: 409 in world.checkpoints() or None, run.id)
    time.sleep(0.5)
    ran = service.ran(run.id)
    time.sleep(0.5)

    assert server.run(run.id).status == "Cancelled"
    assert service.ran(run.id) == ran
    assert len(ran) < 10
    assert world.checkpoints()[-1] == 409
    assert world.calls() == 1


def test_a_call_that_would_last_too_long_is_left_and_made_again(world: World) -> None:
    run, output = world.completed("brief", {"count": 6, "ms": 120})

    assert output == 15
    assert world.service.ran(run) == [f"step-{n}" for n in range(6)]
    assert 2 <= world.calls() <= 6
    assert set(world.checkpoints()) == {200}


def test_several_steps_in_one_checkpoint(world: World) -> None:
    run, output = world.completed("buffered", {"count": 7, "ms": 1})

    assert output == 21
    assert world.service.ran(run) == [f"step-{n}" for n in range(7)]
    assert world.calls() == 1
    assert len(world.checkpoints()) == 2  # three and three; the last is in the answer
    assert world.server.trace(run).steps == [f"step-{n}" for n in range(7)]


def test_a_service_that_wants_no_checkpoints_answers_each_step(world: World) -> None:
    run, output = world.completed("classic", {"count": 3, "ms": 1})

    assert output == 3
    assert world.service.ran(run) == ["step-0", "step-1", "step-2"]
    assert world.calls() == 4
    assert world.checkpoints() == []


@pytest.mark.parametrize("function", ["slow", "buffered"])
def test_steps_that_cannot_be_reported_come_with_the_answer(world: World, function: str) -> None:
    world.to_server.refuse = lambda method, path: 503 if CHECKPOINT in path else None
    run, output = world.completed(function, {"count": 4, "ms": 1})

    assert output == 6
    assert world.service.ran(run) == [f"step-{n}" for n in range(4)]
    assert world.checkpoints() == []
    assert len(world.to_server.refused) == (20 if function == "slow" else 5)  # five tries each
    assert world.server.trace(run).steps == [f"step-{n}" for n in range(4)]


def test_a_checkpoint_whose_answer_is_lost_is_recorded_once(world: World) -> None:
    world.to_server.lose = lambda method, path: CHECKPOINT in path
    run, output = world.completed("slow", {"count": 2, "ms": 1})

    assert output == 1
    assert world.service.ran(run) == ["step-0", "step-1"]
    assert set(world.checkpoints()) == {None}
    assert world.server.trace(run).steps == ["step-0", "step-1"]


@pytest.mark.parametrize(
    ("patience_s", "executions"),
    [
        pytest.param(0.3, {"step-0": 2, "step-1": 1, "step-2": 1, "step-3": 1}, id="in the first step"),
        pytest.param(1.0, {"step-0": 1, "step-1": 2, "step-2": 1, "step-3": 1}, id="after a checkpoint"),
    ],
)
def test_a_proxy_that_gives_up_on_a_call_leaves_a_zombie_that_records_nothing(
    world: World, patience_s: float, executions: dict[str, int]
) -> None:
    first = iter([patience_s])
    world.to_service.patience_s = lambda method, path: next(first, None) if CALL in path else None
    run, output = world.completed("slow", {"count": 4, "ms": 700})

    assert output == 6
    assert Counter(world.service.ran(run)) == executions
    assert world.to_service.statuses(CALL)[0] is None
    assert world.checkpoints().count(409) == 1
    names = world.server.trace(run).steps
    assert [name for name in names if name != "Execution"] == [f"step-{n}" for n in range(4)]


def _seconds(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()
