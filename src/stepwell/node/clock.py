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
    from stepwell.store.base import Store

_DRIFT_MS = 1

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

    def monotonic(self) -> int:
        """Milliseconds since some moment, whatever happens to the wall clock."""

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

    def monotonic(self) -> int:
        return time.monotonic_ns() // 1_000_000

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


class StoreTime:
    """A world whose time is that of the store, which all nodes share.

    Clocks of machines disagree and jump. So a node asks the store for the time when it starts and with each beat,
    and reckons on from there with a clock that does not jump; its own wall clock is never looked at.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.monotonic, self.spawn, self.sleep, self.gate = world.monotonic, world.spawn, world.sleep, world.gate
        self._ahead = world.now() - world.monotonic()
        self._bounds: tuple[int, int] | None = None  # between which it is ahead of the clock that does not jump

    @property
    def uncertain_ms(self) -> int:
        """By how much the store's time may differ from ours; the longest of its answers say little."""
        return 0 if self._bounds is None else self._bounds[1] - self._bounds[0]

    async def learn(self, store: Store) -> None:
        """Ask the store for the time. It was that at some moment between question and answer, so each answer
        narrows down what we know; one that contradicts it means that the store's clock was set."""
        asked = self._world.monotonic()
        theirs = await store.now()
        answered = self._world.monotonic()
        low, high = theirs - answered, theirs - asked + 1
        if self._bounds is not None:
            # Clocks drift apart, a little from one time to the next.
            known_low, known_high = self._bounds[0] - _DRIFT_MS, self._bounds[1] + _DRIFT_MS
            if max(low, known_low) <= min(high, known_high):
                low, high = max(low, known_low), min(high, known_high)
        self._bounds = (low, high)
        if not low <= self._ahead <= high:
            self._ahead = (low + high) // 2

    def now(self) -> Instant:
        return self.monotonic() + self._ahead

    def call_at(self, at: Instant, callback: Callable[[], None]) -> Alarm:
        return self._world.call_at(self._world.now() + at - self.now(), callback)


class _AsyncioGate:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._passed: asyncio.Future[None] = loop.create_future()

    def open(self) -> None:
        if not self._passed.done():
            self._passed.set_result(None)

    async def passed(self) -> None:
        await self._passed
