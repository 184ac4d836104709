"""Makes the calls of apps: a dispatch of the node goes in, what the worker did comes out as messages.

    node ──Dispatch──▶ AppPerformer ──Call──▶ pool ──▶ worker
         ◀─Returned, Raised, CallLost        │
    streams ◀─phases, outputs, deltas, lines─┘

A call that the app failed fails its task at once; one whose worker died is lost, and the node has it made again. What
is published goes to those who watch; the phases are also in the message that ends the call, so that the trace has them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from stepwell.apps.isolation import Isolation, Places
from stepwell.apps.pool import Pool
from stepwell.model.app import App, AppVersion
from stepwell.model.dispatch import Deliver, Dispatch, Memo
from stepwell.model.errors import StepwellError
from stepwell.model.ids import Instant, JobId, RunId, StepId
from stepwell.model.message import CallInfo, CallLost, Message, Raised, Returned
from stepwell.model.payload import canonical
from stepwell.model.stream import Piece, Publisher
from stepwell.model.task import (
    LOG_TYPES,
    PIECE_DELTA,
    PIECE_LOG,
    PIECE_OUTPUT,
    PIECE_STATUS,
    TASK_STEP,
    TaskPhase,
    TaskRequest,
    TaskStatus,
    read_request,
)
from stepwell.wire.app import Delta, Done, Failed, Output
from stepwell.wire.inngest.errors import own_error

__all__ = ["AppPerformer", "KeepOutput", "OutputNotKept"]

log = logging.getLogger("stepwell.apps")

_STEP = StepId(TASK_STEP)
_MOST_KNOWN = 10_000
_ASK_AGAIN_S = 10.0
"""How long the current version of an app counts as known, for calls of another one."""
_LONGEST_TOLD = 4_096

_json = msgspec.json.Encoder().encode


class OutputNotKept(StepwellError):
    """A file that an app gave back cannot be kept; the message says why."""

    code = "OUTPUT_NOT_KEPT"
    http_status = 422


class KeepOutput(Protocol):
    """Keeps a file that an app made, and says where it can be had from then on."""

    async def __call__(self, path: str, filename: str, content_type: str, task: RunId, env: str, /) -> str:
        """
        Args:
            path: On this machine; to be read before this returns.

        Raises:
            StepwellError: It cannot be kept.
        """


class Watcher(Protocol):
    """Is told of calls that are under way; `stepwell.server.performers`."""

    def on_log(self, run: RunId, call: JobId, level: str, text: str, at: Instant, step: StepId | None, /) -> None: ...

    def on_phase(self, run: RunId, call: JobId, phase: TaskPhase, worker: str = "", /) -> None: ...


class AppPerformer:
    """Implements `model.dispatch.Performer` for functions of apps.

    Args:
        find: The app and the version of a reference; raises `StepwellError`.
        keep_output: None: an app that gives back files fails.
    """

    def __init__(
        self,
        pool: Pool,
        deliver: Deliver,
        *,
        publisher: Publisher,
        find: Callable[[str, str], Awaitable[tuple[App, AppVersion]]],
        watcher: Watcher,
        keep_output: KeepOutput | None = None,
    ) -> None:
        self.pool = pool
        self._deliver = deliver
        self.publisher = publisher
        self._find = find
        self.watcher = watcher
        self.keep_output = keep_output
        self.ended_calls: dict[tuple[str, str], int] = {}
        """How many calls ended in which way, by app and `completed`, `failed` or `lost`."""
        self.numbers = itertools.count(1)
        self._calls: dict[JobId, _Call] = {}
        self._versions: dict[tuple[str, str], AppVersion] = {}
        self._current: dict[tuple[str, str], tuple[str, float]] = {}  # reference, and when it was asked for
        self._reached: OrderedDict[RunId, TaskStatus] = OrderedDict()  # of runs whose call was lost
        self._finding: set[asyncio.Task[None]] = set()
        self._draining = False
        self._closed = False

    # what the node asks for

    def perform(self, dispatch: Dispatch) -> None:
        if self._closed or self._draining:
            return
        old = self._calls.get(dispatch.job)
        if old is not None:
            self._drop(old)
        call = self._calls[dispatch.job] = _Call(self, dispatch)
        reference = dispatch.function.slug
        env = dispatch.function.env
        version = self._versions.get((env, reference))
        if version is None or self._may_have_changed(env, version):
            task = asyncio.get_running_loop().create_task(self._find_and_admit(call, env, reference))
            self._finding.add(task)
            task.add_done_callback(self._finding.discard)
        else:
            self._admit(call, version)

    def stop(self, call: JobId, reason: str) -> None:
        """`cancelled`: the call gets time to end, and its end is told. Anything else: nobody wants to know."""
        found = self._calls.get(call)
        if found is None:
            return
        if reason != "cancelled":
            self._drop(found)
            return
        grace_s = found.grace_s
        if found.cancelling:
            return
        found.cancelling = True
        if not self.pool.end(found.id, grace_s):
            self.pool.withdraw(found.id)
            found.lost("the task was cancelled before a worker began with it")

    def deliver_result(self, call: JobId, memo: Memo, news: int) -> None:
        """Functions of apps have no steps."""

    def deliver_retry(self, call: JobId, step: StepId, attempt: int, news: int) -> None:
        """Functions of apps have no steps."""

    def acknowledge(self, call: JobId, number: int, news: int) -> None:
        """Functions of apps report nothing that is acknowledged."""

    def ended(self, call: JobId) -> None:
        """Nothing is kept of a call that has ended."""

    def drain(self) -> None:
        """Begin no further calls; those under way may end."""
        self._draining = True
        self.pool.drain()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for task in self._finding:
            task.cancel()
        self._calls.clear()
        await self.pool.close()

    # what there is

    @property
    def in_flight(self) -> int:
        """Calls that workers make now."""
        return self.pool.busy

    @property
    def waiting(self) -> int:
        """Calls that wait for a worker."""
        return self.pool.schedule.queued

    def release_session(self, env: str, session: str) -> None:
        """A session is over: its worker goes."""
        self.pool.release(session)

    def know(self, app: App, version: AppVersion) -> None:
        """This version of an app is the current one: its least number of workers is kept warm, those of others go."""
        self._versions[version.env, version.reference] = version
        self._now_current(app)
        if version.scaling.least:
            self.pool.keep_warm(version, version.env)

    # beginning a call

    async def _find_and_admit(self, call: _Call, env: str, reference: str) -> None:
        try:
            app, version = await self._find(env, reference)
        except StepwellError as err:
            if err.retryable:
                call.lost(str(err))
            else:
                call.refused("setup", str(err))
            return
        if len(self._versions) >= _MOST_KNOWN:
            self._versions.clear()
        if app.current == version.version:
            self.know(app, version)
        else:
            self._versions[env, reference] = version
            self._now_current(app)
        if self._calls.get(call.dispatch.job) is call:
            self._admit(call, version)

    def _may_have_changed(self, env: str, version: AppVersion) -> bool:
        """Whether an old version that is called may be the current one again."""
        current, asked_at = self._current.get((env, version.app), ("", 0.0))
        return current != version.reference and time.monotonic() - asked_at > _ASK_AGAIN_S

    def _now_current(self, app: App) -> None:
        current = f"{app.reference}@{app.current}"
        before, _ = self._current.get((app.env, app.reference), ("", 0.0))
        self._current[app.env, app.reference] = (current, time.monotonic())
        if before != current:
            self.pool.set_current(app.env, app.reference, current)

    def _admit(self, call: _Call, version: AppVersion) -> None:
        try:
            request = read_request(call.dispatch.events[0], version.reference)
        except (msgspec.MsgspecError, IndexError) as err:
            call.refused("setup", f"the request of the task cannot be read: {err}")
            return
        call.request, call.version = request, version
        call.function = request.function or version.default_function
        call.came_to(TaskStatus.QUEUED)
        self.pool.submit(call)

    def _drop(self, call: _Call) -> None:
        """Nobody wants to know how a call ends; its worker is to be free again."""
        call.silent = True
        self._calls.pop(call.dispatch.job, None)
        if not self.pool.withdraw(call.id):
            self.pool.end(call.id, 0.0 if call.cancelling else call.grace_s)

    # ending one

    def deliver(self, call: _Call, message: Message, how: str) -> None:
        """Tell the node how a call ended, unless nobody wants to know."""
        dispatch = call.dispatch
        if self._calls.get(dispatch.job) is call:
            del self._calls[dispatch.job]
        if call.over or call.silent or self._closed:
            return
        call.over = True
        key = (dispatch.function.service, how)
        self.ended_calls[key] = self.ended_calls.get(key, 0) + 1
        if how == "lost":
            self._reached[dispatch.run] = call.status
            while len(self._reached) > _MOST_KNOWN:
                self._reached.popitem(last=False)
        else:
            self._reached.pop(dispatch.run, None)
        self._deliver(dispatch.run, dispatch.job, dispatch.fence, message)

    def reached(self, run: RunId) -> TaskStatus:
        """How far a run has come in calls that were lost."""
        return self._reached.get(run, TaskStatus.UNKNOWN)


class _Call:
    """One call; implements `stepwell.apps.pool.Call`."""

    __slots__ = (
        "_before", "_kept", "_lines", "_of", "_partial", "_phases", "_published", "cancelling", "dispatch", "env",
        "function", "id", "over", "request", "silent", "status", "started_at", "task", "version", "worker",
    )  # fmt: skip

    request: TaskRequest
    version: AppVersion
    function: str

    def __init__(self, of: AppPerformer, dispatch: Dispatch) -> None:
        self._of = of
        self.dispatch = dispatch
        self.id = f"{dispatch.job} {next(of.numbers)}"
        self.task: str = dispatch.run
        self.env = dispatch.function.env
        self.status = TaskStatus.UNKNOWN
        self.worker = ""
        self.started_at = 0
        self.cancelling = self.silent = self.over = False
        self._before = of.reached(dispatch.run)
        self._phases: list[TaskPhase] = []
        self._published = False
        self._lines = 0
        self._kept: dict[tuple[str, int, int], str] = {}
        self._partial: asyncio.Task[None] | None = None

    @property
    def grace_s(self) -> float:
        most = self._of.pool.settings.cancel_grace_s
        return min(self.dispatch.function.cancel_grace_ms / 1000 or most, most)

    # how far it is

    def came_to(self, status: TaskStatus) -> None:
        if status <= self.status:
            return
        now = _now()
        self.status = status
        phase = TaskPhase(status, now)
        self._phases.append(phase)
        if status is TaskStatus.RUNNING:
            self.started_at = now
        self._of.watcher.on_phase(self.dispatch.run, self.dispatch.job, phase, self.worker)
        if status > self._before:
            self._publish(Piece(PIECE_STATUS, str(int(status)), more={"at": now}))

    def taken(self, worker: str) -> None:
        self.worker = worker
        self.came_to(TaskStatus.DISPATCHED)

    def printed(self, level: str, lines: Sequence[str]) -> None:
        most = self._of.pool.settings.log_lines
        if self._lines > most:
            return
        self._lines += len(lines)
        told = list(lines)
        if self._lines > most:
            told = [*told[: len(told) - (self._lines - most)], f"more than {most} lines: the rest is not kept"]
        now = _now()
        number = LOG_TYPES[level]
        dispatch, on_log = self.dispatch, self._of.watcher.on_log
        pieces = []
        for line in told:
            on_log(dispatch.run, dispatch.job, level, line, now, None)
            pieces.append(Piece(PIECE_LOG, line[:_LONGEST_TOLD], more={"at": now, "log_type": number}))
        self._publish(*pieces)

    def put_out(self, frame: Output) -> None:
        if not frame.files and self._partial is None:
            self._put_out(frame.value)
        elif self._partial is None:
            places = self._places()
            if places is not None:
                self._partial = asyncio.get_running_loop().create_task(self._put_out_files(frame, places))

    def added(self, frame: Delta) -> None:
        self._published = True
        self._publish(Piece(PIECE_DELTA, _json(frame.value).decode()))

    # how it ends

    def finished(self, frame: Done, places: Places) -> Awaitable[None] | None:
        if frame.files or self._partial is not None:
            self.came_to(TaskStatus.UPLOADING)
            return self._finished_with_files(frame, places)
        self._returned(frame.value, frame.meta)
        return None

    def failed(self, frame: Failed) -> None:
        self._raised(frame)

    def lost(self, why: str) -> None:
        name = "Cancelled" if self.cancelling else "WorkerLost"
        code = "cancelled" if self.cancelling else "worker_lost"
        if self._published:
            self._of.publisher.void(self.dispatch.run, _STEP, TASK_STEP)
        message = CallLost(self.dispatch.job, own_error(name, why), info=self._info(), code=code)
        self._of.deliver(self, message, "lost")

    def refused(self, code: str, why: Failed | str) -> None:
        names = {"session": "SessionLost", "resources": "ResourcesMissing", "workers": "WorkerNotFound"}
        failed = why if isinstance(why, Failed) else Failed(message=why, code=code, name=names.get(code, "NotRunnable"))
        self._raised(failed)

    def _raised(self, failed: Failed) -> None:
        error: dict[str, Any] = {"name": failed.name or "Error", "message": failed.message}
        if failed.trace:
            error["stack"] = failed.trace
        message = Raised(self.dispatch.job, _sound(error), retry=False, info=self._info(), code=f"app_{failed.code}")
        self._of.deliver(self, message, "failed")

    def _returned(self, value: Any, meta: Any) -> None:
        try:
            output = canonical({"output": value, "meta": meta})
        except ValueError as err:
            self._raised(Failed(message=f"the app gave back what JSON cannot hold: {err}", name="OutputNotJson"))
            return
        self._of.deliver(self, Returned(self.dispatch.job, output, info=self._info()), "completed")

    def _info(self) -> CallInfo:
        now = _now()
        began = self.started_at or (self._phases[0].at if self._phases else now)
        return CallInfo(began, float(now - began), self.worker, phases=tuple(self._phases))

    # files

    async def _put_out_files(self, frame: Output, places: Places) -> None:
        """Publish a partial output with files; further ones that come meanwhile are left out."""
        try:
            self._put_out(await self._with_kept(frame.value, frame.files, places))
        except (StepwellError, OSError, LookupError) as err:
            log.debug("a partial output of %s is not shown: %s", self.dispatch.run, err)
        finally:
            self._partial = None

    async def _finished_with_files(self, frame: Done, places: Places) -> None:
        if self._partial is not None:
            await asyncio.wait([self._partial])
        try:
            value = await self._with_kept(frame.value, frame.files, places)
        except (StepwellError, OSError, LookupError) as err:
            if isinstance(err, StepwellError) and err.retryable:
                self.lost(str(err))
            else:
                self._raised(Failed(message=str(err), name="OutputNotKept", code="output"))
        else:
            self._returned(value, frame.meta)

    async def _with_kept(self, value: Any, files: Iterable[Sequence[str | int]], places: Places) -> Any:
        """The value with an address in the place of every file.

        Raises:
            StepwellError: One cannot be kept.
        """
        whole = [value]
        for path in files:
            *way, last = [0, *path]
            holder: Any = whole
            for key in way:
                holder = holder[key]
            holder[last] = await self._kept_file(holder[last], places)
        return whole[0]

    async def _kept_file(self, file: dict[str, Any], places: Places) -> str | None:
        uri, path = file.get("uri") or "", file.get("path") or ""
        if uri.startswith(("http://", "https://")) or not path:
            return uri or None
        keep = self._of.keep_output
        if keep is None:
            raise OutputNotKept("the app gave back a file, and this server keeps no files")
        isolation = self._of.pool.isolation
        descriptor, size, changed = await asyncio.to_thread(open_output, path, places, isolation)
        try:
            known = self._kept.get((path, size, changed))
            if known is not None:
                return known
            filename = file.get("filename") or os.path.basename(path)
            content_type = file.get("content_type") or ""
            kept = await keep(f"/dev/fd/{descriptor}", filename, content_type, self.dispatch.run, self.env)
        finally:
            os.close(descriptor)
        self._kept[path, size, changed] = kept
        return kept

    def _places(self) -> Places | None:
        return self._of.pool.places_of(self.id)

    # telling

    def _put_out(self, value: Any) -> None:
        self._published = True
        self._publish(Piece(PIECE_OUTPUT, _json(value).decode()))

    def _publish(self, *pieces: Piece) -> None:
        if not self.silent:
            self._of.publisher.publish(self.dispatch.run, _STEP, TASK_STEP, pieces)


def open_output(path: str, places: Places, isolation: Isolation) -> tuple[int, int, int]:
    """Open a file that an app gave back. Returns its descriptor, its size and when it was changed.

    Raises:
        OutputNotKept: It is not there, is no file, or lies where the app has nothing to give away.
    """
    seen = isolation.seen_as(places, path)
    try:
        descriptor = os.open(os.path.realpath(seen), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as err:
        raise OutputNotKept(f"the app gave back the file {path!r}, which cannot be read: {err.strerror}") from err
    try:
        about = os.fstat(descriptor)
        real = Path(os.path.realpath(f"/dev/fd/{descriptor}"))
        if not stat.S_ISREG(about.st_mode):
            raise OutputNotKept(f"the app gave back {path!r}, which is no file")
        if real.exists() and not any(real.is_relative_to(root.resolve()) for root in isolation.roots(places)):
            raise OutputNotKept(
                f"the app gave back the file {path!r}, which is not its own; have it in its folder, its home or /tmp"
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, about.st_size, about.st_mtime_ns


def _sound(error: dict[str, Any]) -> bytes:
    try:
        return canonical(error)
    except ValueError:  # half a letter in it
        return canonical({name: text.encode("utf-8", "replace").decode() for name, text in error.items()})


def _now() -> Instant:
    return time.time_ns() // 1_000_000
