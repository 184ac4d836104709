"""The workers of this machine: their processes, and the calls they make.

    Pool.submit(call) ─▶ schedule (`model.placement`) ─▶ a worker that is idle, or one that is started:
        package and environment ─▶ process ─▶ load ─▶ setup ─▶ idle ─▶ run ─▶ idle ─▶ … ─▶ unload

A worker that makes a call tells it everything by the methods of `Call`; each call that was submitted hears exactly one
of `finished`, `failed`, `lost` and `refused`, unless it was withdrawn.

Elsewhere: which worker (`engine.session`, given to us), what a call is to the node (`performer.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from stepwell.apps.environment import Environment, Progress
from stepwell.apps.guard import Guard
from stepwell.apps.isolation import Isolation, Places
from stepwell.apps.package import Packages
from stepwell.apps.process import Exit, Plan, Process, end_left_over, places_of
from stepwell.apps.settings import AppSettings
from stepwell.model.app import AppVersion, Resources, Variant
from stepwell.model.errors import StepwellError
from stepwell.model.ids import Instant
from stepwell.model.placement import (
    Assign,
    Ended,
    Kind,
    Refuse,
    Schedule,
    Start,
    Stop,
    Waiting,
    WorkerKey,
    setup_digest,
)
from stepwell.model.task import TaskRequest, TaskStatus
from stepwell.wire.app import (
    Cancel,
    Delta,
    Done,
    Failed,
    FromProcess,
    Load,
    Loaded,
    Output,
    Ready,
    Restore,
    Run,
    RunMany,
    Setup,
    Snapshot,
    State,
)

__all__ = ["Call", "Pool", "Sessions", "Worker", "WorkerLine", "machine_memory", "new_worker_id"]

log = logging.getLogger("stepwell.apps")

_LOOK_S = 5.0
"""How often the memory of workers is measured, while there are any."""
_SHORT = 0.05
"""Part of the machine's memory that is kept free, if idle workers can be stopped for it."""
_INTEGRATIONS = {"google": ("GOOGLE_OAUTH_CREDENTIALS", "GOOGLE_SA_CREDENTIALS"), "gcp": ("GOOGLE_SA_CREDENTIALS",)}
_SHORTEST_HIDDEN = 6
_DEAF_GRACE_S = 3.0
"""Given to a cancelled call at most, if its app has no `on_cancel`: it can only look at a flag."""
_MOST_SETUPS = 1_000
"""Values of setup that are remembered; beyond it those that no worker has are forgotten when none is needed."""

_Frame = TypeVar("_Frame", bound=FromProcess)


class Call(Protocol):
    """One call, as whoever wants it made is told of it. No method waits or raises."""

    id: str
    """Of this call alone; the same task may be called again."""
    task: str
    env: str
    request: TaskRequest
    version: AppVersion
    function: str

    def came_to(self, status: TaskStatus) -> None:
        """It has come that far."""

    def taken(self, worker: str) -> None:
        """A worker makes it."""

    def printed(self, level: str, lines: Sequence[str]) -> None:
        """Lines, while it was at the part named by `level` (`model.task.LOG_TYPES`)."""

    def put_out(self, frame: Output) -> None: ...

    def added(self, frame: Delta) -> None: ...

    def finished(self, frame: Done, places: Places) -> Awaitable[None] | None:
        """It returned. The worker goes on once what is returned here is done: files are kept until then."""

    def failed(self, frame: Failed) -> None:
        """The app failed."""

    def lost(self, why: str) -> None:
        """Its worker is gone."""

    def refused(self, code: str, why: Failed | str) -> None:
        """It cannot be made: `setup`, `resources`, `workers` or `session`."""


class Preparing(Protocol):
    """`Environments`, as far as a pool needs them."""

    async def prepare(self, package: Path, kernel: str, *, progress: Progress | None = None) -> Environment: ...


