"""Real processes to break: a server that can be killed, workers beside it, and outside witnesses of what ran.

    Server        `stepwell dev` on its own port and folder, or several of them on a database behind one port; they stay
                  the same over kills and restarts
    WorkerProgram `stepwell worker APP`, or any other service, in a process of its own
    connected     a worker of our own SDK inside the test, whose functions are written where they are used
    ledger        lines that steps append to a file; neither server nor SDK knows of it

Nothing here sleeps for a fixed time: everything polls until a deadline, and a missed deadline fails with the ends of
the logs. What the server believes is read from its answers, and what is stored from outside (`stored`).
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import httpx2

import stepwell
from stepwell.model.event import DEV_ENV
from stepwell.model.ids import RunId
from stepwell.model.job import RunRow, RunStatus
from stepwell.model.journal import Entry
from stepwell.sdk.worker import Worker
from stepwell.store.base import RunQuery
from stepwell.store.postgres import PostgresStore
from tests.faults.stored import Folder, Stored
from tests.fleet import Balancer

ROOT = Path(__file__).resolve().parents[2]
APPS = Path(__file__).parent / "apps"
MIB = 1024 * 1024
CEILING_BYTES = 512 * MIB
"""What one server process may take."""
ENDED = ("COMPLETED", "FAILED", "CANCELLED")
LEASE_MS = 4_000
"""Of nodes in tests that wait for one to run out; the real one is 10 s."""

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
            port = 20_000 + secrets.randbelow(12_000)  # which no system hands out by itself until it is taken
            try:
                four.bind(("127.0.0.1", port))
            except OSError:
                continue
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

    def memory(self, name: str) -> int:
        """Bytes of memory it takes now (`VmRSS`) or at most took (`VmHWM`)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {name} of {self.name}")


