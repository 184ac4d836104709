"""Workers that dialled in: the server's side of our own protocol, without a socket.

    frames in ──▶ Connection.receive ──▶ messages to the node       Hello, Report, Returned ...
    frames out ◀── Connection's writer ◀── the node's hints          Call, Ack, Resolve, Ended ...

The endpoint that owns the socket makes a `Connection` with a way to send and a way to close, feeds it every
frame in order and tells it when the socket is gone. A call goes to the least-loaded live worker that has the
function; if there is none it waits in line, or where other nodes have workers too, it is given back. When a
connection is lost each of its calls is lost too, and tried
again at once. `Declined` gives a call back untouched.

A worker is trusted with its own calls only: what it says about another's is answered with `Stop` and dropped. Text
that is not JSON, or refers to stored values, fails the run it is said of and leaves the connection to the others. A
worker that sends faster than its limits is read no faster than they allow.

Frames: `wire/worker.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from stepwell.model import message
from stepwell.model.dispatch import Opening
from stepwell.model.errors import InvalidInput
from stepwell.model.event import DEV_ENV
from stepwell.model.function import Service, Transport
from stepwell.model.ids import Instant, JobId, RunId, StepId
from stepwell.model.job import route_of
from stepwell.model.message import CallInfo
from stepwell.wire import worker as frames
from stepwell.wire.inngest.register import RegisterRefused, read_functions
from stepwell.wire.inngest.text import read, shortened
from stepwell.workers.base import Clock, Deliver, Dispatch, Memo, now_ms, own_error
from stepwell.workers.budget import Budget
from stepwell.workers.checks import BadCall
from stepwell.workers.connection import GOING_AWAY, POLICY, REPLACED, Close, Connection, Limits, LiveCall, Send

DEFAULT_CONCURRENCY = 100
"""Calls at a time of a worker that names no number."""
MAX_CONCURRENCY = 10_000
IDLE_MS = 5_000
"""How long a function that only waits stays in a worker's memory."""
BYTES_IN_FLIGHT = 128 * 1024 * 1024
"""Of large results on their way to workers."""
DECLINED_PAUSE_S = 1.0
"""How long a worker that gave a call back for want of room gets no new one."""
_REFUSED_REMEMBERED = 1_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Registered:
    """What became of a worker's registration."""

    modified: bool
    warnings: tuple[str, ...] = ()


Register: TypeAlias = Callable[[Service], Awaitable[Registered]]
"""Stores the service of a Hello; may raise `InvalidInput` to refuse it."""


class OnLog(Protocol):
    """Takes a line that a function logged; level `running` names a step that has been running for a while."""

    def __call__(self, run: RunId, call: JobId, level: str, text: str, at: Instant, step: StepId | None, /) -> None: ...


def _no_log(run: RunId, call: JobId, level: str, text: str, at: Instant, step: StepId | None, /) -> None:
    """Nobody listens."""


class OnTaken(Protocol):
    """Told when a call is handed to a worker."""

    def __call__(self, run: RunId, call: JobId, worker: str, at: Instant, /) -> None: ...


def _not_told(run: RunId, call: JobId, worker: str, at: Instant, /) -> None:
    """Nobody asks."""


def _nobody_waits(env: str, service: str) -> None:
    """No node has calls elsewhere."""


