"""What there is only so much of: room for bytes, and places for calls. Who finds none waits, and does not fail.

Bytes are handed out first come first served, and a single request above the limit is let in alone. Places go to the
oldest work first: a run that has begun is finished before another one begins, so few are half done at a time.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")

PATIENCE = 8
"""Each time that this many have found a place, the last of them is who has waited longest, however young its work is:
otherwise old work that asks again and again would keep new work from beginning at all."""


class Budget:
    """Hands out `limit_bytes` and takes them back. On one event loop."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.taken_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size_bytes: int) -> None:
        """Wait for room. Give the same size back later, whatever happens in between."""
        if not self._waiting and self._fits(size_bytes):
            self.taken_bytes += size_bytes
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size_bytes, turn)
        self._waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(size_bytes)  # it was our turn at the very moment we were stopped
            else:
                self._waiting.remove(entry)
                self._admit()
            raise

    def give(self, size_bytes: int) -> None:
        """Return what was taken."""
        self.taken_bytes -= size_bytes
        assert self.taken_bytes >= 0, "more was given back than was taken"
        self._admit()

    @asynccontextmanager
    async def held(self, size_bytes: int) -> AsyncIterator[None]:
        """Have room inside a `with`."""
        await self.take(size_bytes)
        try:
            yield
        finally:
            self.give(size_bytes)

    def _fits(self, size_bytes: int) -> bool:
        return not self.taken_bytes or self.taken_bytes + size_bytes <= self.limit_bytes

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size_bytes, turn = self._waiting.popleft()
            if not turn.done():
                self.taken_bytes += size_bytes
                turn.set_result(None)


class Places(Generic[T]):
    """At most `limit` at a time. Who gets no place is kept here until `leave` hands it out, or it is given up."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: OrderedDict[int, T] = OrderedDict()  # in the order in which they came
        self._oldest: list[tuple[int, int]] = []  # a heap of ages and numbers, also of some that wait no more
        self._numbers = count()
        self._handed_out = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def take(self) -> bool:
        """Whether there was a place. Call `leave` in the end."""
        if not self._free:
            return False
        self._free -= 1
        return True

    def wait(self, who: T, born_at: int) -> int:
        """Stand in line. The answer is for `give_up`."""
        number = next(self._numbers)
        self._waiting[number] = who
        heapq.heappush(self._oldest, (born_at, number))
        return number

    def give_up(self, number: int) -> None:
        """Stop waiting; nothing happens if that is so already."""
        self._waiting.pop(number, None)
        self._sweep()

    def leave(self) -> T | None:
        """Give a place back. It belongs to whoever is returned, and is free if nobody waits."""
        if not self._waiting:
            self._oldest.clear()
            self._free += 1
            return None
        self._handed_out += 1
        if self._handed_out % PATIENCE == 0:
            _, who = self._waiting.popitem(last=False)
            self._sweep()
            return who
        while True:
            _, number = heapq.heappop(self._oldest)
            if number in self._waiting:
                return self._waiting.pop(number)

    def _sweep(self) -> None:
        """Forget those who wait no more, once they are most of the heap."""
        if len(self._oldest) > 2 * len(self._waiting) + PATIENCE:
            self._oldest = [entry for entry in self._oldest if entry[1] in self._waiting]
            heapq.heapify(self._oldest)