class Sessions(Protocol):
    """Who keeps the records of sessions; see `stepwell.node.sessions`."""

    def got_worker(self, env: str, session: str, worker: str) -> None: ...

    def worker_lost(self, env: str, session: str, why: str) -> None: ...

    async def history(self, env: str, session: str) -> Sequence[TaskRequest]: ...

    async def keep_state(self, env: str, session: str, state: bytes) -> None: ...

    async def state(self, env: str, session: str) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class WorkerLine:
    """A worker, for those who look."""

    id: str
    app: str
    state: str
    pid: int
    session: str
    memory_bytes: int
    tasks: int
    gpus: tuple[int, ...]
    since: Instant


@dataclass(slots=True, eq=False)
class Worker:
    """A worker and what it is doing. `stage` names what it prints; `state` is for those who look."""

    id: str
    key: WorkerKey
    version: AppVersion
    gpus: tuple[int, ...]
    follower: Call | None
    since: Instant
    state: str = "starting"
    stage: str = "build"
    process: Process | None = None
    held: IO[bytes] | None = None
    coming_up: asyncio.Task[None] | None = None
    calls: dict[str, Call] = field(default_factory=dict)
    opening: bool = False  # its call is the first one of its session
    session: str = ""
    tasks: int = 0
    memory_bytes: int = 0
    hidden: tuple[tuple[str, str], ...] = ()
    cancels: bool = False  # the app has an `on_cancel`
    why: str = ""  # it is stopped
    answer: asyncio.Future[FromProcess] | None = None
    lines: list[str] = field(default_factory=list)
    telling: bool = False


class _Broken(Exception):
    """A worker cannot be brought up. `told`: by the app, or by what it needs; it would fail again."""

    def __init__(self, failed: Failed, *, told: bool) -> None:
        super().__init__(failed.message)
        self.failed, self.told = failed, told


