"""One worker's socket, without the socket: frames in order, in both directions, within limits.

    endpoint ──receive()──▶ decoded, checked ──▶ Owner.take ──▶ messages
    endpoint ◀──run(): send, close── what was posted, in order

What a worker sends is decoded and checked here, beside the event loop when it is large. One that sends faster
than its limits is read no faster than they allow; one that does not read is closed; so is one that breaks the
protocol, with a reason. What is wrong with one call costs that call's run and no other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from stepwell.model.dispatch import Dispatch
from stepwell.model.function import Service
from stepwell.model.ids import Instant, JobId
from stepwell.model.message import CallInfo
from stepwell.wire import worker as frames
from stepwell.workers.base import Clock
from stepwell.workers.checks import BadCall, Unacceptable, checked_frame, read_frame

PROTOCOL_ERROR = 1002
POLICY = 1008
TOO_BIG = 1009
GOING_AWAY = 1001
REPLACED = 4000
"""Close codes; the first four are the websocket's own."""

_STRAY_WINDOW_S = 60.0
_THREAD_BYTES = 256 * 1024  # above it a frame is checked beside the event loop

log = logging.getLogger(__name__)

Send: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Writes one frame to the socket; returns when there is room for more."""
Close: TypeAlias = Callable[[int, str], Awaitable[None]]
"""Closes the socket with a code and a reason of at most 123 bytes."""
_Posted: TypeAlias = tuple[bytes, Callable[[], None] | None]
"""A frame, and whom to tell when it is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one connection may do.

    `burst_s` seconds' worth of frames or bytes may come at once. `strays` are frames in a minute about calls that are
    not the worker's; `unwritten_bytes` is what may wait to be read by it.
    """

    hello_s: float = 10.0
    frames_per_second: float = 5_000.0
    bytes_per_second: float = 64.0 * 1024 * 1024
    burst_s: float = 2.0
    frame_bytes: int = frames.MAX_FRAME_BYTES
    unwritten_bytes: int = 2 * frames.MAX_FRAME_BYTES
    strays: int = 1_000


class Owner(Protocol):
    """Who keeps the connections: `socket.SocketPerformer`."""

    async def greet(self, connection: Connection, hello: frames.Hello) -> None: ...

    def take(self, connection: Connection, frame: frames.FromWorker) -> None: ...

    def spoiled(self, connection: Connection, call: JobId, why: BadCall) -> None: ...

    def forget(self, connection: Connection) -> None: ...


@dataclass(slots=True, eq=False)
class LiveCall:
    """A call that a worker has."""

    dispatch: Dispatch
    connection: Connection
    started_at: Instant
    begun: float
    told: bool = False  # the call itself is on its way to the worker
    answered: bool = False  # its last message is delivered; the node has not committed it yet
    reports: int = 0
    acknowledged: tuple[int, int] = (0, 0)  # number and news of the latest acknowledgement

    def info(self) -> CallInfo:
        return CallInfo(self.started_at, (time.monotonic() - self.begun) * 1000, self.connection.worker)

    def answer(self) -> None:
        """The worker no longer runs it."""
        if not self.answered:
            self.answered = True
            self.connection.running -= 1


class Connection:
    """One worker's socket. Made by `SocketPerformer.connect`.

    The endpoint runs `run()` beside its reading loop, awaits `receive()` for every binary frame, and calls
    `lost()` when the socket is gone, whoever closed it.
    """

    def __init__(
        self,
        owner: Owner,
        send: Send,
        close: Close,
        *,
        env: str,
        may_serve: Callable[[str], bool],
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._owner = owner
        self._send = send
        self._close = close
        self._limits = limits
        self._clock = clock
        self._closing: tuple[int, str] | None = None
        self._gone = False
        self._out: deque[_Posted] = deque()
        self._out_bytes = 0
        self._packs = False  # whether several frames may go in one message: once Welcome is sent, if the worker says so
        self._wake = asyncio.Event()
        self._frames = _Rate(limits.frames_per_second, limits.burst_s)
        self._bytes = _Rate(limits.bytes_per_second, limits.burst_s)
        self._strays = _Rate(limits.strays / _STRAY_WINDOW_S, _STRAY_WINDOW_S)
        self.env = env
        self.may_serve = may_serve
        # Known from Hello on:
        self.worker = ""
        self.instance = ""
        self.takes_packs = False
        self.service: Service | None = None
        self.functions: frozenset[str] = frozenset()
        self.concurrency = 0
        # Its work:
        self.calls: dict[JobId, LiveCall] = {}
        self.running = 0
        self.draining = False
        self.missing: set[str] = set()  # functions that it registered and then said it does not have
        self.paused_until = 0.0

    @property
    def open(self) -> bool:
        """Whether the worker has introduced itself and is neither gone nor being closed."""
        return self.service is not None and self._closing is None and not self._gone

    @property
    def gone(self) -> bool:
        """Whether the socket is closed."""
        return self._gone

    def has_room(self, slug: str) -> bool:
        """Whether a call of this function could go here now."""
        return (
            self.running < self.concurrency
            and self.open
            and not self.draining
            and slug in self.functions
            and slug not in self.missing
            and time.monotonic() >= self.paused_until
        )

    def introduce(self, service: Service, hello: frames.Hello, concurrency: int) -> None:
        """The worker is welcome."""
        self.worker, self.instance, self.concurrency = hello.worker, hello.instance, concurrency
        self.takes_packs = hello.packs
        self.functions = frozenset(function.slug for function in service.functions)
        self.service = service
        self._wake.set()

    async def run(self) -> None:
        """Write what is posted until the connection is closed or lost; closes the socket if it is for us to do.

        A worker that says no Hello in time is closed.
        """
        hello_by = time.monotonic() + self._limits.hello_s
        while True:
            if self._out:
                await self._write(self._next_message())
            elif self._closing is not None:
                await self._close(*self._closing)
                return
            elif self._gone:
                return
            else:
                self._wake.clear()
                wait_s = None if self.service is not None else max(0.0, hello_by - time.monotonic())
                try:
                    async with asyncio.timeout(wait_s):
                        await self._wake.wait()
                except TimeoutError:
                    self.close(POLICY, f"no Hello within {self._limits.hello_s:g} s")

    def _next_message(self) -> list[_Posted]:
        """The frames that go out next, together: those of one turn of the event loop often are many small ones."""
        first = self._out.popleft()
        message, size_bytes = [first], len(first[0])
        while self._packs and self._out and len(message) < frames.MAX_PACKED:
            size_bytes += len(self._out[0][0])
            if size_bytes > frames.PACK_BYTES:
                break
            message.append(self._out.popleft())
        return message

    async def _write(self, message: list[_Posted]) -> None:
        try:
            await self._send(frames.packed([data for data, _ in message]))
        finally:
            self._packs = self.takes_packs
            for data, written in message:
                self._out_bytes -= len(data)
                if written is not None:
                    written()

    async def receive(self, data: bytes) -> None:
        """Take one message. Returns when the next may come: later, for a worker that sends too fast."""
        if self._deaf():
            return
        if len(data) > self._limits.frame_bytes:
            self.close(TOO_BIG, f"a frame has {len(data)} bytes and may have {self._limits.frame_bytes}")
            return
        count = 1
        try:
            said = frames.unpacked(data)
            count = len(said)
            for one in said:
                if self._deaf():
                    return
                await self._take(one)
        except Unacceptable as err:
            self.close(PROTOCOL_ERROR, str(err))
        except ValueError as err:
            self.close(PROTOCOL_ERROR, f"a message cannot be read: {err}")
        now = time.monotonic()
        pause_s = max(self._frames.pause_s(count, now), self._bytes.pause_s(len(data), now))
        if pause_s > 0:
            await asyncio.sleep(pause_s)

    def _deaf(self) -> bool:
        """Whether nothing that the worker says counts any more."""
        return self._gone or self._closing is not None

    async def _take(self, data: bytes) -> None:
        call: JobId | None = None
        try:
            frame = read_frame(data)
            if frame is None:
                return
            if isinstance(frame, frames.Hello):
                if self.service is not None:
                    raise Unacceptable("Hello comes once")
                await self._owner.greet(self, frame)
                return
            if self.service is None:
                raise Unacceptable("the first frame must be Hello")
            if not isinstance(frame, frames.Draining):
                call = frame.call
            if len(data) > _THREAD_BYTES:
                frame = await asyncio.to_thread(checked_frame, frame, self._clock())
            else:
                frame = checked_frame(frame, self._clock())
            self._owner.take(self, frame)
        except BadCall as err:
            about = err.call or call
            if about is None or self.service is None:
                raise Unacceptable(str(err)) from err
            self._owner.spoiled(self, about, err)

    def lost(self) -> None:
        """The socket is gone. Every call of it is lost; harmless when said twice."""
        if self._gone:
            return
        self._gone = True
        self._discard()
        self._wake.set()
        self._owner.forget(self)

    def close(self, code: int, reason: str) -> None:
        """Close the socket once what was posted is sent."""
        if self._closing is None and not self._gone:
            log.info("closing the connection of worker %s: %s", self.worker or "(unknown)", reason)
            self._closing = (code, reason.encode("utf-8", "replace")[:123].decode("utf-8", "ignore"))
            self._wake.set()

    def post(self, frame: frames.FromServer, written: Callable[[], None] | None = None) -> None:
        """Send a frame soon. `written` is called when it is written, or never will be."""
        if self._gone or self._closing is not None:
            if written is not None:
                written()
            return
        data = frames.encode(frame)
        self._out.append((data, written))
        self._out_bytes += len(data)
        self._wake.set()
        if self._out_bytes > self._limits.unwritten_bytes:
            self._discard()
            self.close(POLICY, f"more than {self._limits.unwritten_bytes} bytes wait to be read by the worker")

    def stray(self, call: JobId) -> None:
        """The worker spoke of a call that is not its own, or not any more."""
        self.post(frames.Stop(call=call, reason="stale"))
        if self._strays.pause_s(1, time.monotonic()) > 0:
            most = self._limits.strays
            self.close(POLICY, f"more than {most} frames in a minute about calls that are not this worker's")

    def _discard(self) -> None:
        """Nothing more is sent."""
        while self._out:
            data, written = self._out.popleft()
            self._out_bytes -= len(data)
            if written is not None:
                written()


class _Rate:
    """A bucket that fills with what comes and drains with time; how long to wait until it does not overflow."""

    def __init__(self, per_second: float, burst_s: float) -> None:
        self._per_second = per_second
        self._capacity = per_second * burst_s
        self._level = 0.0
        self._at = 0.0

    def pause_s(self, amount: float, now: float) -> float:
        self._level = max(0.0, self._level - (now - self._at) * self._per_second) + amount
        self._at = now
        return max(0.0, (self._level - self._capacity) / self._per_second)
