"""Who is measured: servers of its own for each way in which functions are reached, all with the same functions.

`Target` is what workloads know: start runs, read marks, look at processes, kill and start again. `Stepwell` is this
product with one of its workers; other products are in `benchmarks/peers`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks import marks
from benchmarks.client import Client
from benchmarks.marks import Marks
from benchmarks.postgres import Database
from benchmarks.processes import Child, free_port

READY_S = 120.0
WARM_RUNS = 20
ROOT = Path(__file__).parents[1]
NODE_MODULES = ROOT / "tests" / "official" / "typescript" / "node_modules"

Command: TypeAlias = Callable[[str, int], tuple[list[str], dict[str, str]]]
"""Given the server's address and a port: how to start what runs the functions."""


class Target:
    """One system under test. Starts, stops and is asked for runs; nothing is read from its own metrics.

    Args:
        name: For tables and `--only`.
        title: One line of a heading.
        http: Whether it reaches the functions by requests; otherwise over one connection.
        durable: What has happened when it has acknowledged something, in a few words.
    """

    def __init__(self, name: str, title: str, *, http: bool, durable: str) -> None:
        self.name = name
        self.title = title
        self.http = http
        self.durable = durable
        self.servers: list[Child] = []
        """The server's processes, with the database if that is one of its own."""
        self.workers: list[Child] = []
        self.provider: Child | None = None
        """Of models; see `start_provider`."""
        self.provider_url = ""
        """Where it answers as a stand-in."""
        self.tokens_url = ""
        """Where it streams the times at which it does so."""
        self.marks: Marks
        self.folder: Path
        self._serial = 0

    async def start(self, folder: Path) -> None:
        """On return runs have gone through it."""
        folder.mkdir(parents=True)
        self.folder = folder
        self.marks = Marks(folder / "marks")
        await self.start_server()
        await self.start_worker()
        for _ in range(WARM_RUNS):
            key = self.key()
            await self.trigger("seq", [{"key": key, "steps": 2}])
            await self.marks.wait(key, "done")

    async def start_server(self) -> float:
        """Start the server's processes on the data they had, if any. Seconds until the server answered."""
        raise NotImplementedError

    async def start_worker(self) -> None:
        """Start what runs the functions. On return the server knows them."""
        raise NotImplementedError

    async def start_provider(self) -> None:
        """Start a provider of models, in a process of its own, for functions that ask one."""
        ports = free_port(), free_port()
        command = [sys.executable, "-m", "benchmarks.apps.provider", *map(str, ports)]
        self.provider = Child("provider of models", command, self.folder / "provider.log", {"PYTHONPATH": _path()})
        self.provider_url, self.tokens_url = (f"http://127.0.0.1:{port}" for port in ports)
        for port in ports:
            await self.answers(self.provider, port, "GET", "/http/echo")

    async def trigger(self, kind: str, datas: Sequence[Mapping[str, object]]) -> None:
        """Start a run of function `kind` for each of `datas`; on return they are durable."""
        raise NotImplementedError

    def crash(self) -> None:
        """Kill the server's processes without a warning. `start_server` starts them again."""
        raise NotImplementedError

    def key(self) -> str:
        """A name that no run had."""
        self._serial += 1
        return f"{self.name}-{self._serial}"

    def server_cpu_s(self) -> float:
        return sum(one.cpu_s() for one in self.servers)

    def worker_cpu_s(self) -> float:
        return sum(one.cpu_s() for one in self.workers)

    def server_rss_bytes(self) -> int:
        return sum(one.rss_bytes() for one in self.servers)

    def children(self) -> list[Child]:
        return [*self.servers, *self.workers, *([] if self.provider is None else [self.provider])]

    def check(self) -> None:
        """Raises `RuntimeError` if one of its processes has ended."""
        for one in self.children():
            one.check()

    def stop(self) -> None:
        if hasattr(self, "marks"):
            self.marks.close()
        for one in reversed(self.children()):
            one.stop()
        self.workers, self.servers, self.provider = [], [], None

    def environment(self) -> dict[str, str]:
        """What a process with functions needs, to find us and the file for marks."""
        return {marks.VARIABLE: str(self.folder / "marks"), "PYTHONPATH": _path()}

    async def answers(self, child: Child, port: int, method: str, path: str, body: bytes = b"") -> None:
        """Wait for an answer of 2xx. Raises `TimeoutError`, or `RuntimeError` if `child` has ended."""
        until = time.monotonic() + READY_S
        while True:
            child.check()
            client = Client(port)
            try:
                status, answer = await client.request(method, path, body)
            except (OSError, EOFError) as err:
                said = repr(err)
            else:
                if 200 <= status < 300:
                    return
                said = f"{status} {answer[:300]!r}"
            finally:
                client.close()
            if time.monotonic() > until:
                raise TimeoutError(f"{child.name} does not answer {method} {path}: {said}")
            await asyncio.sleep(0.01)


def _path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return f"{ROOT}{os.pathsep}{inherited}" if inherited else str(ROOT)


@dataclass(frozen=True, slots=True)
class Setup:
    """How a Stepwell target keeps its state, and on how many nodes.

    Args:
        database: Makes a fresh database for each start; None for SQLite.
        nodes: Servers that share it. Each gets a worker of its own, and events go to them in turn.
    """

    database: Callable[[], Database] | None = None
    nodes: int = 1

    @property
    def store(self) -> str:
        return "sqlite" if self.database is None else "postgres"


