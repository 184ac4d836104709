"""Threads that read, each with its own read-only connection, so that neither the writer nor the event loop waits.

Short questions on the hot path and lists have separate threads: four slow lists do not keep a run from being loaded.
Short ones that are asked in one pass of the event loop go to a thread together, since the way there and back costs more
than an answer. A question that takes too long is stopped; while it runs it pins the write-ahead log, which would grow
for ever.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, TypeVarTuple, Unpack

from stepwell.store.base import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stepwell.store.sqlite.fair import FairShare

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

THREADS = 2
TOGETHER = 32
"""Questions that a thread is given at a time: the first to be answered waits for the last."""
LONGEST_S = 30.0
GRACE_S = 0.2
"""How long readers that must make way may go on before they are stopped and ask again."""


class _Asked(NamedTuple):
    """A short question, and who waits for its answer."""

    question: Callable[..., Any]
    args: tuple[Any, ...]
    answer: asyncio.Future[Any]


class _Reader(threading.local):
    connection: sqlite3.Connection | None = None
    deadline = 0.0


class Readers:
    def __init__(
        self, connect: Callable[[], sqlite3.Connection], fair: FairShare, longest_s: float = LONGEST_S
    ) -> None:
        self._connect = connect
        self._fair = fair
        self._longest_s = longest_s
        self._hot = ThreadPoolExecutor(THREADS, "stepwell-store-read")
        self._lists = ThreadPoolExecutor(THREADS, "stepwell-store-list")
        self._asked: list[_Asked] = []
        self._own = _Reader()
        self._all: list[sqlite3.Connection] = []
        self._condition = threading.Condition()
        self._held = False
        self._active = 0
        self._closing = False

    async def ask(self, question: Callable[[sqlite3.Connection, Unpack[Ts]], T], *args: *Ts) -> T:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._asked.append(_Asked(question, args, answer))
        if len(self._asked) == 1:
            loop.call_soon(self._hand_over, loop)
        return await answer

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        asked, self._asked = self._asked, []
        for start in range(0, len(asked), TOGETHER):
            some = asked[start : start + TOGETHER]
            if self._closing:
                self._tell([(one, None, StoreUnavailable("the store is closing")) for one in some])
            else:
                self._fair.begin()
                self._hot.submit(self._answer_all, loop, some)

    def _answer_all(self, loop: asyncio.AbstractEventLoop, asked: list[_Asked]) -> None:
        answers: list[tuple[_Asked, Any, BaseException | None]] = []
        for one in asked:
            try:
                answers.append((one, self._answer(one.question, one.args), None))
            except BaseException as err:
                answers.append((one, None, err))
        with suppress(RuntimeError):  # the loop is closed; nobody waits any more
            loop.call_soon_threadsafe(self._told, answers)

    def _told(self, answers: list[tuple[_Asked, Any, BaseException | None]]) -> None:
        self._fair.end()
        self._tell(answers)

    def _tell(self, answers: list[tuple[_Asked, Any, BaseException | None]]) -> None:
        for one, found, err in answers:
            if one.answer.done():
                continue  # who asked was cancelled
            if err is None:
                one.answer.set_result(found)
            else:
                one.answer.set_exception(err)

    async def list(self, question: Callable[[sqlite3.Connection, Unpack[Ts]], T], *args: *Ts) -> T:
        """`ask`, for questions that may take long."""
        return await self._submit(self._lists, self._answer, question, args)

    async def do(self, work: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        """Something with files, on a thread."""
        return await self._submit(self._lists, work, *args)

    async def _submit(self, pool: ThreadPoolExecutor, work: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        if self._closing:
            raise StoreUnavailable("the store is closing")
        self._fair.begin()
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work, *args)
        finally:
            self._fair.end()

    def _answer(self, question: Callable[..., T], args: Any) -> T:
        own = self._own
        if own.connection is None:
            own.connection = self._connect()
            own.connection.set_progress_handler(self._too_long, 50_000)
            self._all.append(own.connection)
        own.deadline = time.monotonic() + self._longest_s
        while True:
            with self._condition:
                self._condition.wait_for(lambda: not self._held)
                self._active += 1
            try:
                return question(own.connection, *args)
            except sqlite3.OperationalError as err:
                if err.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                    if time.monotonic() < own.deadline:
                        continue  # it made way for the writer
                    raise StoreUnavailable(
                        f"the question took longer than {self._longest_s:g} s and was stopped; narrow it"
                    ) from err
                raise StoreUnavailable(f"the database could not be read: {err}") from err
            except sqlite3.Error as err:
                raise StoreUnavailable(f"the database could not be read: {err}") from err
            finally:
                with self._condition:
                    self._active -= 1
                    self._condition.notify_all()

    def _too_long(self) -> bool:
        return time.monotonic() > self._own.deadline

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """While inside, nothing is read. Called by the writer's thread."""
        with self._condition:
            self._held = True
            if not self._condition.wait_for(lambda: not self._active, GRACE_S):
                for connection in self._all:
                    connection.interrupt()
                self._condition.wait_for(lambda: not self._active, GRACE_S)
        try:
            yield
        finally:
            with self._condition:
                self._held = False
                self._condition.notify_all()

    def close(self) -> None:
        """Blocks until the questions under way are answered."""
        self._closing = True
        for pool in (self._hot, self._lists):
            pool.shutdown(wait=True)
        for connection in self._all:
            connection.close()