class SocketPerformer:
    """Keeps the live workers and hands them calls. Implements `model.dispatch.Performer` and `Reach`.

    Args:
        deliver: Takes each message.
        register: Stores what a worker announces, before it is welcomed.
        server: Name and version for the worker, `stepwell:v0.1.0`.
        node: Name of this node.
        on_log: Takes the lines that functions log.
        on_taken: Told when a call is handed to a worker, which may be long after it was to be performed.
        on_room: Told when workers of a service, given by environment and name, may have room for further calls.
        shared: Other nodes have workers too, so no call waits here: what finds no room is given back.
    """

    def __init__(
        self,
        deliver: Deliver,
        register: Register,
        *,
        server: str = "stepwell",
        node: str = "",
        idle_ms: int = IDLE_MS,
        default_concurrency: int = DEFAULT_CONCURRENCY,
        bytes_in_flight: int = BYTES_IN_FLIGHT,
        on_log: OnLog = _no_log,
        on_taken: OnTaken = _not_told,
        on_room: Callable[[str, str], None] = _nobody_waits,
        shared: bool = False,
        limits: Limits | None = None,
        clock: Clock = now_ms,
    ) -> None:
        self._deliver = deliver
        self._register = register
        self._server = server
        self._node = node
        self._idle_ms = idle_ms
        self._default_concurrency = default_concurrency
        self._on_log = on_log
        self._on_taken = on_taken
        self._on_room = on_room
        self._shared = shared
        self._limits = limits or Limits()
        self._clock = clock
        self._budget = Budget(bytes_in_flight)
        self._live: dict[tuple[str, str], list[Connection]] = {}
        self._calls: dict[JobId, LiveCall] = {}
        self._waiting: dict[tuple[str, str], dict[JobId, Dispatch]] = {}
        self._early: dict[JobId, list[frames.Resolve | frames.Retry]] = {}  # news for calls that are not sent yet
        self._loading: dict[JobId, asyncio.Task[None]] = {}
        self._timers: dict[JobId, asyncio.TimerHandle] = {}
        self._pumps: set[asyncio.TimerHandle] = set()
        self._greeted: set[Connection] = set()
        self._refused: dict[str, str] = {}  # why workers are, by their service
        self._draining = False
        self._closed = False

    # The endpoint

    def connect(
        self, send: Send, close: Close, *, env: str = DEV_ENV, may_serve: Callable[[str], bool] = lambda service: True
    ) -> Connection:
        """A connection for a socket that was just accepted.

        Args:
            env: Where the worker's credential belongs.
            may_serve: Whether that credential may serve a service of this name.
        """
        return Connection(self, send, close, env=env, may_serve=may_serve, limits=self._limits, clock=self._clock)

    def workers(self, env: str, service: str) -> tuple[Connection, ...]:
        """The live workers of a service."""
        return tuple(self._live.get((env, service), ()))

    def waiting(self, env: str, service: str) -> int:
        """Calls of a service that wait for a worker."""
        return len(self._waiting.get((env, service), ()))

    @property
    def in_flight(self) -> int:
        """Calls that workers have, or that ended and are not committed yet."""
        return len(self._calls)

    def drain(self) -> None:
        """Take no more workers. Those that are here are told to go elsewhere; what they run may be finished."""
        self._draining = True
        for connection in self._greeted:
            connection.draining = True
            connection.post(frames.Closing(reason="the server goes away"))

    # Reach

    def places(self, env: str, service: str, function: str) -> int:
        live = self._live.get((env, service), ())
        return sum(one.concurrency - one.running for one in live if one.has_room(function))

    def openings(self) -> Sequence[Opening]:
        return [_opening(env, service, live) for (env, service), live in self._live.items()]

    # Performer

    def perform(self, dispatch: Dispatch) -> None:
        if self._closed:
            return
        self.stop(dispatch.job, "stale")  # the same job with an older fence
        function = dispatch.function
        self._waiting.setdefault((function.env, function.service), {})[dispatch.job] = dispatch
        if dispatch.deadline is not None:
            left_s = max(0.0, (dispatch.deadline - self._clock()) / 1000)
            loop = asyncio.get_running_loop()
            self._timers[dispatch.job] = loop.call_later(left_s, self._too_late, dispatch.job)
        self._hand_out(function.env, function.service)
        if self._shared and dispatch.job in self._waiting.get((function.env, function.service), ()):
            self._drop(dispatch.job)
            error = own_error("Declined", f"no worker of {function.service!r} has room at node {self._node}")
            lost = message.CallLost(dispatch.job, error, free=True, code="declined")
            self._deliver(dispatch.run, dispatch.job, dispatch.fence, lost)

    def deliver_result(self, call: JobId, memo: Memo, news: int) -> None:
        self._tell(call, frames.Resolve(call=call, memo=memo, news=news))

    def deliver_retry(self, call: JobId, step: StepId, attempt: int, news: int) -> None:
        self._tell(call, frames.Retry(call=call, step=step, attempt=attempt, news=news))

    def acknowledge(self, call: JobId, number: int, news: int) -> None:
        found = self._calls.get(call)
        if found is None:
            return
        found.acknowledged = max(found.acknowledged, (number, news))
        found.connection.post(frames.Ack(call=call, number=number, news=news))

    def stop(self, call: JobId, reason: str) -> None:
        found = self._calls.get(call)
        if found is not None:
            found.connection.post(frames.Stop(call=call, reason=reason))
        self._drop(call)

    def ended(self, call: JobId) -> None:
        found = self._calls.get(call)
        if found is not None and found.answered:
            found.connection.post(frames.Ended(call=call))
            self._drop(call)

    async def close(self) -> None:
        self._closed = True
        tasks = list(self._loading.values())  # dropping a call cancels its own
        for job in [job for waiting in self._waiting.values() for job in waiting]:
            self._drop(job)
        for job in list(self._calls):
            self._drop(job)
        for timer in self._pumps:
            timer.cancel()
        if not self._draining:
            self.drain()
        for connection in list(self._greeted):
            connection.close(GOING_AWAY, "the server goes away")
        await asyncio.gather(*tasks, return_exceptions=True)

    # Hello

    async def greet(self, connection: Connection, hello: frames.Hello) -> None:
        """Welcome a worker, or refuse it with a reason."""
        try:
            service, warnings = self._introduced(connection, hello)
            registered = await self._register(service)
        except _Refusal as refusal:
            self._refuse(connection, hello, refusal.code, str(refusal))
            return
        except InvalidInput as refusal:
            code = refusal.reason if isinstance(refusal, RegisterRefused) else refusal.code
            self._refuse(connection, hello, code or "invalid_function", str(refusal))
            return
        if self._draining:
            connection.post(frames.Closing(reason="the server goes away"))
            connection.close(GOING_AWAY, "the server goes away")
        elif not connection.gone and not self._closed:
            self._admit(connection, hello, service, registered, warnings)

    def _introduced(self, connection: Connection, hello: frames.Hello) -> tuple[Service, tuple[str, ...]]:
        if hello.version != frames.VERSION:
            older = "worker" if hello.version < frames.VERSION else "server"
            raise _Refusal(
                "version",
                f"the worker speaks version {hello.version} of the protocol and this server {frames.VERSION}; "
                f"update the {older}",
            )
        for name, value in (("service", hello.service), ("worker", hello.worker)):
            if not value or len(value) > 255:
                raise _Refusal("invalid_name", f"`{name}` must have 1 to 255 letters, not {len(value)}; name it")
        if not connection.may_serve(hello.service):
            raise _Refusal(
                "forbidden",
                f"this key may not serve {shortened(hello.service, 80)!r}; use the key of that service",
            )
        try:
            configs = read(hello.functions)
        except ValueError as err:
            raise _Refusal("invalid_function", f"`functions` is {err}") from err
        functions, warnings = read_functions(
            configs, service=hello.service, env=connection.env, transport=Transport.SOCKET
        )
        service = Service(
            name=hello.service,
            transport=Transport.SOCKET,
            env=connection.env,
            sdk=hello.sdk[:255],
            functions=functions,
            app_version=hello.app_version[:255],
        )
        return service, warnings

    def _admit(
        self,
        connection: Connection,
        hello: frames.Hello,
        service: Service,
        registered: Registered,
        warnings: tuple[str, ...],
    ) -> None:
        wanted = hello.concurrency if hello.concurrency > 0 else self._default_concurrency
        connection.introduce(service, hello, min(wanted, MAX_CONCURRENCY))
        live = self._live.get((service.env, service.name), [])
        for older in [one for one in live if hello.instance and one.instance == hello.instance]:
            older.close(REPLACED, "this process has connected again")
            older.lost()
        # Closing the older one may have emptied the list of this service, and with it removed it.
        self._live.setdefault((service.env, service.name), []).append(connection)
        self._greeted.add(connection)
        self._refused.pop(service.name, None)
        connection.post(
            frames.Welcome(
                version=frames.VERSION,
                server=self._server,
                node=self._node,
                idle_ms=self._idle_ms,
                concurrency=connection.concurrency,
                modified=registered.modified,
                warnings=tuple(dict.fromkeys((*warnings, *registered.warnings))),
                packs=True,
            )
        )
        for call in hello.calls[:MAX_CONCURRENCY]:
            # Whatever it still holds was lost with its former connection and is performed anew.
            connection.post(frames.Stop(call=call, reason="stale"))
        self._hand_out(service.env, service.name)

    def _refuse(self, connection: Connection, hello: frames.Hello, code: str, text: str) -> None:
        """Say why, to the worker and to the log, where a worker that comes again and again is named once."""
        service = shortened(hello.service, 80)
        if self._refused.get(service) != text:
            if len(self._refused) >= _REFUSED_REMEMBERED:
                self._refused.clear()
            self._refused[service] = text
            log.warning("worker %r of service %r is refused: %s", shortened(hello.worker, 80), service, text)
        connection.post(frames.Refused(code=code, message=text))
        connection.close(POLICY, text)

    # Frames about calls

    def take(self, connection: Connection, frame: frames.FromWorker) -> None:
        """Turn a frame, checked, of a welcome worker into messages.

        Raises:
            BadCall: A report is missing before this one.
        """
        assert not isinstance(frame, frames.Hello), "greeted apart"
        if isinstance(frame, frames.Draining):
            connection.draining = True
            return
        call = connection.calls.get(frame.call)
        if call is None or call.answered:
            if not isinstance(frame, (frames.Running, frames.Log)):
                connection.stray(frame.call)
            return
        match frame:
            case frames.Running():
                self._log(call, "running", frame.name, self._clock(), frame.step)
            case frames.Log():
                self._log(call, frame.level[:20], frame.text[:10_000], frame.at, frame.step)
            case frames.Report():
                self._on_report(call, frame)
            case frames.Suspended():
                self._end(call, message.Suspended(frame.call, frame.news, call.info()))
            case frames.Returned():
                self._end(call, message.Returned(frame.call, frame.output, info=call.info()))
            case frames.Raised():
                info = call.info()
                self._end(call, message.Raised(frame.call, frame.error, frame.retry, frame.retry_at, info=info))
            case frames.Declined():
                self._on_declined(call, frame)

    def _on_report(self, call: LiveCall, frame: frames.Report) -> None:
        if frame.number <= call.reports:
            number, news = call.acknowledged
            if frame.number <= number:
                call.connection.post(frames.Ack(call=frame.call, number=number, news=news))
            return
        if frame.number != call.reports + 1:
            # A frame went missing on the way, which is nobody's fault: the call is made again, from what is recorded.
            text = f"report {frame.number} came where report {call.reports + 1} belongs"
            call.connection.post(frames.Stop(call=frame.call, reason="stale"))
            error = own_error("ReportMissing", text)
            lost = message.CallLost(frame.call, error, at_once=True, info=call.info(), code="report_missing")
            self._end(call, lost)
            return
        call.reports = frame.number
        self._send(call, message.Reported(frame.call, frame.ops, frame.number))

    def spoiled(self, connection: Connection, job: JobId, why: BadCall) -> None:
        """What the worker says about a call cannot be taken: its run fails, and the worker forgets the call."""
        call = connection.calls.get(job)
        if call is None or call.answered:
            connection.stray(job)
            return
        about = {"run": call.dispatch.run, "function": call.dispatch.function.slug}
        log.warning("worker %s: call %s of run %s fails: %s", connection.worker, job, about["run"], why, extra=about)
        connection.post(frames.Stop(call=job, reason="finished"))
        text = str(why) if why.code in str(why) else f"{why.code}: {why}"
        error = own_error(why.name, text)
        self._end(call, message.Raised(job, error, False, info=call.info(), code=why.code))

    def _on_declined(self, call: LiveCall, frame: frames.Declined) -> None:
        connection = call.connection
        if frame.reason == "draining":
            connection.draining = True
        elif frame.reason == "unknown function":
            connection.missing.add(call.dispatch.function.slug)
        else:
            connection.paused_until = time.monotonic() + DECLINED_PAUSE_S
            self._hand_out_later(call.dispatch.function.env, call.dispatch.function.service)
        error = own_error("Declined", f"worker {connection.worker} gave the call back: {shortened(frame.reason)}")
        self._end(call, message.CallLost(frame.call, error, free=True, info=call.info(), code="declined"))

    def _log(self, call: LiveCall, level: str, text: str, at: Instant, step: StepId | None) -> None:
        self._on_log(call.dispatch.run, call.dispatch.job, level, text, at, step)

    def _end(self, call: LiveCall, last: message.Message) -> None:
        """Deliver the last message of a call. Its slot is free; `ended` or `stop` forgets it."""
        call.answer()
        self._send(call, last)
        function = call.dispatch.function
        self._hand_out(function.env, function.service)

    def _send(self, call: LiveCall, one: message.Message) -> None:
        self._deliver(call.dispatch.run, call.dispatch.job, call.dispatch.fence, one)

    # Handing out

    def _hand_out(self, env: str, service: str) -> None:
        """Workers may have room: for calls that wait here, or elsewhere."""
        if self._waiting.get((env, service)):
            self._hand_out_line(env, service)
        self._on_room(env, service)

    def _hand_out_line(self, env: str, service: str) -> None:
        """Give waiting calls to workers that have room, in order; those nobody has room for stay in line."""
        waiting = self._waiting.get((env, service))
        live = self._live.get((env, service))
        if not waiting or not live:
            return
        nowhere: set[str] = set()  # functions that no worker has room for just now
        placed: list[tuple[Dispatch, Connection]] = []
        for dispatch in waiting.values():
            slug = dispatch.function.slug
            if slug in nowhere:
                continue
            able = [connection for connection in live if connection.has_room(slug)]
            if able:
                chosen = min(able, key=lambda one: (one.running / one.concurrency, one.running))
                chosen.running += 1
                placed.append((dispatch, chosen))
            elif all(connection.running >= connection.concurrency for connection in live):
                break
            else:
                nowhere.add(slug)
        for dispatch, chosen in placed:
            del waiting[dispatch.job]
            self._begin(dispatch, chosen)

    def _hand_out_later(self, env: str, service: str) -> None:
        def again() -> None:
            self._pumps.discard(timer)
            self._hand_out(env, service)

        timer = asyncio.get_running_loop().call_later(DECLINED_PAUSE_S + 0.01, again)
        self._pumps.add(timer)

    def _begin(self, dispatch: Dispatch, connection: Connection) -> None:
        """Send the call; its place at the worker is taken already."""
        call = LiveCall(dispatch, connection, self._clock(), time.monotonic())
        self._calls[dispatch.job] = connection.calls[dispatch.job] = call
        self._on_taken(dispatch.run, dispatch.job, connection.worker, call.started_at)
        if dispatch.load_memos is None:
            self._call(call, dispatch.memos)
        else:
            load = self._load(call, dispatch.load_memos)
            task = asyncio.get_running_loop().create_task(load, name=f"call {dispatch.job}")
            self._loading[dispatch.job] = task
            task.add_done_callback(lambda done: self._loaded(dispatch.job, done))

    async def _load(self, call: LiveCall, load_memos: Callable[[], Awaitable[tuple[Memo, ...]]]) -> None:
        """Send a call whose results are large, once there is room; the room is free when it is written."""
        size_bytes = call.dispatch.memo_bytes
        await self._budget.take(size_bytes)
        try:
            memos = await load_memos()
        except BaseException:
            self._budget.give(size_bytes)
            raise
        self._call(call, memos, lambda: self._budget.give(size_bytes))

    def _loaded(self, job: JobId, done: asyncio.Task[None]) -> None:
        if self._loading.get(job) is done:
            del self._loading[job]
        if done.cancelled():
            return
        err = done.exception()
        call = self._calls.get(job)
        if err is not None and call is not None and not call.answered:
            log.error("the results of call %s cannot be read", job, exc_info=err, extra={"run": call.dispatch.run})
            error = own_error("InternalError", f"the run's recorded results cannot be read: {err}")
            self._drop(job)
            self._send(call, message.CallLost(job, error, info=call.info(), code="internal_error"))

    def _call(self, call: LiveCall, memos: tuple[Memo, ...], written: Callable[[], None] | None = None) -> None:
        dispatch = call.dispatch
        size_bytes = sum(len(memo.value) + 128 for memo in memos) + sum(map(len, dispatch.events))
        if size_bytes > frames.MAX_FRAME_BYTES:
            if written is not None:
                written()
            text = (
                f"the run's recorded results have {size_bytes} bytes together and a worker can be sent "
                f"{frames.MAX_FRAME_BYTES}; return references from steps, or continue in another function"
            )
            self._drop(dispatch.job)
            lost = message.Raised(
                dispatch.job, own_error("StateTooLarge", text), False, info=call.info(), code="state_too_large"
            )
            self._send(call, lost)
            return
        call.connection.post(
            frames.Call(
                call=dispatch.job,
                run=dispatch.run,
                function=dispatch.function.slug,
                attempt=dispatch.attempt,
                max_attempts=dispatch.max_attempts,
                events=dispatch.events,
                memos=memos,
                waiting=dispatch.waiting,
                attempts=dict(dispatch.attempts),
                news=dispatch.news,
                started_at=dispatch.started_at,
                lingers=dispatch.lingers,
            ),
            written,
        )
        call.told = True
        for frame in self._early.pop(dispatch.job, ()):
            call.connection.post(frame)

    # Losing and forgetting

    def forget(self, connection: Connection) -> None:
        """The connection is gone: its calls are lost, each tried again at once."""
        self._greeted.discard(connection)
        service = connection.service
        if service is not None:
            live = self._live.get((service.env, service.name), [])
            if connection in live:
                live.remove(connection)
            if not live:
                self._live.pop((service.env, service.name), None)
        for call in list(connection.calls.values()):
            unanswered = not call.answered
            self._drop(call.dispatch.job)
            if unanswered and not self._closed:
                text = f"worker {connection.worker} lost its connection in the middle of the call"
                lost = message.CallLost(
                    call.dispatch.job,
                    own_error("WorkerLost", text),
                    at_once=True,
                    info=call.info(),
                    code="worker_lost",
                )
                self._send(call, lost)

    def _too_late(self, job: JobId) -> None:
        call = self._calls.get(job)
        dispatch = call.dispatch if call is not None else self._queued(job)
        if dispatch is None or (call is not None and call.answered):
            return
        if call is not None:
            text, info = f"worker {call.connection.worker} did not finish the call before its deadline", call.info()
            call.connection.post(frames.Stop(call=job, reason="stale"))
        else:
            service = dispatch.function.service
            text, info = f"no worker of {service!r} took the call before its deadline; is one running?", CallInfo()
        self._drop(job)
        lost = message.CallLost(
            job, own_error("DeadlinePassed", text), info=info, code="deadline_passed" if call else "no_worker"
        )
        self._deliver(dispatch.run, job, dispatch.fence, lost)

    def _queued(self, job: JobId) -> Dispatch | None:
        return next((waiting[job] for waiting in self._waiting.values() if job in waiting), None)

    def _tell(self, job: JobId, frame: frames.Resolve | frames.Retry) -> None:
        """Tell a function of news of its run: now, or right after its call when that is still in line or being read."""
        call = self._calls.get(job)
        if call is not None and call.told:
            if not call.answered:
                call.connection.post(frame)
        elif call is not None or self._queued(job) is not None:
            self._early.setdefault(job, []).append(frame)

    def _drop(self, job: JobId) -> None:
        """Forget a call wherever it is; nothing is said to anybody."""
        self._early.pop(job, None)
        timer = self._timers.pop(job, None)
        if timer is not None:
            timer.cancel()
        task = self._loading.pop(job, None)
        if task is not None:
            task.cancel()
        call = self._calls.pop(job, None)
        if call is None:
            for waiting in self._waiting.values():
                waiting.pop(job, None)
            return
        freed = not call.answered
        call.answer()
        call.connection.calls.pop(job, None)
        if freed and not self._closed:
            function = call.dispatch.function
            loop = asyncio.get_running_loop()
            loop.call_soon(self._hand_out, function.env, function.service)


def _opening(env: str, service: str, live: Sequence[Connection]) -> Opening:
    now = time.monotonic()
    places = 0
    open_now: set[str] = set()
    every: set[str] = set()
    for one in live:
        has = one.functions - one.missing
        every |= has
        if one.open and not one.draining and one.running < one.concurrency and now >= one.paused_until:
            places += one.concurrency - one.running
            open_now |= has
    routes = tuple(route_of(env, function) for function in sorted(open_now))
    return Opening(env, service, places, routes, tuple(route_of(env, one) for one in sorted(every - open_now)))


class _Refusal(Exception):
    """A Hello that is answered with `Refused`."""

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        super().__init__(text)
