"""The worker: a service's connection to a server, and the calls that run over it.

    connect ──▶ Hello ──▶ Welcome ──▶ calls, reports, acknowledgements ──▶ connection lost ──▶ wait ──▶ connect ...

A server that goes away says so: the worker connects again at once, to another node where there is one, and what
it still runs for the old one is finished there.

When a connection is lost every call in memory is dropped. The server calls again with what it has recorded;
a step that had finished here and was not acknowledged runs again. That is all there is to it, because a
step that runs at least once and has one recorded result is what was promised.

To drain (a signal, or `Worker.drain`): no new calls, running steps are finished and reported, what only
waits is given back, and the connection is closed when the server has confirmed the last of it.

Elsewhere: the frames (`stepwell.wire.worker`), one call (`live.py`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, assert_never

import msgspec

from stepwell.model.ids import JobId, StepId
from stepwell.sdk import outcome as outcomes
from stepwell.sdk.errors import WorkerRefused
from stepwell.sdk.execution import Observer
from stepwell.sdk.live import LiveExecution
from stepwell.sdk.sender import EventSender
from stepwell.sdk.version import SDK
from stepwell.wire import worker as wire

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

    from stepwell.sdk.service import Service

DEFAULT_URL = "http://localhost:8288"
PROTOCOL_ERROR = 1002
LONGEST_PAUSE_S = 10.0
FIRST_PAUSE_S = 0.1
OPEN_TIMEOUT_S = 10.0
PING_INTERVAL_S = 4.0
PING_PATIENCE_S = 5
"""How many seconds a server may leave a ping without an answer: others have taken over its work after ten."""
WELCOME_TIMEOUT_S = 20.0
DRAIN_LIMIT_S = 60.0
"""How long running steps may take to finish once a worker drains; then they are cancelled."""
CLOSE_LIMIT_S = 5.0
"""How long the server may take to confirm the last frames of a draining worker."""

_log = logging.getLogger("stepwell")


class ConnectionLost(Exception):
    """The connection ended; the next one is tried after a pause."""


class UnknownFrame(ConnectionLost):
    """The server speaks another version."""


class Worker:
    """Serves one service to one server until it is drained.

    Args:
        service: Its functions.
        url: The server: `http://`, `https://`, `ws://` or `wss://`. Of a server with several nodes the addresses of
            all of them, as a list or with commas between; any one is used, and another one when it goes away.
        api_key: Sent as `Authorization: Bearer`, if the server has keys.
        concurrency: Calls at a time; 0 leaves it to the server.
        instance: A name of this process that stays the same over its connections.
        send: Sends events for `step.send_event`; to the same server if not given.
    """

    def __init__(
        self,
        service: Service,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        api_key: str | None = None,
        event_key: str | None = None,
        concurrency: int = 0,
        instance: str | None = None,
        send: Callable[[list[bytes]], Awaitable[list[str]]] | None = None,
        drain_limit_s: float = DRAIN_LIMIT_S,
    ) -> None:
        self.service = service
        addresses = _addresses(url)
        self._urls = [socket_url(one) for one in addresses]
        self._place = random.randrange(len(self._urls))
        self.is_connected = asyncio.Event()
        self._api_key = api_key
        self._concurrency = concurrency
        self._instance = instance or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._own_sender = None if send is not None else EventSender([http_url(one) for one in addresses], event_key)
        self._send_events = send or self._own_sender
        self._drain_limit_s = drain_limit_s
        self._draining = asyncio.Event()
        self._was_welcome = False
        self._calls: set[asyncio.Task[None]] = set()  # over all connections: a dropped call may still clean up
        self._left: set[asyncio.Task[None]] = set()  # connections to servers that go away

    @property
    def url(self) -> str:
        """The address that is used now, or tried next."""
        return self._urls[self._place]

    def drain(self) -> None:
        """Begin to stop: `run()` returns when all calls are finished or given back."""
        self._draining.set()

    async def run(self) -> None:
        """Serve until drained, over as many connections as it takes.

        Raises:
            WorkerRefused: The server does not accept this worker, at its first connection.
        """
        failures = 0
        try:
            while not self._draining.is_set():
                try:
                    await self._serve_until_left()
                    failures = 0
                except ConnectionLost as err:
                    failures = 0 if self.is_connected.is_set() else failures + 1
                    self._place = (self._place + 1) % len(self._urls)
                    level = logging.WARNING if failures <= 1 else logging.DEBUG
                    _log.log(level, "%s: %s; trying again", self.service.id, err)
                finally:
                    self.is_connected.clear()
                if not self._draining.is_set():
                    await self._pause(failures // len(self._urls))
        finally:
            if self._left:
                await asyncio.wait(self._left, timeout=self._drain_limit_s + CLOSE_LIMIT_S)
                for task in self._left:
                    task.cancel()
            if self._calls:
                await asyncio.wait(self._calls, timeout=CLOSE_LIMIT_S)
            if self._own_sender is not None:
                await self._own_sender.close()

    async def _pause(self, failures: int) -> None:
        pause = random.uniform(0.5, 1.0) * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(failures, 10))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._draining.wait(), pause)

    async def _serve_until_left(self) -> None:
        """Serve over one connection until it ends, or the server goes away; then it ends by itself later on."""
        leaving = asyncio.Event()
        serving = asyncio.create_task(self._serve_once(leaving), name="stepwell worker: connection")
        left = asyncio.create_task(leaving.wait(), name="stepwell worker: leaving")
        try:
            await asyncio.wait({serving, left}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            serving.cancel()
            raise
        finally:
            left.cancel()
        if serving.done():
            serving.result()
            return
        self._place = (self._place + 1) % len(self._urls)
        self._left.add(serving)
        serving.add_done_callback(self._gone)

    def _gone(self, connection: asyncio.Task[None]) -> None:
        self._left.discard(connection)
        if not connection.cancelled() and (err := connection.exception()) is not None:
            _log.debug("%s: %s", self.service.id, err)

    async def _serve_once(self, leaving: asyncio.Event) -> None:
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException

        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        url = self.url
        try:
            connection = await connect(
                url,
                additional_headers=headers,
                max_size=wire.MAX_FRAME_BYTES,
                compression=None,
                open_timeout=OPEN_TIMEOUT_S,
                ping_interval=None,  # see `_Connection._watch`
                close_timeout=CLOSE_LIMIT_S,
                user_agent_header=SDK,
            )
        except InvalidStatus as err:
            status = err.response.status_code
            if status in (401, 403) and not self._was_welcome:
                raise WorkerRefused(f"{url} answered {status}; set STEPWELL_API_KEY to a key of that server") from err
            raise ConnectionLost(f"{url} answered {status}") from err
        except (OSError, TimeoutError, InvalidHandshake, WebSocketException) as err:
            raise ConnectionLost(f"no connection to {url} ({str(err) or type(err).__name__})") from err
        async with connection:
            try:
                await self._serve(connection, url, leaving)
            except UnknownFrame:
                await connection.close(PROTOCOL_ERROR)
                raise
            except WebSocketException as err:
                raise ConnectionLost(f"the connection to {url} was lost ({err})") from err

    async def _serve(self, socket: ClientConnection, url: str, leaving: asyncio.Event) -> None:
        hello = wire.Hello(
            version=wire.VERSION,
            worker=f"{self._instance}-{uuid.uuid4().hex[:6]}",
            service=self.service.id,
            sdk=SDK,
            functions=msgspec.json.encode(self.service.config()),
            concurrency=self._concurrency,
            app_version=self.service.app_version,
            instance=self._instance,
            packs=True,
        )
        await socket.send(wire.encode(hello))
        welcome = await self._welcome(socket, url)
        _log.info(
            "%s: connected to %s, %d functions, node %s",
            self.service.id, url, len(self.service.functions), welcome.node,
        )  # fmt: skip
        for warning in welcome.warnings:
            _log.warning("%s: %s", self.service.id, warning)
        self._was_welcome = True
        self.is_connected.set()
        await _Connection(self, socket, welcome, leaving).serve(self._draining)

    async def _welcome(self, socket: ClientConnection, url: str) -> wire.Welcome:
        try:
            (frame, *_) = read_frames(await asyncio.wait_for(socket.recv(), WELCOME_TIMEOUT_S))
        except TimeoutError as err:
            raise ConnectionLost(f"no welcome from {url}") from err
        match frame:
            case wire.Welcome():
                return frame
            case wire.Refused(code=code, message=message) if not self._was_welcome:
                raise WorkerRefused(f"{self.service.id}: {message} ({code})")
            case wire.Refused(code=code, message=message):
                _log.error("%s: %s (%s)", self.service.id, message, code)
                raise ConnectionLost(f"refused by {url}")
            case wire.Closing(reason=reason):
                raise ConnectionLost(f"{url} goes away ({reason})")
            case _:
                raise ConnectionLost(f"{url} began with {type(frame).__name__}, not with Welcome")


class _Connection:
    """One connection and the calls that run over it."""

    def __init__(self, worker: Worker, socket: ClientConnection, welcome: wire.Welcome, leaving: asyncio.Event) -> None:
        self._leaving = leaving
        self._worker = worker
        self._socket = socket
        self._welcome = welcome
        self._executions: dict[JobId, LiveExecution] = {}
        self._unconfirmed: set[JobId] = set()
        self._outbox: asyncio.Queue[wire.FromWorker] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._closing = False

    async def serve(self, draining: asyncio.Event) -> None:
        """Until the connection is lost, or drained and closed."""
        reader = asyncio.create_task(self._read(), name="stepwell worker: read")
        writer = asyncio.create_task(self._write(), name="stepwell worker: write")
        watch = asyncio.create_task(self._watch(), name="stepwell worker: watch")
        line = {reader, writer, watch}
        drain = asyncio.create_task(draining.wait(), name="stepwell worker: drain")
        try:
            await asyncio.wait({*line, drain}, return_when=asyncio.FIRST_COMPLETED)
            if drain.done() and not any(task.done() for task in line):
                self.send(wire.Draining())
                await self._drain(line)
            for task in line:
                if task.done() and not task.cancelled():
                    task.result()
        finally:
            for execution in list(self._executions.values()):
                execution.stop("connection lost")
            for helper in (*line, drain):
                helper.cancel()
            await asyncio.gather(*line, drain, return_exceptions=True)

    def send(self, frame: wire.FromWorker) -> None:
        """Queue a frame."""
        self._outbox.put_nowait(frame)

    async def _write(self) -> None:
        while True:
            message = [wire.encode(await self._outbox.get())]
            size_bytes = len(message[0])
            while self._welcome.packs and not self._outbox.empty():
                frame = wire.encode(self._outbox.get_nowait())
                size_bytes += len(frame)
                if size_bytes > wire.PACK_BYTES or len(message) == wire.MAX_PACKED:
                    await self._socket.send(wire.packed(message))
                    message, size_bytes = [], len(frame)
                message.append(frame)
            await self._socket.send(wire.packed(message))
            if self._outbox.empty():
                self._changed.set()

    async def _watch(self) -> None:
        """Notice a server that hangs. Seconds in which this process itself stood still do not count: a step that
        blocks the event loop is no reason to give up its connection."""
        while True:
            await asyncio.sleep(PING_INTERVAL_S)
            answer = asyncio.ensure_future(await self._socket.ping())
            patience = PING_PATIENCE_S
            while not answer.done():
                if patience == 0:
                    self._socket.transport.abort()
                    raise ConnectionLost(f"the server has not answered for {PING_PATIENCE_S} s")
                begun = time.monotonic()
                await asyncio.wait({answer}, timeout=1.0)
                if time.monotonic() - begun < 1.5:
                    patience -= 1

    async def _read(self) -> None:
        async for message in self._socket:
            for frame in read_frames(message):
                self._take(frame)
            if self._closing and not self._executions and not self._unconfirmed:
                break
        raise ConnectionLost("the server closed the connection")

    def _take(self, frame: wire.FromServer) -> None:
        match frame:
            case wire.Call():
                self._call(frame)
            case wire.Ack(call=call, number=number, news=news):
                if execution := self._executions.get(call):
                    execution.acknowledge(number, news)
            case wire.Resolve(call=call, memo=memo, news=news):
                if execution := self._executions.get(call):
                    execution.resolve(memo, news)
            case wire.Retry(call=call, step=step, attempt=attempt, news=news):
                if execution := self._executions.get(call):
                    execution.retry(step, attempt, news)
            case wire.Ended(call=call):
                self._unconfirmed.discard(call)
                self._changed.set()
            case wire.Stop(call=call, reason=reason):
                self._stop(call, reason)
            case wire.Closing(reason=reason):
                _log.info("%s: the server goes away (%s)", self._worker.service.id, reason)
                self._closing = True
                self._leaving.set()
                for execution in list(self._executions.values()):
                    execution.drain()
            case wire.Welcome() | wire.Refused():
                raise ConnectionLost(f"an unexpected {type(frame).__name__} frame")
            case _:
                assert_never(frame)

    def _call(self, call: wire.Call) -> None:
        self._stop(call.call, "called again")
        function = self._worker.service.find(call.function)
        if function is None:
            self._decline(call, "unknown function")
        elif self._closing or self._worker._draining.is_set():
            self._decline(call, "draining")
        elif self._is_full():
            self._decline(call, "capacity")
        else:
            reports = _Reports(self, call.call)
            execution = LiveExecution(
                function,
                call,
                reports,
                idle_ms=self._welcome.idle_ms,
                send=self._worker._send_events,
                observer=_Trace(self, call.call),
                crowded=self._is_full if call.lingers else lambda: True,
            )
            self._executions[call.call] = execution
            if self._is_full():
                for other in self._executions.values():
                    other.give_way()
            task = asyncio.create_task(self._perform(call.call, execution), name=f"stepwell call {call.call}")
            self._worker._calls.add(task)
            task.add_done_callback(self._worker._calls.discard)

    def _is_full(self) -> bool:
        """Whether every place is taken. Whoever only waits then gives up his: a server may have calls in line."""
        return 0 < self._welcome.concurrency <= len(self._executions)

    def _stop(self, call: JobId, reason: str) -> None:
        """Forget a call at once: the server may make it again, under the same name, before this one has cleaned up."""
        execution = self._executions.pop(call, None)
        if execution is not None:
            execution.stop(reason)

    def _decline(self, call: wire.Call, reason: str) -> None:
        self._unconfirmed.add(call.call)
        self.send(wire.Declined(call=call.call, reason=reason))

    async def _perform(self, call: JobId, execution: LiveExecution) -> None:
        try:
            ended = await execution.run()
        except asyncio.CancelledError:
            raise
        except Exception as err:
            # A defect of ours must not hang the run: the server makes another attempt.
            _log.exception("call %s of %s broke", call, execution.function.slug)
            ended = outcomes.raised(err)
        finally:
            if self._executions.get(call) is execution:
                del self._executions[call]
            self._changed.set()
        frame = frame_of(call, ended)
        if frame is not None:
            self._unconfirmed.add(call)
            self.send(frame)

    async def _drain(self, connection: set[asyncio.Task[None]]) -> None:
        for execution in list(self._executions.values()):
            execution.drain()
        await self._until(lambda: not self._executions, self._worker._drain_limit_s, connection)
        for call, execution in list(self._executions.items()):
            _log.warning("%s: a step did not finish in time and is cancelled", execution.function.slug)
            self._stop(call, "draining")
            self._unconfirmed.add(call)
            self.send(wire.Declined(call=call, reason="draining"))
        await self._until(lambda: not self._unconfirmed and self._outbox.empty(), CLOSE_LIMIT_S, connection)

    async def _until(self, holds: Callable[[], bool], limit_s: float, connection: set[asyncio.Task[None]]) -> None:
        deadline = asyncio.get_running_loop().time() + limit_s
        while not holds() and not any(task.done() for task in connection):
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return
            self._changed.clear()
            changed = asyncio.create_task(self._changed.wait())
            await asyncio.wait({changed, *connection}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()


class _Reports:
    """Sends the reports of one call, numbered from 1."""

    def __init__(self, connection: _Connection, call: JobId) -> None:
        self._connection = connection
        self._call = call
        self._number = 0

    def __call__(self, ops: tuple[Any, ...]) -> None:
        self._number += 1
        self._connection.send(wire.Report(call=self._call, number=self._number, ops=ops))


class _Trace(Observer):
    """Sends what is only for the eye."""

    def __init__(self, connection: _Connection, call: JobId) -> None:
        self._connection = connection
        self._call = call
        self._loop = asyncio.get_running_loop()

    def running(self, step: StepId, name: str) -> None:
        self._connection.send(wire.Running(call=self._call, step=step, name=name))

    def log(self, level: str, text: str, step: StepId | None) -> None:
        at = time.time_ns() // 1_000_000
        frame = wire.Log(call=self._call, level=level, text=text, at=at, step=step)
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._connection.send, frame)


def frame_of(call: JobId, ended: outcomes.Outcome) -> wire.FromWorker | None:
    """The frame that tells the server how a call ended; None if it does not want to know."""
    match ended:
        case outcomes.Returned(output=output):
            return wire.Returned(call=call, output=output)
        case outcomes.Raised(error=error, retry=retry, retry_at=retry_at):
            return wire.Raised(call=call, error=error, retry=retry, retry_at=retry_at)
        case outcomes.Suspended(news=news):
            return wire.Suspended(call=call, news=news)
        case outcomes.Declined(reason=reason):
            return wire.Declined(call=call, reason=reason)
        case outcomes.Stopped():
            return None
        case outcomes.Replied():
            raise AssertionError("a live execution does not reply with ops")
        case _:
            assert_never(ended)


def read_frames(message: str | bytes) -> list[wire.FromServer]:
    """Decode a message. Raises `ConnectionLost` for a frame that we do not know: the versions do not fit."""
    if isinstance(message, str):
        raise UnknownFrame("a text frame; this is not a worker endpoint of Stepwell")
    try:
        return [wire.decode_from_server(frame) for frame in wire.unpacked(message)]
    except ValueError as err:
        raise UnknownFrame(f"a frame that this version does not know ({err}); update the worker") from err


def _addresses(url: str | Sequence[str]) -> list[str]:
    texts = [url] if isinstance(url, str) else url
    found = [one.strip() for text in texts for one in text.split(",") if one.strip()]
    if not found:
        raise ValueError("no address of a server is given; write http://host:8288")
    return found


def socket_url(url: str) -> str:
    """The worker endpoint of a server, given any of its addresses."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "http", url
    schemes = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
    if scheme not in schemes:
        raise ValueError(f"{url!r} is not the address of a server; write http://host:8288")
    rest = rest.rstrip("/").removesuffix(wire.PATH)
    return f"{schemes[scheme]}://{rest}{wire.PATH}"


