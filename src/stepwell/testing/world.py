"""A world whose time passes only when nothing is left to do: for tests and for the simulator.

The node awaits nothing but its store and its `World`. This one drives the node's coroutines itself, without
asyncio: a coroutine that has to wait yields a function, the scheduler calls it with the task, and whoever
finishes the wait resumes the task. So a year of sleeping costs microseconds, the same seed gives the same
order of everything, and a node can be paused, or crash between any two steps, like a real process:

    Scheduler        one for all: the true time, and what happens when
    VirtualWorld     one per life of a node: its own (wrong) clock, its tasks; can be paused and can die

A world that is dead never runs again; its node is restarted in a new one.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from heapq import heappop, heappush
from typing import Any, TypeAlias, TypeVar

from stepwell.model.ids import Instant

T = TypeVar("T")

START: Instant = 1_800_000_000_000
"""When every virtual world begins: in January 2027."""

Register: TypeAlias = "Callable[[Task, Any], None]"
"""Called with a task that has begun to wait; has to see to it that the task is resumed."""


class Crashed(BaseException):
    """The process is gone, here. Passes through the node's code like nothing that code could catch."""

    def __init__(self, point: str, detail: object = None) -> None:
        self.point = point
        self.detail = detail
        super().__init__(point)


class Scheduler:
    """The true time, and what happens when."""

    __slots__ = ("_heap", "_number", "_ready", "now")

    def __init__(self, now: Instant = START) -> None:
        self.now = now
        self._heap: list[tuple[Instant, int, Callable[[Any], None], Any]] = []
        self._ready: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._number = 0

    def soon(self, what: Callable[[Any], None], argument: Any = None) -> None:
        """Do that next, after what is already to be done now."""
        self._ready.append((what, argument))

    def at(self, when: Instant, what: Callable[[Any], None], argument: Any = None) -> None:
        """Do that then; in the order of asking among things of the same millisecond."""
        self._number += 1
        heappush(self._heap, (when, self._number, what, argument))

    def after(self, milliseconds: int, what: Callable[[Any], None], argument: Any = None) -> None:
        self._number += 1
        heappush(self._heap, (self.now + milliseconds, self._number, what, argument))

    def clear(self) -> None:
        """Forget all that was to happen."""
        self._heap.clear()
        self._ready.clear()

    def run_until(self, until: Instant, *, over: Callable[[], bool] | None = None) -> bool:
        """Let time pass up to `until`. Stops before when nothing is left, or as soon as `over` says so, which is
        asked each time before the clock moves. Returns whether `over` said so."""
        ready, heap, next_ready, pop = self._ready, self._heap, self._ready.popleft, heappop
        while True:
            while ready:
                what, argument = next_ready()
                what(argument)
            if not heap or heap[0][0] > self.now:
                if over is not None and over():
                    return True
                if not heap or heap[0][0] > until:
                    break
                self.now = heap[0][0]
            _, _, what, argument = pop(heap)
            what(argument)
        if until > self.now and not heap:
            self.now = until
        return False


@types.coroutine
def wait_for(register: Register, argument: Any = None) -> Generator[tuple[Register, Any], Any, Any]:
    """Wait, in a coroutine that a `VirtualWorld` runs, until whom `register` told about it resumes the task."""
    return (yield register, argument)


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as over:
        result: T = over.value
        return result
    raise AssertionError("it waits for something")


