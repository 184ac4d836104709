"""Services on our own SDK as separate programs, seen from outside in the same way as those on the official SDKs.

    worker             asynchronous functions, `stepwell worker` over the websocket
    blocking-worker    plain `def` functions, likewise
    uvicorn            asynchronous functions, `service.asgi()` on uvicorn
    flask              plain `def` functions on Flask

`tests.official.harness` has the server, the programs and the ledger.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import httpx2

import stepwell
from tests.official.harness import FUNCTION, ROOT, Kind, Program, Server, Service, free_port, until

OwnKind = Literal["worker", "blocking-worker", "uvicorn", "flask"]
APPS = ROOT / "tests" / "sdk_e2e" / "apps"
PATH = os.pathsep.join(filter(None, [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]))


class OwnService(Service):
    """A sample service and its ledger; of a worker there may be several processes.

    Args:
        name: Of the service; also begins the names of its events.
        app: Another program than the usual one, by the name of its file.
        python: Another interpreter, with libraries of its own.
    """

    def __init__(
        self,
        kind: OwnKind,
        folder: Path,
        server: Server,
        *,
        name: str = "",
        app: str = "",
        python: str = sys.executable,
    ) -> None:
        self.kind = cast(Kind, name or kind)
        self._python = python
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}" + ("/api/inngest" if kind == "flask" else "")
        self.http = httpx2.Client(timeout=60)
        self.client = stepwell.Client(server.url)
        self.is_worker = kind.endswith("worker")
        self.programs: list[Program] = []
        self._app = str(APPS / f"{app or ('blocking' if kind == 'blocking-worker' else 'functions')}.py")
        self._module = f"tests.sdk_e2e.apps.{app or 'serve'}"
        self._http_kind = kind
        self.server = server
        self._folder = folder
        self._ledger = folder / f"{kind}-{self.port}.ledger"
        self._ledger.touch()

    def start(self, **environment: str) -> Program:
        """One more process. A worker is there when the server knows its functions."""
        number = len(self.programs)
        program = Program(
            f"{self.kind}-{number}",
            [
                self._python,
                "-m",
                *(("stepwell.cli", "worker", self._app) if self.is_worker else (self._module, self._http_kind)),
            ],
            {
                "PORT": str(self.port),
                "SERVICE": str(self.kind),
                "LEDGER": str(self._ledger),
                "STEPWELL_URL": self.server.url,
                "STEPWELL_DEV": "1",
                "PYTHONPATH": PATH,
                **environment,
            },
            self._folder / f"{self.kind}-{self.port}-{number}.log",
            ROOT,
        )
        self.programs.append(program)
        self.program = program
        until(f"{program.name} answers", 60, self._connected if self.is_worker else self._answers, program.tail)
        return program

    def register(self) -> dict[str, Any]:
        return {} if self.is_worker else super().register()

    def send(self, *events: Mapping[str, Any]) -> list[str]:
        """Send events with our own client."""
        return list(self.client.send([dict(event) for event in events]).ids)

    def lines(self, text: str) -> list[str]:
        """What the functions logged, of lines that hold `text`."""
        return [
            str(line.facts["text"]) for line in self.ledger() if line.step == "line" and text in str(line.facts["text"])
        ]

    def pids(self, run: str) -> list[int]:
        """The processes that a run's function was entered in, in order."""
        return [int(line.facts["pid"]) for line in self.ledger(run) if line.step == FUNCTION]

    def let_go(self) -> None:
        """Let the steps end that were asked to wait for this."""
        self._ledger.with_name(f"{self._ledger.name}.go").touch()

    def outcomes(self, run: str) -> list[str | None]:
        """How each call of a run ended, as the server tells it."""
        return [one["outcome"] for one in self.http.get(f"{self.server.url}/api/runs/{run}").json()["requests"]]

    def close(self) -> None:
        for program in self.programs:
            program.stop()
        self.http.close()
        self.client.close()

    def _connected(self) -> Literal[True] | None:
        assert self.program.process.poll() is None, self.program.tail()
        return True if " connected to " in self.program.log.read_text(errors="replace") else None


@contextlib.contextmanager
def a_server(folder: Path, *options: str) -> Iterator[Server]:
    server = Server(folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def a_service(kind: OwnKind, server: Server, folder: Path, *, start: bool = True, **more: str) -> Iterator[OwnService]:
    """A service, and unless `start` is False a process of it that the server knows. `more` as for `OwnService`."""
    service = OwnService(kind, folder, server, **more)
    server.services.append(service)
    try:
        if start:
            service.start()
            service.register()
        yield service
    finally:
        service.close()
        server.services.remove(service)


def ended_by(sig: signal.Signals, program: Program, seconds: float = 20) -> int:
    """Send a signal and wait for the end of the program. Its exit status."""
    program.process.send_signal(sig)
    return program.process.wait(seconds)
