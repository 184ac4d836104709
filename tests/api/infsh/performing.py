"""A performer of apps that does what a test tells it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from stepwell.model import message
from stepwell.model.dispatch import Dispatch, Memo
from stepwell.model.function import Transport
from stepwell.model.ids import JobId, StepId
from stepwell.model.message import CallInfo
from stepwell.model.payload import canonical
from stepwell.model.stream import Piece
from stepwell.model.task import (
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
from stepwell.server import Server


class Call:
    """One call of an app, under way."""

    def __init__(self, server: Server, dispatch: Dispatch) -> None:
        self.request: TaskRequest = read_request(dispatch.events[0], dispatch.function.slug)
        self.stopped = asyncio.Event()
        self._server = server
        self._dispatch = dispatch
        self._phases: list[TaskPhase] = []

    def _publish(self, kind: str, text: str, **more: Any) -> None:
        streams, run = self._server.site.streams, self._dispatch.run
        streams.publish(run, StepId(TASK_STEP), TASK_STEP, [Piece(kind, text, more=more)])

    def come_to(self, status: TaskStatus) -> None:
        at = time.time_ns() // 1_000_000
        phase = TaskPhase(status, at)
        self._phases.append(phase)
        self._server._performers.on_phase(self._dispatch.run, self._dispatch.job, phase)
        self._publish(PIECE_STATUS, str(int(status)), at=at)

    def output(self, value: object) -> None:
        self._publish(PIECE_OUTPUT, json.dumps(value))

    def delta(self, value: object) -> None:
        self._publish(PIECE_DELTA, json.dumps(value))

    def log(self, line: str) -> None:
        self._publish(PIECE_LOG, line, at=time.time_ns() // 1_000_000, log_type=1)

    def returned(self, output: object, meta: object = None) -> None:
        text = canonical({"output": output, "meta": meta})
        self._deliver(message.Returned(self._dispatch.job, text, info=self._info()))

    def raised(self, text: str) -> None:
        error = canonical({"name": "AppError", "message": text})
        self._deliver(message.Raised(self._dispatch.job, error, retry=False, info=self._info()))

    def _info(self) -> CallInfo:
        return CallInfo(phases=tuple(self._phases))

    def _deliver(self, what: message.Message) -> None:
        self._server._performers.deliver(self._dispatch.run, self._dispatch.job, self._dispatch.fence, what)


Script = Callable[[Call], Awaitable[None]]


async def echo(call: Call) -> None:
    call.come_to(TaskStatus.RUNNING)
    call.returned({"echo": call.request.input, "function": call.request.function})


class ScriptedApps:
    """Every call of an app, on whichever server, goes through `script`, which is given the call."""

    def __init__(self, *servers: Server) -> None:
        self.script: Script = echo
        self.calls: list[Call] = []
        for server in servers:
            transports: Any = server._performers._inner
            transports._performers[Transport.APP] = _Scripted(self, server)
            server.node.call_apps(lambda _: True)  # which need no packages here


class _Scripted:
    """The performer of one server."""

    def __init__(self, apps: ScriptedApps, server: Server) -> None:
        self._apps = apps
        self._server = server
        self._under_way: dict[JobId, Call] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def perform(self, dispatch: Dispatch) -> None:
        call = self._under_way[dispatch.job] = Call(self._server, dispatch)
        self._apps.calls.append(call)
        task = asyncio.ensure_future(self._apps.script(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self, call: JobId, reason: str) -> None:
        if call in self._under_way:
            self._under_way[call].stopped.set()

    def deliver_result(self, call: JobId, memo: Memo, news: int) -> None: ...
    def deliver_retry(self, call: JobId, step: StepId, attempt: int, news: int) -> None: ...
    def acknowledge(self, call: JobId, number: int, news: int) -> None: ...
    def ended(self, call: JobId) -> None: ...

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