class Task:
    """A coroutine in a world."""

    __slots__ = ("_coroutine", "_send", "_world", "last")

    def __init__(self, world: VirtualWorld, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._world = world
        self._coroutine = coroutine
        self._send = coroutine.send
        self.last: Any = None
        """For whoever explores crashes: what this task committed last."""

    def resume(self, value: Any = None) -> None:
        """Go on with the result of what was waited for."""
        world = self._world
        if world.held:
            world.hold(self.resume, value)
            return
        world.task = self
        try:
            register, argument = self._send(value)
        except StopIteration:
            world._tasks.pop(self, None)
        except Crashed as crash:
            world.crash(crash)
        except Exception as error:
            world.over(self)
            world.on_error(error)
        else:
            register(self, argument)

    def fail(self, error: BaseException) -> None:
        """Go on with an error instead of a result."""
        world = self._world
        if world.held:
            world.hold(self.fail, error)
            return
        world.task = self
        try:
            register, argument = self._coroutine.throw(error)
        except StopIteration:
            world.over(self)
        except Crashed as crash:
            world.crash(crash)
        except Exception as escaped:
            world.over(self)
            world.on_error(escaped)
        else:
            register(self, argument)

    def close(self) -> None:
        self._coroutine.close()


class _Alarm:
    __slots__ = ("callback", "cancelled")

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class _Gate:
    __slots__ = ("_open", "_waiting")

    def __init__(self) -> None:
        self._open = False
        self._waiting: list[Task] = []

    def open(self) -> None:
        if not self._open:
            self._open = True
            for task in self._waiting:
                task._world.scheduler.soon(task.resume)
            self._waiting.clear()

    async def passed(self) -> None:
        if not self._open:
            await wait_for(self._wait)

    def _wait(self, task: Task, _: object) -> None:
        self._waiting.append(task)


class VirtualWorld:
    """One life of one process. Implements `stepwell.node.clock.World`.

    Args:
        scheduler: Of the whole simulated universe.
        skew_ms: How far the clock of this machine is ahead. May be changed at any time: the clock jumps, while
            alarms and sleeps, being monotonic, do not.
    """

    def __init__(self, scheduler: Scheduler, *, skew_ms: int = 0) -> None:
        self.scheduler = scheduler
        self.skew_ms = skew_ms
        self.alive = True
        self.paused = False
        self.held = False
        """Paused or dead: nothing of it runs."""
        self.task: Task | None = None
        """The task that runs now, or ran last."""
        self.errors: list[Exception] = []
        """What escaped from tasks: each one is a bug."""
        self.before_step: Callable[[str], None] | None = None
        """Asked before each thing that the process does to the world around it; may raise `Crashed`."""
        self.on_crash: Callable[[Crashed], None] | None = None
        self._tasks: dict[Task, None] = {}
        self._backlog: list[tuple[Callable[[Any], None], Any]] = []

    # what a node asks for

    def now(self) -> Instant:
        return self.scheduler.now + self.skew_ms

    def monotonic(self) -> int:
        return self.scheduler.now

    def spawn(self, task: Coroutine[Any, Any, None]) -> None:
        if self.before_step is not None:
            try:
                self.before_step("spawn")
            except Crashed:
                task.close()
                raise
        running = Task(self, task)
        self._tasks[running] = None
        self.scheduler.soon(running.resume)

    def call_at(self, at: Instant, callback: Callable[[], None]) -> _Alarm:
        alarm = _Alarm(callback)
        self.scheduler.at(max(at - self.skew_ms, self.scheduler.now), self._ring, alarm)
        return alarm

    def gate(self) -> _Gate:
        return _Gate()

    async def sleep(self, milliseconds: int) -> None:
        await wait_for(self._sleep, milliseconds)

    # what happens to a process

    def pause(self) -> None:
        """Stop running, as by SIGSTOP. Time goes on."""
        self.paused = self.held = True

    def unpause(self) -> None:
        """Go on; what should have happened meanwhile happens now."""
        if self.alive and self.paused:
            self.paused = self.held = False
            backlog, self._backlog = self._backlog, []
            for what, argument in backlog:
                self.scheduler.soon(what, argument)

    def crash(self, crash: Crashed) -> None:
        """End this life at once."""
        if not self.alive:
            return
        self.end()
        if self.on_crash is not None:
            self.on_crash(crash)

    def end(self) -> None:
        """Run nothing any more."""
        self.alive, self.held = False, True
        self._backlog.clear()
        tasks, self._tasks = self._tasks, {}
        # Closed here and not when the garbage collector comes by, so that every run of a seed is the same.
        for task in tasks:
            task.close()

    def hold(self, what: Callable[[Any], None], argument: Any) -> None:
        """Keep for later what comes while this process does not run."""
        if self.alive:
            self._backlog.append((what, argument))

    def do(self, what: Callable[[Any], None], argument: Any) -> None:
        """Let something happen inside this process that no task does: a message arrives."""
        if self.held:
            self.hold(_Later(self, what), argument)
            return
        self.task = None
        try:
            what(argument)
        except Crashed as crash:
            self.crash(crash)

    def over(self, task: Task) -> None:
        self._tasks.pop(task, None)

    def on_error(self, error: Exception) -> None:
        self.errors.append(error)

    def _sleep(self, task: Task, milliseconds: int) -> None:
        self.scheduler.after(milliseconds, task.resume)

    def _ring(self, alarm: _Alarm) -> None:
        if not alarm.cancelled:
            self.do(_ring, alarm)


class _Later:
    """`do`, to be asked again once the process runs."""

    __slots__ = ("_what", "_world")

    def __init__(self, world: VirtualWorld, what: Callable[[Any], None]) -> None:
        self._world = world
        self._what = what

    def __call__(self, argument: Any) -> None:
        self._world.do(self._what, argument)


def _ring(alarm: _Alarm) -> None:
    if not alarm.cancelled:
        alarm.callback()
