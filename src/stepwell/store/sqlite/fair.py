"""A fair share of the interpreter for the store's threads, beside a busy event loop.

CPython gives threads no fair share. A busy loop lets go of the interpreter only while it polls for a microsecond, and
has it back before a waiting thread is awake; and because it did let go, the waiting thread never gets to the point of
demanding it. Measured on two cores: one group of writes took 26 s beside a loop of short callbacks. So the loop
itself steps aside, for a fifth of a millisecond in each, while a thread has something to do. One that slept for most of
a millisecond need not: who waits had its chance.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

EVERY_S = 0.001
ASIDE_S = 0.000_2
ASIDE_WHILE_SYNCING_S = 0.000_03
"""While the disk syncs the thread needs no interpreter, only a chance to come back."""
BUSY_S = 0.000_4
"""Of each millisecond, for the loop to be one that is busy."""


class FairShare:
    """All methods belong to the event loop; `syncing` is set by the thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.syncing = False
        self._loop = loop
        self._outstanding = 0
        self._armed = False
        self._used_s = 0.0  # by this thread, when it was asked last

    def begin(self) -> None:
        """A thread was given something to do."""
        self._outstanding += 1
        if not self._armed:
            self._armed = True
            self._used_s = time.thread_time()
            self._loop.call_later(EVERY_S, self._step_aside)

    def end(self, count: int = 1) -> None:
        self._outstanding -= count

    def _step_aside(self) -> None:
        if not self._outstanding:
            self._armed = False
            return
        used_s = time.thread_time()
        if used_s - self._used_s >= BUSY_S:
            time.sleep(ASIDE_WHILE_SYNCING_S if self.syncing else ASIDE_S)
        self._used_s = used_s
        self._loop.call_later(EVERY_S, self._step_aside)
