"""A function of our own SDK that starts by the clock, with its worker and its server killed in between."""

from __future__ import annotations

import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.official.harness import Server
from tests.sdk_e2e.harness import a_server, a_service, ended_by

pytestmark = pytest.mark.slow

TICK = "inngest/scheduled.timer"


def ticks(server: Server, count: int) -> list[dict[str, Any]]:
    """The occurrences so far, oldest first, once there are so many."""

    def look() -> list[dict[str, Any]] | None:
        found = server.events(TICK)
        return found[::-1] if len(found) >= count else None

    return server.wait(f"{count} occurrences", 40, look)


def test_a_schedule_goes_on_without_its_worker_and_after_a_kill_of_the_server(tmp_path: Path) -> None:
    with (
        a_server(tmp_path) as server,
        a_service("worker", server, tmp_path, start=False, name="worker-scheduled", app="scheduled") as service,
    ):
        service.start(SCHEDULE="@every 1s")
        count = len(ticks(server, 2))
        ended_by(signal.SIGKILL, service.program)
        count = len(ticks(server, count + 2))
        server.kill()
        server.start()
        service.start(SCHEDULE="@every 1s")
        events = ticks(server, count + 2)

        times = [datetime.fromisoformat(event["id"]) for event in events]
        assert times == sorted(set(times))
        for event in events:
            assert server.completed(event["internal_id"], seconds=40).output == [TICK, event["id"]]


def test_a_changed_schedule_counts_from_its_registration(tmp_path: Path) -> None:
    with (
        a_server(tmp_path) as server,
        a_service("worker", server, tmp_path, start=False, name="worker-scheduled", app="scheduled") as service,
    ):
        service.start(SCHEDULE="0 9 29 2 *")
        assert server.events(TICK) == []
        ended_by(signal.SIGTERM, service.program)
        service.start(SCHEDULE="@every 1s")
        assert {event["data"]["cron"] for event in ticks(server, 2)} == {"@every 1s"}
