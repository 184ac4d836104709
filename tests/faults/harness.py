"""Real processes to break: a server that can be killed, workers beside it, and outside witnesses of what ran.

    Server        `stepwell dev` on its own port and folder; both stay the same over kills and restarts
    WorkerProgram `stepwell worker APP`, or any other service, in a process of its own
    connected     a worker of our own SDK inside the test, whose functions are written where they are used
    ledger        lines that steps append to a file; neither server nor SDK knows of it

Nothing here sleeps for a fixed time: everything polls until a deadline, and a missed deadline fails with the ends of
the logs. What the server believes is read from its answers, and from its database by a connection that only reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import httpx2

import stepwell
from stepwell.sdk.worker import Worker

ROOT = Path(__file__).resolve().parents[2]
APPS = Path(__file__).parent / "apps"
MIB = 1024 * 1024
CEILING_BYTES = 512 * MIB
"""What one server process may take."""
ENDED = ("COMPLETED", "FAILED", "CANCELLED")

# Even a test run that is killed leaves no process behind.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
pr_set_pdeathsig = 1
ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
os.execv(sys.argv[1], sys.argv[1:])
"""

T = TypeVar("T")


class NotYet(AssertionError):
    """Something did not happen before its deadline."""


@overload
async def until(
    what: str, look: Callable[[], Awaitable[T | None]], seconds: float = 30, explain: Callable[[], str] = str
) -> T: ...
@overload
async def until(
    what: str, look: Callable[[], T | None], seconds: float = 30, explain: Callable[[], str] = str
) -> T: ...
async def until(what: str, look: Callable[[], Any], seconds: float = 30, explain: Callable[[], str] = str) -> Any:
    """Look again and again until there is an answer; an answer is anything but `None` and `False`."""
    deadline = time.monotonic() + seconds
    pause = 0.01
    while True:
        found = look()
        answer = await found if isinstance(found, Awaitable) else found
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > deadline:
            raise NotYet(f"{what}: not within {seconds:g} s\n{explain()}")
        await asyncio.sleep(pause)
        pause = min(pause * 1.4, 0.2)


def free_port() -> int:
    """A port that is free on both loopbacks: `localhost` may be either."""
    for _ in range(100):
        with socket.socket(socket.AF_INET) as four, socket.socket(socket.AF_INET6) as six:
            four.bind(("127.0.0.1", 0))
            port = int(four.getsockname()[1])
            try:
                six.bind(("::1", port))
            except OSError as err:
                if err.errno in (97, 99):  # no IPv6 on this machine
                    return port
                continue
            return port
    raise NotYet("no port is free on both loopbacks")


class Program:
    """A child process whose output goes to a file."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] = {}) -> None:
        self.name = name
        self.log = log
        path = os.pathsep.join(filter(None, [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]))
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-c", _DIE_WITH_PARENT, *command] if sys.platform == "linux" else command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path, **environment},
                stdout=output,
                stderr=output,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """End it as a power cut would end it."""
        self.process.kill()
        self.process.wait(10)

    async def stop(self) -> int:
        """Ask it to end, and make sure that it does. Its exit status."""
        if self.running:
            self.process.send_signal(signal.SIGTERM)
        try:
            await until(f"the end of {self.name}", lambda: not self.running, 20, self.tail)
        except NotYet:
            self.kill()
            raise
        return int(self.process.returncode)

    def tail(self, lines: int = 40) -> str:
        text = self.log.read_text(errors="replace").splitlines()
        return "\n".join([f"--- {self.name}: {self.log}", *text[-lines:]])

    def memory(self, name: str = "VmRSS") -> int:
        """Bytes of memory it takes now, or with `VmHWM` at most took."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {name} of {self.name}")


