"""A performer with real workers, and what it told whom. Environments are one that is there."""

from __future__ import annotations

import asyncio
import itertools
import textwrap
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from stepwell.apps.environment import Environment, Progress
from stepwell.apps.isolation import Isolation
from stepwell.apps.performer import AppPerformer, KeepOutput
from stepwell.apps.pool import Pool, Sessions, WorkerLine, new_worker_id
from stepwell.apps.settings import AppSettings
from stepwell.engine.session import Placement, Rules
from stepwell.model.app import App, AppVersion
from stepwell.model.dispatch import Dispatch
from stepwell.model.errors import NotFound, Overloaded
from stepwell.model.function import Function
from stepwell.model.ids import Instant, JobId, RunId, StepId
from stepwell.model.message import CallLost, Message, Raised, Returned
from stepwell.model.payload import canonical, decode
from stepwell.model.placement import Capacity
from stepwell.model.stream import Piece
from stepwell.model.task import TASK_EVENT, TaskPhase, TaskRequest, TaskStatus
from tests.apps.harness import python
from tests.apps.workers import ISOLATION, PATIENCE_S, interpreter, until


class Ready:
    """Every environment is the one that the tests have. Told to, it takes a while or does not come to be."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def prepare(self, package: Path, kernel: str, *, progress: Progress | None = None) -> Environment:
        if progress is not None:
            progress("making the environment")
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self._folder.mkdir(parents=True, exist_ok=True)
        executable = python()
        return Environment("key", self._folder / "key", executable, executable.parent, "3.11", (), interpreter())


class Apps:
    """A performer, everything it said, and apps to call."""

    def __init__(
        self,
        folder: Path,
        *,
        settings: AppSettings | None = None,
        rules: Rules | None = None,
        capacity: Capacity | None = None,
        secrets: Mapping[str, str] | None = None,
        sessions: Sessions | None = None,
        isolation: Isolation = ISOLATION,
        keep_output: KeepOutput | None = None,
    ) -> None:
        self.folder = folder
        schedule = Placement(capacity or Capacity(), rules or Rules(), new_worker_id)
        self.ready = Ready(folder / "apps" / "environments")
        self.pool = Pool(
            folder / "apps",
            settings or AppSettings(stop_grace_s=2, cancel_grace_s=5),
            schedule,
            environments=self.ready,
            isolation=isolation,
            secrets=secrets,
            sessions=sessions,
        )
        self.performer = AppPerformer(
            self.pool, self._deliver, publisher=self, find=self._find, watcher=self, keep_output=keep_output
        )
        self.versions: dict[str, AppVersion] = {}
        self.current: dict[str, str] = {}
        self.away = False
        self.messages: dict[str, list[Message]] = {}
        self.pieces: dict[str, list[Piece]] = {}
        self.logged: list[tuple[str, str, str]] = []
        self.phases: dict[str, list[TaskPhase]] = {}
        self.taken: dict[str, str] = {}
        self.voided: Counter[str] = Counter()
        self._numbers = itertools.count(1)

    # what the performer is given

    def _deliver(self, run: RunId, job: JobId, fence: int, message: Message, /) -> None:
        self.messages.setdefault(run, []).append(message)

    async def _find(self, env: str, reference: str) -> tuple[App, AppVersion]:
        if self.away:
            raise Overloaded("the store is away")
        version = self.versions.get(reference)
        if version is None:
            raise NotFound(f"no app {reference}")
        return App(namespace="ns", name=version.name, current=self.current[version.app], env=env), version

    def publish(self, run: RunId, step: StepId, name: str, pieces: Sequence[Piece]) -> None:
        self.pieces.setdefault(run, []).extend(pieces)

    def void(self, run: RunId, step: StepId, name: str) -> None:
        self.voided[run] += 1

    def on_log(self, run: RunId, call: JobId, level: str, text: str, at: Instant, step: StepId | None, /) -> None:
        self.logged.append((run, level, text))

    def on_phase(self, run: RunId, call: JobId, phase: TaskPhase, worker: str = "", /) -> None:
        self.taken[run] = worker
        self.phases.setdefault(run, []).append(phase)

    # what a test does

    def app(self, code: str, name: str = "app", version: str = "1", **more: Any) -> str:
        """Deploy an app of one file. Returns its reference."""
        source = self.folder / "source" / f"{name}-{version}"
        source.mkdir(parents=True)
        (source / "inference.py").write_text(textwrap.dedent(code))
        package = self.pool.packages.add(source)
        made = AppVersion(namespace="ns", name=name, version=version, checksum=package.checksum, **more)
        self.versions[made.reference] = made
        self.current[made.app] = version
        return made.reference

    def call(self, app: str, input: Any = None, *, run: str = "", **more: Any) -> str:
        """Begin a call. Returns its run."""
        run = run or f"run{next(self._numbers)}"
        request = TaskRequest(app=app, function=more.pop("function", "run"), input=input, **more)
        event = canonical({"name": TASK_EVENT, "id": run, "ts": 1, "data": msgspec.to_builtins(request)})
        function = Function(slug=app, name=app, service=app.partition("@")[0], triggers=(), cancel_grace_ms=0)
        self.performer.perform(
            Dispatch(job=JobId(f"job-{run}"), fence=1, run=RunId(run), function=function, events=(event,), live=True)
        )
        return run

    async def end(self, run: str) -> Message:
        found: Message = (await until(lambda: self.messages.get(run)))[-1]
        assert len(self.messages[run]) == 1, self.messages[run]
        return found

    async def result(self, run: str) -> Any:
        """What the app returned."""
        message = await self.end(run)
        assert isinstance(message, Returned), (message, self.logged[-20:])
        assert isinstance(message.output, bytes)
        return decode(message.output)["output"]

    async def error(self, run: str) -> dict[str, Any]:
        message = await self.end(run)
        assert isinstance(message, Raised | CallLost), message
        assert not isinstance(message, Raised) or not message.retry
        assert isinstance(message.error, bytes)
        found: dict[str, Any] = decode(message.error)
        return found

    def cancel(self, run: str, reason: str = "cancelled") -> None:
        self.performer.stop(JobId(f"job-{run}"), reason)

    def statuses(self, run: str) -> list[TaskStatus]:
        """As they were published."""
        return [TaskStatus(int(one.text)) for one in self.pieces.get(run, ()) if one.kind == "status"]

    async def until(self, run: str, status: TaskStatus) -> None:
        await until(lambda: status in self.statuses(run))

    def workers(self, *states: str) -> list[WorkerLine]:
        return [one for one in self.pool.workers() if not states or one.state in states]

    async def no_workers(self) -> None:
        await until(lambda: not self.pool.workers())


@asynccontextmanager
async def apps(folder: Path, **more: Any) -> AsyncIterator[Apps]:
    made = Apps(folder, **more)
    await made.pool.open()
    try:
        yield made
    finally:
        async with asyncio.timeout(PATIENCE_S):
            await made.performer.close()
        assert not list((folder / "apps" / "workers").glob("*")), "nothing of a worker is left"
