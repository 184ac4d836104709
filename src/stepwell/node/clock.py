"""What a node needs of the world around it: the time, tasks, alarms.

Everything else in this folder awaits only the store and these, so the simulator can run the very same
code on a clock of its own, with crashes wherever it likes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from stepwell.model.ids import Instant

log = logging.getLogger("stepwell.node")


class Alarm(Protocol):
    """Something that was asked for and can be called off."""

    def cancel(self) -> None: ...


class Gate(Protocol):
    """Closed until somebody opens it."""

    def open(self) -> None: ...

    async def passed(self) -> None: ...


class World(Protocol):
    """Time and tasks."""

    def now(self) -> Instant:
        """Milliseconds since 1970."""

    def spawn(self, task: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine; an error that escapes it is a bug and is logged."""

    def call_at(self, at: Instant, callback: Callable[[], None]) -> Alarm: ...

    def gate(self) -> Gate: ...

    async def sleep(self, milliseconds: int) -> None: ...


class AsyncioWorld:
    """The world of a real process: the running event loop and the wall clock."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def now(self) -> Instant:
        return time.time_ns() // 1_000_000

    def spawn(self, task: Coroutine[Any, Any, None]) -> None:
        running = self._loop.create_task(task)
        self._tasks.add(running)
        running.add_done_callback(self._finished)

    def call_at(self, at: Instant, callback: Callable[[], None]) -> Alarm:
        # The wall clock may jump, so nobody sleeps longer than a minute at a stretch before looking again.
        delay = min(max(0.0, (at - self.now()) / 1000), 60.0)
        return self._loop.call_later(delay, callback)

    async def sleep(self, milliseconds: int) -> None:
        await asyncio.sleep(milliseconds / 1000)

    def gate(self) -> Gate:
        return _AsyncioGate(self._loop)

    async def settle(self, timeout_s: float) -> None:
        """Wait for the tasks under way, then cancel what is left."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the node failed", exc_info=error)


class _AsyncioGate:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._passed: asyncio.Future[None] = loop.create_future()

    def open(self) -> None:
        if not self._passed.done():
            self._passed.set_result(None)

    async def passed(self) -> None:
        await self._passed
