"""What the process with the functions holds while a model thinks: nothing of those runs.

Over HTTP that is so at once; over the websocket a function that only waits stays in memory for five seconds, in case
its answer comes soon.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psutil
import pytest

from stepwell.testing.provider import Provider, held, say
from tests.fleet import once
from tests.official.harness import Run, Server, until
from tests.sdk_e2e.harness import OwnKind, OwnService, a_server, a_service

pytestmark = [pytest.mark.slow, once]

RUNS = 20
IDLE_S = 5.0
"""How long a worker keeps a function that only waits."""


@dataclass(frozen=True)
class Held:
    """What a process holds."""

    tasks: tuple[str, ...]
    threads: int
    requests: int
    sockets: int


class Watched:
    """A service whose process tells what it holds."""

    def __init__(self, kind: OwnKind, server: Server, service: OwnService, folder: Path) -> None:
        self.kind, self.server, self.service = kind, server, service
        self._census = folder / "census"
        self._census.touch()
        service.start(CENSUS=str(self._census))
        service.register()

    def held(self) -> Held:
        before = len(self._census.read_text().splitlines())
        process = self.service.program.process
        process.send_signal(signal.SIGUSR1)

        def told() -> str | None:
            text = self._census.read_text()
            return text.splitlines()[-1] if text.count("\n") > before else None

        found = json.loads(until("the census", 10, told, self.service.program.tail))
        sockets = psutil.Process(process.pid).net_connections("inet")
        open_ones = sum(one.status == psutil.CONN_ESTABLISHED for one in sockets)
        return Held(tuple(found["tasks"]), len(found["threads"]), found["requests"], open_ones)

    def quiet(self, seconds: float) -> Held:
        """What it holds once that has not changed for half a second."""
        deadline = time.monotonic() + seconds
        last, since = self.held(), time.monotonic()
        while time.monotonic() < min(deadline, since + 0.5):
            time.sleep(0.05)
            if (now := self.held()) != last:
                last, since = now, time.monotonic()
        return last

    def ask(self, provider: Provider, function: str) -> list[Run]:
        """Begin runs, whose requests have reached the provider on return and wait there."""
        events = [self.server.send(self.service.event(function), {"provider": provider.url}) for _ in range(RUNS)]
        runs = [self.server.started(event) for event in events]
        provider.wait(RUNS)
        for run in runs:
            self.server.waits_at(run.id, "ask")
        return runs

    def answer(self, provider: Provider, runs: list[Run]) -> None:
        provider.release(RUNS)
        for run in runs:
            assert self.server.ended(run.id).status == "Completed", self.server.explain(run.id)


@pytest.fixture(scope="module", params=["uvicorn", "worker"])
def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    kind = cast(OwnKind, request.param)
    folder = tmp_path_factory.mktemp(kind)
    with (
        a_server(folder) as server,
        a_service(kind, server, folder, start=False, name=f"held-{kind}", app="asking") as service,
    ):
        yield Watched(kind, server, service, folder)


@pytest.mark.parametrize("function", ["infer", "infer-plain"])
def test_while_models_think_nothing_of_their_runs_is_held(function: str, watched: Watched) -> None:
    with Provider(held(say(json={"title": "Fire", "urgency": "low"}))) as provider:
        watched.answer(provider, watched.ask(provider, function))  # what only needs to be there once is there
    with Provider(held(say(json={"title": "Fire", "urgency": "low"}))) as provider:
        before = watched.quiet(10)
        runs = watched.ask(provider, function)
        if watched.kind == "worker":
            assert len(watched.held().tasks) >= len(before.tasks) + RUNS, "for a moment they are kept"
            watched.server.wait("the suspension", IDLE_S + 10, lambda: _left(watched.service, runs))
        during = watched.quiet(3)

        assert provider.most_in_flight == RUNS
        assert during.requests == 0
        assert during.tasks == before.tasks
        assert during.threads <= before.threads
        assert during.sockets <= before.sockets
        watched.answer(provider, runs)
    after = watched.quiet(10)
    assert after.requests == 0
    assert after.tasks == before.tasks


def _left(service: OwnService, runs: list[Run]) -> bool | None:
    return True if all("suspended" in service.outcomes(run.id) for run in runs) else None
