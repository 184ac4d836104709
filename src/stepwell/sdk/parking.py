"""When has a function nothing left to do but wait for its steps?

A step without a result *parks*: it awaits a future that may complete later in this process, or never. The
rest of the function goes on, with the language's own `gather`, `TaskGroup`, queues and groups. A `Roster`
knows every task of one run (a task factory adds those created in the run's context) and asks of each what
it waits for:

    runnable   nothing, or something that is done     look again next turn; after 0.5 s call it quiet anyway
    parked     a `Parked` future                      quiet
    inside     another task of the run, or one of     quiet: whatever ends it is a task of this run
               asyncio's and anyio's primitives
    outside    a clock, a socket, a thread, unknown   quiet after 50 ms without a newly parked step

Calling it quiet too early costs only parallelism, because code outside steps is repeated at every replay
anyway; waiting for ever would be a deadlock. So every doubt counts as *outside*, and nothing is waited for
longer than its grace. The private names of asyncio that this reads are tried once per process; where they
have moved, every task counts as *outside*: slower, never wrong.

Elsewhere: what is done at a quiet point (`execution.py`), what a user is told (`notice.py`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from enum import Enum
from types import CodeType, FrameType
from typing import Any, TypeAlias, cast
from weakref import WeakKeyDictionary

GRACE_S = 0.050
"""How long something outside a step may take before a quiet point is declared without it."""
BUSY_LIMIT_S = 0.500
"""How long a function may stay runnable beside its parked steps, as with a loop around `sleep(0)`."""

_log = logging.getLogger("stepwell")

AnyTask: TypeAlias = "asyncio.Task[Any]"
Site: TypeAlias = tuple[str, int]
"""A file and a line."""


class Parked(asyncio.Future[Any]):
    """What an unfinished step awaits. Tells its owner at once when somebody else cancels it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, abandoned: Callable[[], None]) -> None:
        super().__init__(loop=loop)
        self._abandoned = abandoned

    def cancel(self, msg: Any | None = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled:
            self._abandoned()
        return cancelled


class Waits(Enum):
    """What a task waits for."""

    RUNNABLE = 1
    PARKED = 2
    INSIDE = 3
    OUTSIDE = 4


class Roster:
    """The tasks of one run, and the moments at which none of them can go on by itself.

    Args:
        on_quiet: Called at a quiet point with the tasks that wait for something outside.
        is_waiting: Whether the run has an unfinished step; without one there is no quiet point.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_quiet: Callable[[list[AnyTask]], None],
        is_waiting: Callable[[], bool],
    ) -> None:
        self.tasks: dict[AnyTask, Site] = {}
        self._awake: dict[AnyTask, None] = {}  # in order; the others are parked, and need no look until woken
        self._asleep: dict[Parked, AnyTask] = {}
        self._gathers: dict[Any, _Gather] = {}
        self._loop = loop
        self._on_quiet = on_quiet
        self._is_waiting = is_waiting
        self._context = Context()  # of our callbacks: none of them belongs to the run
        self._next: asyncio.Handle | None = None
        self._calm_looks = 0
        self._busy_since: float | None = None
        self._grace_since: float | None = None
        self._grace_step_s = 0.001
        self._closed = False

    def add(self, task: AnyTask, created_at: Site) -> None:
        """Count `task` as one of the run's until it ends."""
        self.tasks[task] = created_at
        self._awake[task] = None
        task.add_done_callback(self._ended, context=self._context)

    def woke(self, parked: Parked | None) -> None:
        """A parked future was completed or cancelled: its task can go on."""
        task = self._asleep.pop(parked, None) if parked is not None else None
        if task is not None:
            self._awake[task] = None

    def moved(self) -> None:
        """A step was parked or got its result: whatever is outside gets its grace again."""
        self._grace_since = None
        self._grace_step_s = 0.001
        self.look_soon()

    def look_soon(self) -> None:
        """Something may have changed: look in the next turn of the loop."""
        if self._closed:
            return
        self._calm_looks = 0
        if self._next is not None:
            if not isinstance(self._next, asyncio.TimerHandle):
                return
            self._next.cancel()
        self._next = self._loop.call_soon(self._look, context=self._context)

    def close(self) -> None:
        """No more quiet points."""
        self._closed = True
        self._on_quiet, self._is_waiting = _nothing, _never  # or they and we would keep one another alive
        self._gathers.clear()
        self._asleep.clear()
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _ended(self, task: AnyTask) -> None:
        self.tasks.pop(task, None)
        self._awake.pop(task, None)
        self.look_soon()

    def _look(self) -> None:
        self._next = None
        if self._closed or not self._is_waiting():
            self._busy_since = self._grace_since = None
            return
        outside: list[AnyTask] = []
        parked: list[AnyTask] = []
        for task in self._awake:
            waits = self._waits_for(task)
            if waits is Waits.RUNNABLE:
                if self._still_busy():
                    return
                break
            if waits is Waits.PARKED:
                parked.append(task)
            elif waits is Waits.OUTSIDE:
                outside.append(task)
        else:
            for task in parked:
                del self._awake[task]
                self._asleep[task._fut_waiter] = task  # type: ignore[attr-defined]
            self._busy_since = None
            self._calm_looks += 1
            if self._calm_looks < 2:
                self._next = self._loop.call_soon(self._look, context=self._context)
                return
            if outside and self._still_grace():
                return
        self._calm_looks = 0
        self._busy_since = None
        self._on_quiet(outside)

    def _still_busy(self) -> bool:
        now = self._loop.time()
        if self._busy_since is None:
            self._busy_since = now
        elif now - self._busy_since > BUSY_LIMIT_S:
            return False
        self._calm_looks = 0
        self._next = self._loop.call_soon(self._look, context=self._context)
        return True

    def _still_grace(self) -> bool:
        now = self._loop.time()
        if self._grace_since is None:
            self._grace_since = now
        left = self._grace_since + GRACE_S - now
        if left <= 0:
            return False
        self._calm_looks = 1
        self._next = self._loop.call_later(min(self._grace_step_s, left), self._look, context=self._context)
        self._grace_step_s *= 2
        return True

    def _waits_for(self, task: AnyTask) -> Waits:
        if not _Internals.waiter:
            return Waits.OUTSIDE
        waiter: Any = task._fut_waiter  # type: ignore[attr-defined]
        if waiter is None or waiter.done():
            return Waits.RUNNABLE
        if isinstance(waiter, Parked):
            return Waits.PARKED
        if waiter in self.tasks:
            return Waits.INSIDE
        if _Internals.gather and isinstance(waiter, _Gathering):
            gather = self._gathers.get(waiter)
            if gather is None:
                gather = self._gathers[waiter] = _Gather(waiter, self.tasks)
            if gather.is_completing():
                return Waits.RUNNABLE
            return Waits.INSIDE if gather.is_inside else Waits.OUTSIDE
        frame = _innermost(task)
        return Waits.INSIDE if frame is not None and _is_primitive(frame.f_code) else Waits.OUTSIDE


def _nothing(outside: list[AnyTask]) -> None:
    """Nobody listens any more."""


def _never() -> bool:
    return False


class _Gather:
    """A gather that a task waits for. What it gathers never changes, so most of it is looked at once."""

    def __init__(self, future: Any, own: dict[AnyTask, Site]) -> None:
        self._left = [child if not isinstance(child, _Gathering) else _Gather(child, own) for child in future._children]
        self.is_inside: bool = all(
            child.is_inside if isinstance(child, _Gather) else child in own or child.done() for child in self._left
        )
        self._left.reverse()

    def is_completing(self) -> bool:
        """Whether nothing is left to wait for: the gather ends in this turn or the next."""
        while self._left:
            last = self._left[-1]
            if not (last.is_completing() if isinstance(last, _Gather) else last.done()):
                return False
            self._left.pop()
        return True


# Which tasks belong to a run


roster_of_context: ContextVar[Roster | None] = ContextVar("stepwell_roster", default=None)


@contextmanager
def outside() -> Iterator[None]:
    """Hide the run from what is started inside: `with stepwell.outside(): client.start_background_refresh()`.

    Tasks created in the block do not belong to the function, so it never waits for them and does not report
    them as left running. Steps cannot be started from them.
    """
    token = roster_of_context.set(None)
    try:
        yield
    finally:
        roster_of_context.reset(token)


class _Watch:
    """A task factory around the loop's own one: the tasks of a run are put on its roster.

    An eager factory is rebuilt around a constructor of ours, because anyio takes eager factories apart to get at
    their constructor.
    """

    def __init__(self, inner: Callable[..., Any] | None) -> None:
        self.inner = inner
        self.users = 0
        self.factory: Any = self._create
        self._construct: Callable[..., AnyTask] = asyncio.Task
        eager: Any = getattr(asyncio, "eager_task_factory", None)
        if eager is not None and getattr(inner, "__code__", None) is eager.__code__:
            self._construct = cast(Any, inner).__closure__[0].cell_contents
            self.factory = asyncio.create_eager_task_factory(self._build)  # type: ignore[attr-defined,unused-ignore]

    def _create(self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any) -> AnyTask:
        if self.inner is None:
            return self._build(coro, loop=loop, **options)
        return _enlisted(self.inner(loop, coro, **options), options.get("context"))

    def _build(self, coro: Coroutine[Any, Any, Any], **options: Any) -> AnyTask:
        return _enlisted(self._construct(coro, **options), options.get("context"))


def _enlisted(task: AnyTask, context: Context | None) -> AnyTask:
    roster = roster_of_context.get() if context is None else context.get(roster_of_context)
    if roster is not None and not task.done():  # an eager task may be done already
        roster.add(task, _creation_site())
    return task


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, _Watch] = WeakKeyDictionary()


