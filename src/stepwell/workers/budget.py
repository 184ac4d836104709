"""Room for bytes: so many at a time, first come first served.

Work that finds no room waits; it is delayed, not failed. A single request above the limit is let in alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


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