class Server:
    """`stepwell dev` with SQLite in its own folder, or as one of several nodes on a database.

    Args:
        db: URL of the database; the other nodes have the same.
        environment: Of its process.
        name: Of its log.
    """

    def __init__(
        self, folder: Path, *options: str, db: str = "", environment: Mapping[str, str] = {}, name: str = "server"
    ) -> None:
        self.name = name
        self.db = db
        self._environment = environment
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data = folder / "data"
        self.http = httpx2.AsyncClient(base_url=self.url, timeout=30)
        self.log = folder / f"{name}.log"
        self.kills: list[float] = []  # when; by the wall clock, as the ledger is
        self.ready_s = 0.0  # how long the last start took
        self._options = options
        self._program: Program | None = None

    @property
    def program(self) -> Program:
        assert self._program is not None, "not started"
        return self._program

    @property
    def running(self) -> bool:
        return self._program is not None and self._program.running

    def begin(self, *options: str) -> Program:
        """Start it and do not wait."""
        command = [sys.executable, "-m", "stepwell.cli", "dev", "--port", str(self.port)]
        command += ["--db", self.db] if self.db else ["--data", str(self.data)]
        command += ["--no-discovery", "--no-poll", "--retry-interval", "1", *self._options, *options]
        self._program = Program(f"the {self.name}", command, self.log, self._environment)
        return self._program

    async def start(self, *options: str, within: float = 30) -> None:
        begun = time.monotonic()
        self.begin(*options)
        await until("an answer of the server", self._answers, within, self.explain)
        self.ready_s = time.monotonic() - begun

    def kill(self) -> None:
        self.kills.append(time.time())
        self.program.kill()

    async def restart(self, *options: str) -> None:
        self.kill()
        await self.start(*options)

    def seen_again(self) -> Server:
        """The same process, for another event loop."""
        again = copy.copy(self)
        again.http = httpx2.AsyncClient(base_url=self.url, timeout=30)
        return again

    async def close(self) -> None:
        """Stop it if it runs; its folder stays."""
        if self.running:
            await self.program.stop()
        await self.http.aclose()

    def explain(self) -> str:
        return self.program.tail() if self._program is not None else ""

    async def _answers(self) -> bool:
        assert self.running, f"the server ended by itself\n{self.explain()}"
        try:
            return (await self.http.get("/health", timeout=5)).status_code == 200
        except httpx2.TransportError:
            return False

    # events and runs

    async def send(self, *events: Mapping[str, Any]) -> list[str]:
        """Send events; their ids."""
        response = await self.http.post("/e/faults", json=[dict(event) for event in events])
        assert response.status_code == 200, response.text
        ids: list[str] = response.json()["ids"]
        return ids

    async def event(self, name: str, **data: Any) -> str:
        """Send one event; its id."""
        (event_id,) = await self.send({"name": name, "data": data})
        return event_id

    async def run_of(self, event_id: str, seconds: float = 20) -> str:
        """The id of the one run that the event starts."""

        async def look() -> str | None:
            found = await self.get(f"/v1/events/{event_id}/runs")
            assert len(found["data"]) < 2, f"one event started several runs: {found}"
            return str(found["data"][0]["run_id"]) if found["data"] else None

        return await until(f"a run of event {event_id}", look, seconds, self.explain)

    async def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.get(f"/api/runs/{run_id}")
        return found

    async def ended(self, run_id: str, seconds: float = 30) -> dict[str, Any]:
        """The run once it has ended, however it ended."""

        async def look() -> dict[str, Any] | None:
            run = await self.run(run_id)
            return run if run["status"] in ENDED else None

        return await until(f"the end of run {run_id}", look, seconds, self.explain)

    async def completed(self, run_id: str, seconds: float = 30) -> dict[str, Any]:
        run = await self.ended(run_id, seconds)
        assert run["status"] == "COMPLETED", f"{json.dumps(run, indent=1)}\n{self.explain()}"
        return run

    async def all_ended(self, seconds: float) -> None:
        """Wait until no run is live, however many there are."""

        async def look() -> bool:
            status = await self.status()
            return bool(status["store"]["live_runs"] == 0 and status["store"]["jobs"] == 0)

        await until("the end of all runs", look, seconds, self.explain)

    async def status(self) -> dict[str, Any]:
        found: dict[str, Any] = await self.get("/api/status")
        return found

    async def get(self, path: str) -> Any:
        response = await self.http.get(path)
        assert response.status_code == 200, f"GET {path}: {response.status_code} {response.text[:500]}"
        return response.json()

    async def functions(self) -> list[str]:
        return [one["slug"] for one in (await self.get("/api/functions"))["functions"]]

    async def serves(self, *slugs: str, seconds: float = 30) -> None:
        """Wait until these functions are registered."""

        async def look() -> bool:
            return set(slugs) <= set(await self.functions())

        await until(f"the functions {slugs}", look, seconds, self.explain)

    # the database, seen from outside

    @contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(f"file:{self.data / 'stepwell.db'}?mode=ro", uri=True, timeout=10)
        try:
            yield connection
        finally:
            connection.close()

    def sql(self, query: str, *parameters: Any) -> list[Any]:
        with self.database() as on:
            return on.execute(query, parameters).fetchall()

    def count(self, query: str, *parameters: Any) -> int:
        return int(self.sql(query, *parameters)[0][0])


# workers


class WorkerProgram(Program):
    """`stepwell worker APP` with a ledger file."""

    def __init__(self, app: str, server: Server, folder: Path, *options: str, ledger: Path | None = None) -> None:
        self.ledger_file = ledger or folder / f"{app}.ledger"
        self.ledger_file.touch()
        command = [sys.executable, "-m", "stepwell.cli", "worker", str(APPS / f"{app}.py"), "--url", server.url]
        number = len(list(folder.glob(f"{app}*.log")))
        super().__init__(
            f"worker {app}", [*command, *options], folder / f"{app}-{number}.log", {"LEDGER": str(self.ledger_file)}
        )

    def ledger(self) -> list[Line]:
        return read_ledger(self.ledger_file)


@asynccontextmanager
async def connected(server: Server, service: stepwell.Service, **options: Any) -> AsyncIterator[Worker]:
    """A worker inside the test, connected; drained in the end."""
    options.setdefault("drain_limit_s", 2.0)
    worker = Worker(service, server.url, **options)
    running = asyncio.create_task(worker.run())
    try:
        await asyncio.wait_for(worker.is_connected.wait(), 30)
        yield worker
    finally:
        worker.drain()
        try:
            await asyncio.wait_for(running, 20)
        except TimeoutError:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def reconnected(worker: Worker) -> None:
    """Wait until a worker has a connection again, after its server was gone."""
    await asyncio.wait_for(worker.is_connected.wait(), 30)


# ledgers


@dataclass(frozen=True, slots=True)
class Line:
    """This step of this run was entered then."""

    run: str
    step: str
    attempt: int
    at: float


def read_ledger(file: Path) -> list[Line]:
    """The whole lines; a last one that is being written is left out."""
    text = file.read_text()
    whole = text[: text.rfind("\n") + 1]
    return [Line(*json.loads(line)) for line in whole.splitlines()]


async def gathered(what: Sequence[Awaitable[T]], at_once: int = 50) -> list[T]:
    """The results, in order, of many requests, a few of them at a time."""
    room = asyncio.Semaphore(at_once)

    async def one(awaitable: Awaitable[T]) -> T:
        async with room:
            return await awaitable

    return list(await asyncio.gather(*map(one, what)))


@contextlib.contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Seconds since the `with` began; after it, how long it took."""
    begun = time.monotonic()
    ended: list[float] = []
    try:
        yield lambda: (ended[0] if ended else time.monotonic()) - begun
    finally:
        ended.append(time.monotonic())