@contextmanager
def watching(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """While inside, tasks created in a run's context on `loop` are added to its roster."""
    watch = _watches.get(loop)
    installed = loop.get_task_factory()
    if watch is None or installed is not watch.factory:
        watch = _watches[loop] = _Watch(installed)
        loop.set_task_factory(watch.factory)
    watch.users += 1
    try:
        yield
    finally:
        watch.users -= 1
        if not watch.users and loop.get_task_factory() is watch.factory:
            loop.set_task_factory(watch.inner)
            _watches.pop(loop, None)


# What a task waits for


_ASYNCIO = os.path.dirname(asyncio.__file__)
_ANYIO_BACKEND = os.path.join("anyio", "_backends", "_asyncio.py")
_ASYNCIO_WAITS = frozenset({
    "Event.wait", "Lock.acquire", "Condition.wait", "Semaphore.acquire", "Queue.get", "Queue.put",
    "TaskGroup.__aexit__", "TaskGroup._aexit", "_wait", "wait_for", "_cancel_and_wait",
})  # fmt: skip
_ANYIO_WAITS = frozenset({
    "TaskGroup.__aexit__", "TaskGroup.start", "Lock.acquire", "Semaphore.acquire",
    "CapacityLimiter.acquire_on_behalf_of",
})  # fmt: skip
_primitives: dict[CodeType, bool] = {}
_Gathering: Any = getattr(asyncio.tasks, "_GatheringFuture", ())


class _Internals:
    """Which private parts of asyncio are where we expect them; None until tried."""

    waiter: bool | None = None
    gather = False


def _is_primitive(code: CodeType) -> bool:
    known = _primitives.get(code)
    if known is None:
        if code.co_filename.startswith(_ASYNCIO):
            known = code.co_qualname in _ASYNCIO_WAITS
        else:
            known = code.co_filename.endswith(_ANYIO_BACKEND) and code.co_qualname in _ANYIO_WAITS
        _primitives[code] = known
    return known


def frames_of(task: AnyTask) -> list[FrameType]:
    """The frames of a suspended task, outermost first, as far as they can be followed."""
    frames: list[FrameType] = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is None:
            break
        frames.append(frame)
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return frames


def is_plain_join(root: AnyTask, waiting: list[AnyTask]) -> bool:
    """Whether `root` stands in one `gather` or `TaskGroup` over `waiting`, and each of these is a step and no more."""
    if not _Internals.waiter or not all(_is_bare_step(task) for task in waiting):
        return False
    waiter: Any = root._fut_waiter  # type: ignore[attr-defined]
    if _Internals.gather and isinstance(waiter, _Gathering):
        return all(child in waiting or child.done() for child in waiter._children)
    frame = _innermost(root)
    return frame is not None and frame.f_code.co_qualname in {"TaskGroup.__aexit__", "TaskGroup._aexit"}


def _is_bare_step(task: AnyTask) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and code.co_filename.startswith(_SDK)


def _innermost(task: AnyTask) -> FrameType | None:
    frames = frames_of(task)
    return frames[-1] if frames else None


def _creation_site() -> Site:
    frame: FrameType | None = sys._getframe(3)
    while frame is not None and is_library(frame.f_code.co_filename):
        frame = frame.f_back
    return (frame.f_code.co_filename, frame.f_lineno) if frame is not None else ("", 0)


_SDK = os.path.dirname(__file__)


def is_library(filename: str) -> bool:
    """Whether a file is asyncio's, anyio's or ours: not where a user would look first."""
    return (
        filename.startswith((_ASYNCIO, _SDK, "<")) or f"{os.sep}anyio{os.sep}" in filename or "uvloop" in filename
    )  # fmt: skip


async def try_internals() -> None:
    """Find out, once per process, whether asyncio's private parts are where this file looks for them."""
    if _Internals.waiter is not None:
        return
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    waiting: AnyTask = asyncio.Task(_wait_and_return(event), loop=loop)
    await asyncio.sleep(0)
    parked = Parked(loop, lambda: None)
    gathered: Any = asyncio.gather(parked, waiting)
    frame = _innermost(waiting)
    try:
        _Internals.waiter = (
            isinstance(getattr(waiting, "_fut_waiter", None), asyncio.Future)
            and frame is not None
            and frame.f_code is asyncio.Event.wait.__code__
            and _is_primitive(frame.f_code)
        )
        _Internals.gather = (
            isinstance(_Gathering, type)
            and isinstance(gathered, _Gathering)
            and list(getattr(gathered, "_children", ())) == [parked, waiting]
        )
    finally:
        event.set()
        parked.set_result(None)
        await gathered
    if not (_Internals.waiter and _Internals.gather):
        _log.warning("this Python's asyncio is not as we know it: functions suspend up to %g s later", GRACE_S)


async def _wait_and_return(event: asyncio.Event) -> None:
    await event.wait()