class Pool:
    """
    Args:
        folder: For workers, caches and packages: `<data>/apps`.
        setting: What is set.
        schedule: Says who makes what; its ids of workers are drawn by `new_worker_id`.
        isolation: What is done for every process.
        secrets: Values by name. A worker gets those that its app names.
        sessions: None where nobody keeps any: a lost session is then lost.
    """

    def __init__(
        self,
        folder: Path,
        settings: AppSettings,
        schedule: Schedule,
        *,
        environments: Preparing,
        isolation: Isolation,
        secrets: Mapping[str, str] | None = None,
        sessions: Sessions | None = None,
    ) -> None:
        self.settings = settings
        self.schedule = schedule
        self.isolation = isolation
        self.packages = Packages(folder / "packages")
        self._environments = environments
        self.sessions = sessions
        self.started = 0
        """Workers, since the start."""
        self.done = 0
        """Calls that workers made to their end."""
        self._workers_folder = folder / "workers"
        self._caches = folder / "caches"
        self._secrets = dict(secrets or {})
        self._workers: dict[str, Worker] = {}
        self._calls: dict[str, Call] = {}
        self._worker_of: dict[str, Worker] = {}
        self._setups: dict[WorkerKey, Any] = {}
        self._versions: dict[WorkerKey, AppVersion] = {}
        self._warm: set[WorkerKey] = set()
        self._broken: dict[str, Failed] = {}  # by what the schedule was told
        self._leases: dict[str, tuple[str, Worker]] = {}
        self._reopening: dict[str, list[Call]] = {}  # sessions that are to get a new worker, and further calls of them
        self._rebuilt: set[str] = set()  # calls that do so
        self._tasks: set[asyncio.Task[None]] = set()
        self._returning: set[str] = set()  # calls whose files are being kept
        self._leaving: set[asyncio.Future[None]] = set()  # processes that have ended and are cleared away
        self._ending: dict[str, asyncio.TimerHandle] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._deciding = False
        self._draining = False
        self._closed = False
        self._guard: Guard | None = None

    # what is asked for

    def submit(self, call: Call) -> None:
        """Have a call made."""
        request, version = call.request, call.version
        if (missing := self._missing(version)) != "":
            call.refused("setup", missing)
            return
        session, opens = request.session, request.opens
        if session and not opens and session not in self._leases:
            if session in self._reopening:
                self._reopening[session].append(call)
                return
            if not version.session or self.sessions is None:
                call.refused("session", f"the worker of session {session} is gone; open a new session")
                return
            self._reopening[session], opens = [], True
            self._rebuilt.add(call.id)
        key = WorkerKey(version.reference, setup_digest(request.setup), request.variant, call.env)
        self._setups[key], self._versions[key] = request.setup, version
        self._calls[call.id] = call
        function = version.functions.get(call.function)
        waiting = Waiting(
            call=call.id,
            key=key,
            function=call.function,
            session=session,
            opens=opens,
            workers=request.workers if not session or opens else (),
            batch_size=function.batch_size if function is not None else 0,
            batch_wait_ms=function.batch_wait_ms if function is not None else 0.0,
        )
        self.schedule.add(waiting, self._kind(key, version), self._now())
        self._decide()

    def withdraw(self, call: str) -> bool:
        """A call that waits need not be made; it hears nothing more. False: it does not wait."""
        for others in self._reopening.values():
            for one in others:
                if one.id == call:
                    others.remove(one)
                    return True
        if not self.schedule.remove(call):
            return False
        gone = self._calls.pop(call)
        if call in self._rebuilt:
            self._rebuilt.discard(call)
            self._reopen_others(gone.request.session)
        self._decide()
        return True

    def end(self, call: str, grace_s: float) -> bool:
        """Tell the app to end a call that is being made, and end its worker if it does not; then the call is lost, or
        has ended as any other. Asked again, the shorter time counts. An app without `on_cancel` gets 3 s at most.
        False: it is not being made."""
        worker = self._worker_of.get(call)
        if worker is None or worker.process is None:
            return False
        if call in self._returning:
            return True  # it has ended; what it gave back is being kept
        if not worker.cancels:
            grace_s = min(grace_s, _DEAF_GRACE_S)
        timer = self._ending.pop(call, None)
        if timer is None:
            worker.process.send(Cancel(call=call))
        else:
            timer.cancel()
        self._ending[call] = asyncio.get_running_loop().call_later(grace_s, self._overdue, call)
        return True

    def release(self, session: str) -> None:
        """A session is over."""
        self.schedule.release(session, self._now())
        self._leases.pop(session, None)
        self._decide()

    def keep_warm(self, version: AppVersion, env: str) -> None:
        """Have as many workers of this version as it says are to be kept warm, with no setup value."""
        key = WorkerKey(version.reference, env=env)
        self._setups[key], self._versions[key] = None, version
        self._warm.add(key)
        self.schedule.keep_warm(key, self._kind(key, version))
        self._decide()

    def set_current(self, env: str, app: str, reference: str) -> None:
        """This is the current version of an app; workers of others go once they have nothing to do."""
        self.schedule.set_current((env, app), reference)
        self._decide()

    # what there is

    @property
    def busy(self) -> int:
        """Calls that workers make now."""
        return len(self._worker_of)

    def places_of(self, call: str) -> Places | None:
        """The folders of the worker that makes a call; None if none does."""
        worker = self._worker_of.get(call)
        return worker.process.plan.places if worker is not None and worker.process is not None else None

    def workers(self) -> list[WorkerLine]:
        return [
            WorkerLine(
                one.id,
                one.key.reference,
                one.state,
                one.process.pid if one.process is not None else 0,
                one.session,
                one.memory_bytes,
                one.tasks,
                one.gpus,
                one.since,
            )
            for one in self._workers.values()
        ]

    # the life of the pool

    async def open(self) -> None:
        """End what an earlier life left."""
        left = await asyncio.to_thread(end_left_over, self._workers_folder)
        if left:
            log.warning("%d processes of apps were left by a server that was killed, and were ended", left)

    def drain(self) -> None:
        """Begin no further calls."""
        self._draining = True

    async def close(self) -> None:
        """End all workers; calls in flight are not told anything."""
        self._draining = self._closed = True
        for timer in (self._timer, self._looking, *self._ending.values()):
            if timer is not None:
                timer.cancel()
        workers = list(self._workers.values())
        for worker in workers:
            if worker.coming_up is not None:
                worker.coming_up.cancel()
            if worker.process is not None and (worker.calls or worker.state != "idle"):
                worker.process.kill()
            elif worker.process is not None:
                worker.process.stop(self.settings.stop_grace_s)
        await asyncio.gather(*(one.coming_up for one in workers if one.coming_up), return_exceptions=True)
        await asyncio.gather(*(one.process.wait() for one in workers if one.process is not None), *self._leaving)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in workers:
            if worker.held is not None:
                worker.held.close()
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    # carrying out

    def _decide(self) -> None:
        if self._deciding or self._draining:
            return
        self._deciding = True
        try:
            while actions := self.schedule.decide(self._now()):
                for action in actions:
                    match action:
                        case Assign():
                            self._assign(action)
                        case Start():
                            self._start(action)
                        case Stop(worker=worker, why=why):
                            self._stop(self._workers[worker], why)
                        case Refuse(call=call, code=code, why=why):
                            self._refuse(call, code, why)
                        case Ended(session=session, worker=worker):
                            self._session_ended(session, worker)
        finally:
            self._deciding = False
        now = self._now()
        wake = self.schedule.wake_at(now)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wake is not None:
            self._timer = asyncio.get_running_loop().call_later((wake - now) / 1000, self._decide)

    def _assign(self, action: Assign) -> None:
        worker = self._workers[action.worker]
        calls = [self._calls.pop(one) for one in action.calls]
        worker.calls = {one.id: one for one in calls}
        worker.state, worker.stage, worker.follower = "busy", "task", None
        first = calls[0]
        request = first.request
        rebuilt = first.id in self._rebuilt
        worker.opening = request.opens
        for call in calls:
            self._worker_of[call.id] = worker
            call.taken(worker.id)
        if request.session and (request.opens or rebuilt):
            worker.session = request.session
            self._leases[request.session] = (first.env, worker)
            if self.sessions is not None:
                self.sessions.got_worker(first.env, request.session, worker.id)
        if rebuilt:
            self._rebuilt.discard(first.id)
            self._spawn(self._rebuild(worker, first))
            for one in self._reopening.pop(request.session, []):
                self.submit(one)
            return
        self._run(worker)

    def _run(self, worker: Worker) -> None:
        """Send the calls of a worker to it."""
        calls = list(worker.calls.values())
        first = calls[0]
        for call in calls:
            call.came_to(TaskStatus.RUNNING)
        process = worker.process
        assert process is not None, "a worker that is assigned calls is up"
        try:
            if len(calls) == 1:
                about = {"task_id": first.task}
                process.send(Run(call=first.id, function=first.function, input=first.request.input, metadata=about))
            else:
                inputs = [one.request.input for one in calls]
                process.send(RunMany(calls=[one.id for one in calls], function=first.function, inputs=inputs))
        except ValueError as err:
            failed = Failed(message=f"the input {err}", code="validation", name="InputTooLarge")
            for call in calls:
                call.failed(failed)
                self._over(worker, call.id)

    def _start(self, action: Start) -> None:
        follower = self._calls.get(action.call)
        key = action.key
        worker = Worker(action.worker, key, self._versions[key], action.gpus, follower, time.time_ns() // 1_000_000)
        self._workers[worker.id] = worker
        self.started += 1
        worker.coming_up = asyncio.get_running_loop().create_task(self._bring_up(worker), name=f"worker {worker.id}")
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def _stop(self, worker: Worker, why: str) -> None:
        worker.state, worker.why = "stopping", why
        log.debug("worker %s of %s stops: %s", worker.id, worker.key.reference, why)
        if worker.process is None:
            assert worker.coming_up is not None
            worker.coming_up.cancel()
            self._gone(worker)
        elif worker.coming_up is not None:
            worker.process.kill()  # it has nothing to unload, and reads nothing before its setup is over
        else:
            worker.process.stop(self.settings.stop_grace_s)

    def _refuse(self, call_id: str, code: str, why: str) -> None:
        call = self._calls.pop(call_id)
        session = call.request.session
        if call_id in self._rebuilt:
            self._rebuilt.discard(call_id)
            self._reopen_others(session)
        elif code == "session" and call.version.session and session not in self._leases:
            self.submit(call)
            return
        call.refused(code, self._broken.get(why, why))

    def _reopen_others(self, session: str) -> None:
        """The call that was to get a session a new worker is gone; the next one does."""
        for one in self._reopening.pop(session, []):
            self.submit(one)

    def _session_ended(self, session: str, worker_id: str) -> None:
        env, worker = self._leases.pop(session, ("", None))
        if worker is None or worker.opening:
            return  # its first call is made again, with nothing to remember
        if self.sessions is not None:
            self.sessions.worker_lost(env, session, worker.why or f"its worker {worker_id} is gone")

    # a worker

    async def _bring_up(self, worker: Worker) -> None:
        try:
            async with asyncio.timeout(None) as limit:
                await self._prepare(worker, limit)
        except _Broken as broken:
            self._not_up(worker, broken)
        except StepwellError as err:
            failed = Failed(message=str(err), code="setup", name=type(err).__name__)
            self._not_up(worker, _Broken(failed, told=True))
        except TimeoutError:
            text = (
                f"{worker.key.reference} was not set up within {self.settings.setup_limit_s:g} s (apps.setup_limit_s)"
            )
            self._not_up(worker, _Broken(Failed(message=text, code="setup", name="SetupTimeout"), told=True))
        except OSError as err:
            failed = Failed(message=f"a worker cannot be started: {err}", code="setup", name="WorkerNotStarted")
            self._not_up(worker, _Broken(failed, told=False))
        except Exception as err:  # a bug of ours; the calls that wait for the worker must not wait for ever
            log.exception("worker %s of %s cannot be set up", worker.id, worker.key.reference)
            failed = Failed(message=f"a worker cannot be started: {err!r}", code="setup", name="WorkerNotStarted")
            self._not_up(worker, _Broken(failed, told=False))
        else:
            worker.state, worker.stage, worker.coming_up, worker.follower = "idle", "run", None, None
            self._measure(worker)
            self.schedule.ready(worker.id, self._now())
            self._decide()

    async def _prepare(self, worker: Worker, limit: asyncio.Timeout) -> None:
        version = worker.version
        self._tell(worker, TaskStatus.DISPATCHED, TaskStatus.PREPARING)
        package = self.packages.find(version.checksum)
        if package is None:
            text = (
                f"the files of {version.reference} are not on this machine ({version.checksum[:12]}…): deploy the app "
                "here once more"
            )
            raise _Broken(Failed(message=text, code="setup", name="PackageMissing"), told=True)
        environment = await self._environments.prepare(
            package, version.kernel, progress=lambda line: self._printed(worker, line)
        )
        worker.held = environment.hold()
        self._tell(worker, TaskStatus.SERVING)
        worker.stage = "serve"
        if self._guard is None:
            self._workers_folder.mkdir(parents=True, exist_ok=True)
            self._guard = Guard(self._workers_folder)
            if self.settings.isolation != "off" and not self.isolation.full:
                log.warning(
                    "this machine does not allow to isolate apps fully (done: %s), so what the user of this server can "
                    "read, some of it apps can read, too; docs/server.md says what",
                    self.isolation.described(),
                )
        folder = self._workers_folder / worker.id
        cache = self._caches / version.namespace / version.name
        variables, worker.hidden = self._variables(worker)
        plan = Plan(
            worker=worker.id,
            folder=folder,
            places=places_of(folder, package, cache, environment.read),
            command=environment.command,
            isolation=self.isolation,
            programs=environment.programs,
            variables=variables,
            memory_bytes=self._needs(worker.key, version).ram_bytes if self.settings.limit_memory else 0,
        )
        worker.process = Process(
            plan,
            on_frame=lambda frame: self._heard(worker, frame),
            on_line=lambda line: self._printed(worker, line),
            on_exit=lambda ended: self._ended(worker, ended),
        )
        try:
            worker.process.start()
        except OSError:
            worker.process = None
            raise
        limit.reschedule(asyncio.get_running_loop().time() + self.settings.setup_limit_s)
        worker.process.send(Load(directory=str(package)))
        worker.cancels = (await self._answer(worker, Loaded)).cancels
        self._tell(worker, TaskStatus.SETTING_UP)
        worker.stage = "setup"
        about = {
            "app_id": version.app,
            "app_version_id": version.reference,
            "app_variant": worker.key.variant,
            "worker_id": worker.id,
            "gpu_ids": [str(one) for one in worker.gpus],
        }
        worker.process.send(Setup(value=self._setups[worker.key], metadata=about))
        await self._answer(worker, Ready)

    def _not_up(self, worker: Worker, broken: _Broken) -> None:
        worker.state = "stopping"
        worker.why = broken.failed.message
        if worker.follower is not None or broken.told:
            log.debug("worker %s of %s cannot be set up: %s", worker.id, worker.key.reference, worker.why)
        self._broken[worker.why] = broken.failed
        self.schedule.failed(worker.id, self._now(), worker.why, told=broken.told)
        if worker.process is None:
            self._gone(worker)
        elif worker.process.exit is None:
            worker.process.kill()
        self._decide()
        del self._broken[worker.why]

    async def _answer(self, worker: Worker, kind: type[_Frame]) -> _Frame:
        """The next frame that is not of a call.

        Raises:
            _Broken: It is another one, or the process has ended.
        """
        worker.answer = asyncio.get_running_loop().create_future()
        if worker.process is not None and worker.process.exit is not None:
            self._no_answer(worker, worker.process.exit)
        try:
            frame = await worker.answer
        finally:
            worker.answer = None
        if isinstance(frame, kind):
            return frame
        if isinstance(frame, Failed):
            raise _Broken(frame, told=True)
        text = f"the process of the app said {type(frame).__name__.lower()} where {kind.__name__.lower()} was expected"
        raise _Broken(Failed(message=text, code="setup", name="ProtocolError"), told=True)

    def _no_answer(self, worker: Worker, ended: Exit) -> None:
        if worker.answer is not None and not worker.answer.done():
            text = f"a worker of {worker.key.reference} {ended} while it was set up"
            broken = _Broken(Failed(message=text, code="setup", name="WorkerLost"), told=False)
            worker.answer.set_exception(broken)

    async def _rebuild(self, worker: Worker, call: Call) -> None:
        """Give a worker what its session remembered, then have it make the call."""
        assert self.sessions is not None
        assert worker.process is not None
        session = call.request.session
        try:
            if call.version.session == "snapshot":
                state = await self.sessions.state(call.env, session)
                if state is not None:
                    worker.process.send(Restore(state=state))
                    await self._answer(worker, Ready)
            else:
                for number, request in enumerate(await self.sessions.history(call.env, session)):
                    function = request.function or call.version.default_function
                    worker.process.send(Run(call=f"again {number}", function=function, input=request.input))
                    await self._answer(worker, Done)
        except (StepwellError, _Broken) as err:
            if call.id in worker.calls and isinstance(err, StepwellError) and err.retryable:
                worker.opening = True  # nothing is lost: it is tried again
            elif call.id in worker.calls:
                call.refused("session", f"session {session} cannot be built again on a new worker: {err}")
                worker.calls.clear()
                self._worker_of.pop(call.id, None)
                worker.opening, worker.why = False, str(err)
            worker.process.kill()
            return
        if call.id in worker.calls:
            self._run(worker)

    def _heard(self, worker: Worker, frame: FromProcess) -> None:
        self._tell_lines(worker)
        call = worker.calls.get(getattr(frame, "call", ""))
        match frame:
            case Output() if call is not None:
                call.put_out(frame)
            case Delta() if call is not None:
                call.added(frame)
            case Done() if call is not None:
                self._done(worker, call, frame)
            case Failed() if call is not None:
                call.failed(without_secrets(frame, worker.hidden))
                self._over(worker, call.id)
            case Output() | Delta():
                pass  # of a call that is made again for a session
            case _ if worker.answer is not None and not worker.answer.done():
                worker.answer.set_result(without_secrets(frame, worker.hidden) if isinstance(frame, Failed) else frame)

    def _done(self, worker: Worker, call: Call, frame: Done) -> None:
        assert worker.process is not None
        if call.version.session == "snapshot" and worker.session and self.sessions is not None:
            self._spawn(self._done_in_session(worker, call, frame))
            return
        rest = call.finished(frame, worker.process.plan.places)
        if rest is None:
            self._over(worker, call.id)
        else:
            self._spawn(self._done_later(worker, call, rest))

    async def _done_later(self, worker: Worker, call: Call, rest: Awaitable[None]) -> None:
        """The worker keeps what the call gave back until that is stored."""
        self._returning.add(call.id)
        timer = self._ending.pop(call.id, None)
        if timer is not None:
            timer.cancel()
        try:
            await rest
        finally:
            self._returning.discard(call.id)
            self._over(worker, call.id)

    async def _done_in_session(self, worker: Worker, call: Call, frame: Done) -> None:
        """Keep the state first: who is told the result of a call may rely on it."""
        assert worker.process is not None
        assert self.sessions is not None
        worker.process.send(Snapshot())
        try:
            told = await self._answer(worker, State)
            await self.sessions.keep_state(call.env, worker.session, told.state)
        except (_Broken, StepwellError) as err:
            if call.id in worker.calls:
                text = f"the state of session {worker.session} cannot be kept: {err}"
                call.failed(Failed(message=text, name="SnapshotFailed"))
                self._over(worker, call.id)
            return
        if call.id in worker.calls and (rest := call.finished(frame, worker.process.plan.places)) is not None:
            await self._done_later(worker, call, rest)
        self._over(worker, call.id)

    def _over(self, worker: Worker, call: str) -> None:
        """A call has ended; the worker takes the next one once all of its calls have."""
        if worker.calls.pop(call, None) is None:
            return
        self._worker_of.pop(call, None)
        timer = self._ending.pop(call, None)
        if timer is not None:
            timer.cancel()
        worker.tasks += 1
        self.done += 1
        if not worker.calls and not self._closed and worker.process is not None and worker.process.exit is None:
            worker.state, worker.stage, worker.opening = "idle", "run", False
            self.schedule.done(worker.id, self._now())
            self._decide()

    def _overdue(self, call: str) -> None:
        self._ending.pop(call, None)
        worker = self._worker_of.get(call)
        if worker is not None and worker.process is not None:
            log.debug("worker %s of %s does not end a call, and is ended", worker.id, worker.key.reference)
            worker.process.kill()

    def _ended(self, worker: Worker, ended: Exit) -> None:
        """The process has ended, and nothing more comes from it."""
        self._tell_lines(worker)
        if not ended.asked:
            log.warning("worker %s of %s %s", worker.id, worker.key.reference, ended)
        worker.why = worker.why or f"its worker {ended}"
        calls, worker.calls = worker.calls, {}
        for call in calls.values():
            self._worker_of.pop(call.id, None)
            timer = self._ending.pop(call.id, None)
            if timer is not None:
                timer.cancel()
        self._no_answer(worker, ended)
        if self._closed:
            return
        coming_up = worker.coming_up is not None and worker.state == "starting"
        for call in calls.values():
            call.lost(f"the worker that made the call {ended}")
        if not coming_up:
            self._gone(worker)
        else:
            self._spawn(self._gone_later(worker))

    async def _gone_later(self, worker: Worker) -> None:
        """The failure of a worker that was coming up is told before that it is gone."""
        if worker.coming_up is not None:
            await asyncio.wait([worker.coming_up])
        self._gone(worker)

    def _gone(self, worker: Worker) -> None:
        if self._workers.pop(worker.id, None) is None:
            return
        if worker.held is not None:
            worker.held.close()
        if worker.process is not None:
            leaving = asyncio.ensure_future(worker.process.wait())
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        self.schedule.gone(worker.id, self._now())
        self._decide()
        if len(self._setups) > _MOST_SETUPS and not self._calls:
            used = {one.key for one in self._workers.values()} | self._warm
            for key in self._setups.keys() - used:
                del self._setups[key], self._versions[key]

    # what a worker prints

    def _printed(self, worker: Worker, line: str) -> None:
        for name, value in worker.hidden:
            if value in line:
                line = line.replace(value, f"[{name}]")
        worker.lines.append(line)
        if not worker.telling:
            worker.telling = True
            asyncio.get_running_loop().call_soon(self._tell_lines, worker)

    def _tell_lines(self, worker: Worker) -> None:
        worker.telling = False
        if not worker.lines:
            return
        lines, worker.lines = worker.lines, []
        if worker.calls:
            for call in worker.calls.values():
                call.printed(worker.stage, lines)
        elif worker.follower is not None and worker.follower.id in self._calls:
            worker.follower.printed(worker.stage, lines)
        for line in lines:
            log.debug("worker %s of %s: %s", worker.id, worker.key.reference, line)

    def _tell(self, worker: Worker, *statuses: TaskStatus) -> None:
        """Tell the call that waits for a worker how far that one is."""
        self._tell_lines(worker)
        call = worker.follower
        if call is not None and call.id in self._calls:
            for status in statuses:
                call.came_to(status)

    # what a worker needs

    def _kind(self, key: WorkerKey, version: AppVersion) -> Kind:
        return Kind(self._needs(key, version), version.scaling)

    def _needs(self, key: WorkerKey, version: AppVersion) -> Resources:
        variant = version.variants.get(key.variant)
        return variant.resources if variant is not None and variant.resources is not None else version.resources

    def _missing(self, version: AppVersion) -> str:
        """Which secrets are not there that an app needs; empty if all are."""
        missing = [one.key for one in version.secrets if not one.optional and one.key not in self._secrets]
        if not missing:
            return ""
        given = " ".join(f"--app-secret {name}" for name in missing)
        return f"{version.reference} needs {', '.join(missing)}, which this server was not given: start it with {given}"

    def _variables(self, worker: Worker) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
        """The environment of a worker, and what of it is not to be seen in logs."""
        version = worker.version
        names = {one.key for one in version.secrets}
        for one in version.integrations:
            names |= {
                one.key.upper().replace(".", "_").replace("-", "_"),
                *_INTEGRATIONS.get(one.key.split(".")[0], ()),
            }
        given = {name: self._secrets[name] for name in sorted(names) if name in self._secrets}
        hidden = tuple((name, value) for name, value in given.items() if len(value) >= _SHORTEST_HIDDEN)
        variables = {**version.variables, **version.variants.get(worker.key.variant, Variant()).env, **given}
        numbers = ",".join(map(str, worker.gpus))
        variables["CUDA_VISIBLE_DEVICES"] = variables["NVIDIA_VISIBLE_DEVICES"] = numbers
        return variables, hidden

    def _look(self) -> None:
        """See what memory the workers take, and stop idle ones if there is little left."""
        self._looking = None
        if not self._workers or self._closed:
            return
        for worker in self._workers.values():
            self._measure(worker)
        total, free = _memory()
        if free < total * _SHORT:
            self.schedule.relieve(int(total * _SHORT) - free, self._now())
            self._decide()
        self._looking = asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def _measure(self, worker: Worker) -> None:
        if worker.process is not None:
            worker.memory_bytes = worker.process.memory_bytes()
            self.schedule.measured(worker.id, worker.memory_bytes)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _now(self) -> int:
        return int(asyncio.get_running_loop().time() * 1000)


def new_worker_id() -> str:
    return f"wrk-{secrets.token_hex(6)}"


def without_secrets(frame: Failed, hidden: tuple[tuple[str, str], ...]) -> Failed:
    """A failure without the secrets of the app."""
    message, trace = frame.message, frame.trace
    for name, value in hidden:
        message, trace = message.replace(value, f"[{name}]"), trace.replace(value, f"[{name}]")
    if (message, trace) == (frame.message, frame.trace):
        return frame
    return Failed(message=message, code=frame.code, name=frame.name, call=frame.call, trace=trace)


def _memory() -> tuple[int, int]:
    """Of the machine: all, and what is free. Where that cannot be told, it is all free."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return total, next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return total, total


def machine_memory() -> int:
    """What the workers may take together where nothing is set."""
    return _memory()[0] * 9 // 10
