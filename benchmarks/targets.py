"""Who is measured: a server of its own for each way in which functions are reached, all with the same functions."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from benchmarks import marks
from benchmarks.client import Client
from benchmarks.marks import Marks
from benchmarks.processes import Child, free_port

READY_S = 60.0
WARM_RUNS = 20

Command: TypeAlias = Callable[[str, int], tuple[list[str], dict[str, str]]]
"""Given the server's address and a port: how to start what runs the functions."""


def _websocket(url: str, port: int) -> tuple[list[str], dict[str, str]]:
    app = str(Path(__file__).parent / "apps" / "own.py")
    return [sys.executable, "-m", "stepwell.cli", "worker", app, "--url", url], {}


def _served(url: str, port: int) -> tuple[list[str], dict[str, str]]:
    return _uvicorn("benchmarks.apps.own:app", port), {"STEPWELL_DEV": "1", "STEPWELL_URL": url}


def _official(url: str, port: int) -> tuple[list[str], dict[str, str]]:
    return _uvicorn("benchmarks.apps.official:app", port), {"INNGEST_DEV": url}


def _uvicorn(app: str, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port)),
        *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "error", "--backlog", "4096"),
    ]


class Target:
    """One server and the process that runs its functions.

    Args:
        name: For tables.
        worker: How to start what runs the functions.
        http: Whether it has to be asked to register.
    """

    def __init__(self, name: str, title: str, worker: Command, *, http: bool) -> None:
        self.name = name
        self.title = title
        self.http = http
        self._worker_command = worker
        self._serial = 0
        self.server: Child
        self.worker: Child
        self.client: Client
        self.marks: Marks

    async def start(self, folder: Path) -> None:
        """On return runs have gone through it."""
        folder.mkdir()
        root = str(Path(__file__).parents[1])
        port, worker_port = free_port(), free_port()
        self.port = port
        command = [sys.executable, "-m", "stepwell.cli", "dev", "--port", str(port), "--data", str(folder / "data")]
        command += ["--no-discovery", "--no-poll"]
        self.server = Child(f"server of {self.name}", command, folder / "server.log", {})
        self.client = Client(port)
        file = folder / "marks"
        self.marks = Marks(file)
        await self._answers("server", port, "GET", "/health")
        more = {marks.VARIABLE: str(file), "PYTHONPATH": root}
        command, environment = self._worker_command(f"http://localhost:{port}", worker_port)
        self.worker = Child(f"worker of {self.name}", command, folder / "worker.log", {**environment, **more})
        if self.http:
            await self._answers("worker", worker_port, "PUT", "/api/inngest")
        await self._registered()
        for _ in range(WARM_RUNS):
            key = self.key()
            await self.client.events([{"name": "bench/seq", "data": {"key": key, "steps": 2}}])
            await self.marks.wait(key, "done")

    def key(self) -> str:
        self._serial += 1
        return f"{self.name}-{self._serial}"

    async def _answers(self, who: str, port: int, method: str, path: str) -> None:
        until = time.monotonic() + READY_S
        while True:
            (self.server if who == "server" else self.worker).check()
            client = Client(port)
            try:
                status, answer = await client.request(method, path)
            except (OSError, EOFError) as err:
                said = repr(err)
            else:
                if status == 200:
                    return
                said = f"{status} {answer[:300]!r}"
            finally:
                client.close()
            if time.monotonic() > until:
                raise TimeoutError(f"{who} of {self.name} does not answer {method} {path}: {said}")
            await asyncio.sleep(0.1)

    async def _registered(self) -> None:
        until = time.monotonic() + READY_S
        while b"bench-seq" not in (await self.client.request("GET", "/api/functions"))[1]:
            self.worker.check()
            if time.monotonic() > until:
                raise TimeoutError(f"the functions of {self.name} are not known to its server")
            await asyncio.sleep(0.05)

    def stop(self) -> None:
        for name in ("client", "marks"):
            if hasattr(self, name):
                getattr(self, name).close()
        for name in ("worker", "server"):
            if hasattr(self, name):
                getattr(self, name).stop()


def targets() -> list[Target]:
    return [
        Target("websocket", "our worker, over its websocket", _websocket, http=False),
        Target("serve", "our SDK, served over HTTP", _served, http=True),
        Target("official", "the official Python SDK, over HTTP (FastAPI)", _official, http=True),
    ]
