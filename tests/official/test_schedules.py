"""A function of each official SDK that starts by the clock, with the server killed in between."""

import contextlib
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.official.conftest import need_node
from tests.official.harness import Kind, Server, Service

pytestmark = pytest.mark.official

TICK = "inngest/scheduled.timer"
KINDS: tuple[Kind, ...] = ("fastapi", "flask", "typescript")


@contextlib.contextmanager
def scheduled(kind: Kind, folder: Path, schedule: str) -> Iterator[tuple[Server, Service]]:
    """A server, and a service whose function `clock` has a schedule; nothing is registered yet."""
    if kind == "typescript":
        need_node()
    server = Server(folder)
    try:
        server.start()
        service = Service(kind, folder, server.url, environment={"SCHEDULE": schedule})
        server.services.append(service)
        try:
            yield server, service
        finally:
            service.close()
    finally:
        server.close()


def ticks(server: Server, count: int) -> list[dict[str, Any]]:
    """The events of the schedule so far, oldest first, once there are so many."""

    def look() -> list[dict[str, Any]] | None:
        found = server.events(TICK)
        return found[::-1] if len(found) >= count else None

    return server.wait(f"{count} occurrences", 30, look)


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_starts_at_each_occurrence_once_across_a_kill(kind: Kind, tmp_path: Path) -> None:
    with scheduled(kind, tmp_path, "@every 1s") as (server, service):
        service.register()
        before = ticks(server, 2)
        server.kill()
        server.start()
        events = ticks(server, len(before) + 3)
        times = [datetime.datetime.fromisoformat(event["id"]) for event in events]

        assert len(set(times)) == len(times)
        assert times == sorted(times)
        assert all(time.microsecond == 0 for time in times)
        assert [event["id"] for event in events[: len(before)]] == [event["id"] for event in before]
        made_twice = 0
        for event in events[:-1]:
            run = server.completed(event["internal_id"])
            assert run.output == {"name": TICK, **event["data"]}
            assert event["data"].keys() == {"cron", "scheduledAt", "fireAt"}
            assert (event["data"]["cron"], event["data"]["scheduledAt"]) == ("@every 1s", event["id"])
            assert set(service.ran(run.id)) == {"tick"}
            made_twice += len(service.ran(run.id)) - 1
            assert server.trace(run.id).steps == ["tick"]
        assert made_twice <= 1, "only a step that ran when the server was killed runs again"


@pytest.mark.parametrize("kind", KINDS)
def test_triggers_of_both_forms_are_listed(kind: Kind, tmp_path: Path) -> None:
    with scheduled(kind, tmp_path, "*/5 * * * *") as (server, service):
        service.register()
        query = "query { functions { slug triggers { type value } } }"
        triggers = {one["slug"]: one["triggers"] for one in server.graphql(query, {})["functions"]}

        assert triggers[service.slug("clock")] == [
            {"type": "CRON", "value": "*/5 * * * *"},
            {"type": "CRON", "value": "TZ=Europe/Berlin 0 9 29 2 *"},
        ]
        assert triggers[service.slug("linear")] == [{"type": "EVENT", "value": service.event("linear")}]


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_registers_a_schedule_that_is_none_is_told_what_to_write(kind: Kind, tmp_path: Path) -> None:
    with scheduled(kind, tmp_path, "* * * * * *") as (_, service):
        response = service.http.put(service.url)

        told = f"function '{service.slug('clock')}', triggers[0].cron: '* * * * * *' has six fields"
        assert told in response.text + service.program.tail(), response.text
        assert "for seconds write '@every 10s'" in response.text + service.program.tail()
