"""Limits that runs share, as the official SDKs ask for them, with the server killed in between."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.official.conftest import need_node
from tests.official.harness import FUNCTION, Kind, Run, Server, Service

pytestmark = pytest.mark.official

KINDS: tuple[Kind, ...] = ("fastapi", "flask", "typescript")


@contextlib.contextmanager
def limited(kind: Kind, folder: Path) -> Iterator[tuple[Server, Service]]:
    if kind == "typescript":
        need_node()
    server = Server(folder)
    try:
        server.start()
        service = Service(kind, folder, server.url, environment={"LIMITS": "1"})
        server.services.append(service)
        try:
            service.register()
            yield server, service
        finally:
            service.close()
    finally:
        server.close()


def at_once(service: Service, runs: set[str]) -> int:
    """The most steps that were at work at the same time, of those runs."""
    changes = sorted(
        (line.time, 1 if line.step == "work" else -1)
        for line in service.ledger()
        if line.run in runs and line.step in ("work", "end")
    )
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


@pytest.mark.parametrize("kind", KINDS)
def test_runs_of_a_key_take_turns_and_the_most_urgent_comes_first(kind: Kind, tmp_path: Path) -> None:
    with limited(kind, tmp_path) as (server, service):
        send = service.event("limited")
        mine = [server.send(send, {"user": "a", "number": n, "priority": 600 if n == 7 else 0}) for n in range(8)]
        other = server.send(send, {"user": "b", "number": 100, "priority": 0})
        beside = server.completed(other)
        runs = [server.completed(event) for event in mine]
        began = {line.run: line.time for line in service.ledger() if line.step == "work"}

        assert [run.output for run in runs] == list(range(8))
        assert at_once(service, {run.id for run in runs}) == 2
        assert began[runs[7].id] < began[runs[6].id]
        assert began[beside.id] < began[runs[6].id]


@pytest.mark.parametrize("kind", KINDS)
def test_places_survive_the_death_of_the_server(kind: Kind, tmp_path: Path) -> None:
    with limited(kind, tmp_path) as (server, service):
        events = [server.send(service.event("limited"), {"user": "a", "number": n, "priority": 0}) for n in range(6)]
        server.wait("the first step", 20, lambda: [one for one in service.ledger() if one.step == "work"] or None)
        server.kill()
        server.start()
        runs = [server.completed(event, seconds=60) for event in events]

        assert [run.output for run in runs] == list(range(6))


@pytest.mark.parametrize("kind", KINDS)
def test_starts_are_spread_or_skipped(kind: Kind, tmp_path: Path) -> None:
    with limited(kind, tmp_path) as (server, service):
        throttled = [server.completed(server.send(service.event("throttled"), {"n": n})) for n in range(3)]
        rated = [server.send(service.event("rated"), {"user": user}) for user in ("a", "a", "b")]
        once = [server.send(service.event("once"), {"cart": cart}) for cart in ("x", "y", "x")]
        times = [line.time for run in throttled for line in service.ledger(run.id) if line.step == FUNCTION]

        assert times[2] - times[0] > 1.5
        # Which of two events starts its run is not said where two servers look at them at once.
        for a, another_a, b in (rated, [once[0], once[2], once[1]]):
            assert server.completed(b).status == "Completed"

            def runs(events: tuple[str, ...] = (a, another_a)) -> list[Run] | None:
                return [run for event in events for run in server.runs_of(event)] or None

            (run,) = server.wait("a run of either", 15, runs)
            assert server.ended(run.id).status == "Completed"