class Stepwell(Target):
    """This product, with functions reached in one of its ways."""

    def __init__(self, name: str, title: str, worker: Command, setup: Setup, *, http: bool) -> None:
        where = "SQLite" if setup.database is None else "PostgreSQL"
        super().__init__(name, title, http=http, durable=f"{where}, synced at every commit")
        self.options: Sequence[str] = ()
        """More of its server, set before it is started."""
        self._worker_command = worker
        self._setup = setup
        self._ports: list[int] = []
        self._clients: list[Client] = []
        self._turn = 0
        self._database: Database | None = None

    @property
    def port(self) -> int:
        return self._ports[0]

    async def start_server(self) -> float:
        if self._setup.database is not None and self._database is None:
            self._database = self._setup.database()
        if not self._ports:
            self._ports = [free_port() for _ in range(self._setup.nodes)]
            self._clients = [Client(port) for port in self._ports]
        begin = time.monotonic()
        nodes = []
        for number, port in enumerate(self._ports):
            nodes.append(self._node(number, port))
            self.servers = [*nodes, *(self._database.processes if self._database is not None else ())]
            await self.answers(nodes[-1], port, "GET", "/health")
        return time.monotonic() - begin

    def _node(self, number: int, port: int) -> Child:
        command = [sys.executable, "-m", "stepwell.cli", "dev", "--port", str(port), "--no-discovery", "--no-poll"]
        place = ["--db", self._database.url] if self._database else ["--data", str(self.folder / f"data{number}")]
        command += [*place, *self.options]
        return Child(f"server {number} of {self.name}", command, self.folder / f"server{number}.log", {})

    async def start_worker(self) -> None:
        for number, port in enumerate(self._ports):
            own = free_port()
            command, environment = self._worker_command(f"http://localhost:{port}", own)
            log = self.folder / f"worker{number}.log"
            child = Child(f"worker {number} of {self.name}", command, log, {**environment, **self.environment()})
            self.workers.append(child)
            if self.http:
                await self.answers(child, own, "PUT", "/api/inngest")
            await self._registered(child, self._clients[number])

    async def _registered(self, child: Child, client: Client) -> None:
        until = time.monotonic() + READY_S
        while b"bench-seq" not in (await client.request("GET", "/api/functions"))[1]:
            child.check()
            if time.monotonic() > until:
                raise TimeoutError(f"the functions of {self.name} are not known to its server")
            await asyncio.sleep(0.05)

    async def trigger(self, kind: str, datas: Sequence[Mapping[str, object]]) -> None:
        await self.events([{"name": f"bench/{kind}", "data": data} for data in datas])

    async def events(self, events: list[dict[str, Any]]) -> None:
        """Send events; on return they are durable."""
        self._turn = (self._turn + 1) % len(self._clients)
        await self._clients[self._turn].events(events)

    def crash(self) -> None:
        for child in self.servers[: len(self._ports)]:
            child.kill()
        for client in self._clients:
            client.close()

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        mine = self._database.processes if self._database is not None else ()
        self.servers = [one for one in self.servers if one not in mine]  # the database serves the next target too
        super().stop()
        if self._database is not None:
            self._database.drop()


def _websocket(url: str, port: int) -> tuple[list[str], dict[str, str]]:
    app = str(Path(__file__).parent / "apps" / "own.py")
    return [sys.executable, "-m", "stepwell.cli", "worker", app, "--url", url], {}


def _served(checkpointing: str) -> Command:
    def command(url: str, port: int) -> tuple[list[str], dict[str, str]]:
        environment = {"STEPWELL_DEV": "1", "STEPWELL_URL": url, "CHECKPOINTING": checkpointing}
        return _uvicorn("benchmarks.apps.own:app", port), environment

    return command


def _official(url: str, port: int) -> tuple[list[str], dict[str, str]]:
    return _uvicorn("benchmarks.apps.official:app", port), {"INNGEST_DEV": url}


def _uvicorn(app: str, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port)),
        *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "error", "--backlog", "4096"),
    ]


def _typescript(checkpointing: str) -> Command:
    def command(url: str, port: int) -> tuple[list[str], dict[str, str]]:
        app = str(Path(__file__).parent / "apps" / "official.cjs")
        environment = {"INNGEST_DEV": url, "PORT": str(port), "CHECKPOINTING": checkpointing}
        return ["node", app], {**environment, "NODE_PATH": str(NODE_MODULES)}

    return command


def targets(setup: Setup) -> list[Stepwell]:
    """All that this machine can run: the TypeScript SDK needs Node and the packages that `make setup` installs."""
    found = [
        Stepwell("websocket", "our worker, over its websocket", _websocket, setup, http=False),
        Stepwell("serve", "our SDK, served over HTTP, checkpointing", _served("on"), setup, http=True),
        Stepwell("serve-calls", "our SDK, served over HTTP, a request for each step", _served("off"), setup, http=True),
        Stepwell("official", "the official Python SDK, over HTTP (FastAPI)", _official, setup, http=True),
    ]
    if shutil.which("node") and (NODE_MODULES / "inngest").is_dir():
        plain, checkpoint = _typescript("off"), _typescript("on")
        found += [
            Stepwell("typescript", "the official TypeScript SDK, a request for each step", plain, setup, http=True),
            Stepwell("checkpoint", "the official TypeScript SDK, checkpointing", checkpoint, setup, http=True),
        ]
    return found