def http_url(url: str) -> str:
    """The HTTP address of the same server."""
    scheme, _, rest = socket_url(url).partition("://")
    return f"{'https' if scheme == 'wss' else 'http'}://{rest.removesuffix(wire.PATH)}"


async def serve(
    services: Sequence[Service], url: str | Sequence[str] = DEFAULT_URL, *, stop: asyncio.Event, **options: Any
) -> None:
    """Serve several services, each over a connection of its own, until `stop` is set. Options as for `Worker`."""
    workers = [Worker(service, url, **options) for service in services]

    async def drain_all() -> None:
        await stop.wait()
        for worker in workers:
            worker.drain()

    drain = asyncio.create_task(drain_all())
    try:
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker.run())
    finally:
        drain.cancel()


def run_worker(services: Sequence[Service], url: str | Sequence[str] | None = None, **options: Any) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends at once. For programs; inside a loop use `serve`.

    Args:
        services: What to serve.
        url: The server, or the addresses of its nodes; `STEPWELL_URL`, or `http://localhost:8288`.
        options: As for `Worker`; `api_key` is `STEPWELL_API_KEY` if not given.

    Raises:
        WorkerRefused: The server does not accept a service.
    """
    options.setdefault("api_key", os.environ.get("STEPWELL_API_KEY"))
    options.setdefault("event_key", os.environ.get("STEPWELL_EVENT_KEY"))
    try:
        asyncio.run(_serve_until_signal(services, url or os.environ.get("STEPWELL_URL") or DEFAULT_URL, options))
    except* WorkerRefused as group:
        raise group.exceptions[0] from None


async def _serve_until_signal(services: Sequence[Service], url: str | Sequence[str], options: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def asked(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        _log.info("draining; a second signal ends at once")
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, asked, number)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda number, _: loop.call_soon_threadsafe(asked, number))
    await serve(services, url, stop=stop, **options)