class Server:
    """`stepwell dev` with SQLite in its own folder, or on a database: one of its nodes, or several behind one port.

    Args:
        db: URL of the database; other nodes have the same.
        nodes: So many processes, all on `db`; 0 for one without a balancer before it.
        environment: Of its processes.
        name: Of its logs.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        db: str = "",
        nodes: int = 0,
        environment: Mapping[str, str] = {},
        name: str = "server",
    ) -> None:
        self.name = name
        self.db = db
        self.nodes = nodes
        self.lease_s = LEASE_MS / 1000 if nodes else 0.0
        """How long the work of a process that was killed may stay where it is, beside what a start takes."""
        self._environment = {**environment, "STEPWELL_LEASE_MS": str(LEASE_MS)} if nodes else environment
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data = folder / "data"
        self.logs = [folder / f"{name}{number or ''}.log" for number in range(nodes or 1)]
        self.kills: list[float] = []  # when; by the wall clock, as the ledger is
        self.ready_s = 0.0  # how long the last start took
        self._ports = [free_port() for _ in range(nodes)]
        self._balancer = Balancer(self.port, self._ports) if nodes else None
        self._options = options
        self._programs: dict[int, Program] = {}
        self._store: PostgresStore | None = None
        self.http = self._client()

    def _client(self) -> httpx2.AsyncClient:
        limits = httpx2.Limits(max_keepalive_connections=0) if self.nodes else httpx2.Limits()  # each to another node
        return httpx2.AsyncClient(base_url=self.url, timeout=30, limits=limits)

    @property
    def program(self) -> Program:
        """The process; of several the first."""
        assert self._programs, "not started"
        return self._programs[0]

    @property
    def running(self) -> bool:
        """Whether all of it runs."""
        return bool(self._programs) and all(one.running for one in self._programs.values())

    def memory(self, name: str = "VmHWM") -> int:
        """Bytes that a process of it took at most since it was started, or with `VmRSS` takes now; of several the
        largest."""
        return max(one.memory(name) for one in self._programs.values())

    def begin(self, *options: str, node: int = 0) -> Program:
        """Start it, or of several nodes that one, and do not wait."""
        port = self._ports[node] if self._ports else self.port
        command = [sys.executable, "-m", "stepwell.cli", "dev", "--port", str(port)]
        command += ["--db", self.db] if self.db else ["--data", str(self.data)]
        command += ["--no-discovery", "--no-poll", "--retry-interval", "1", *self._options, *options]
        name = f"the {self.logs[node].stem}"
        self._programs[node] = Program(name, command, self.logs[node], self._environment)
        return self._programs[node]

    async def start(self, *options: str, within: float = 30) -> None:
        """Start what does not run, and wait until all of it answers."""
        begun = time.monotonic()
        for node in range(self.nodes or 1):
            if node not in self._programs or not self._programs[node].running:
                self.begin(*options, node=node)
        await until("an answer of the server", self._answers, within * (self.nodes or 1), self.explain)
        self.ready_s = time.monotonic() - begun

    def kill(self, node: int | None = None) -> None:
        """End it, or of several nodes only that one, as a power cut would."""
        self.kills.append(time.time())
        for program in self._programs.values() if node is None else [self._programs[node]]:
            program.kill()

    async def restart(self, node: int | None = None) -> None:
        self.kill(node)
        await self.start()

    def seen_again(self) -> Server:
        """The same processes, for another event loop."""
        again = copy.copy(self)
        again._store = None
        again.http = again._client()
        return again

    async def look_away(self) -> None:
        """Close what this object has open; the processes go on."""
        await self.http.aclose()
        if self._store is not None:
            await self._store.close()

    async def stop(self) -> None:
        """Ask all of it to end."""
        await asyncio.gather(*(one.stop() for one in self._programs.values() if one.running))

    async def close(self) -> None:
        """Stop what runs; what is stored stays."""
        await self.stop()
        await self.look_away()
        if self._balancer is not None:
            self._balancer.close()
            self._balancer = None

    def explain(self) -> str:
        return "\n".join(one.tail() for one in self._programs.values())

    def said(self) -> str:
        """All that it logged."""
        return "\n".join(log.read_text() for log in self.logs)

    async def _answers(self) -> bool:
        assert self.running, f"the server ended by itself\n{self.explain()}"
        try:
            for port in self._ports or [self.port]:
                if (await self.http.get(f"http://127.0.0.1:{port}/health", timeout=5)).status_code != 200:
                    return False
        except httpx2.TransportError:
            return False
        return True

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

    # what is stored, seen from outside

    @asynccontextmanager
    async def stored(self) -> AsyncIterator[Stored]:
        """What the database holds now, whether or not anything of the server runs."""
        if not self.db:
            with contextlib.closing(Folder(self.data)) as folder:
                yield folder
            return
        if self._store is None:
            store = PostgresStore(self.db)
            await store.open()
            self._store = store
        yield self._store

    async def rows(self, *functions: str) -> list[RunRow]:
        """All runs, or those of these functions."""
        async with self.stored() as on:
            return await on.runs(RunQuery(env=DEV_ENV, functions=functions or None, limit=1_000_000))

    async def count(self, *functions: str, statuses: Sequence[str] | None = None) -> int:
        """How many runs there are, of these functions and with one of these statuses."""
        wanted = None if statuses is None else tuple(RunStatus(one) for one in statuses)
        async with self.stored() as on:
            return await on.count_runs(RunQuery(env=DEV_ENV, functions=functions or None, statuses=wanted))

    async def waits(self) -> int:
        async with self.stored() as on:
            return int((await on.status())["waits"])

    async def journal(self, run: str) -> Sequence[Entry]:
        async with self.stored() as on:
            found = await on.load_run(RunId(run))
        assert found is not None, f"no run {run}"
        return found.entries

    async def left_of(self, run: str) -> list[object]:
        """Everything that is still to be done for a run."""
        async with self.stored() as on:
            return [*await on.jobs_of(RunId(run)), *await on.waits_of(RunId(run))]


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
