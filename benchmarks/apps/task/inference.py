"""An app that does nothing, says when it does something, or waits. Times are `time.monotonic_ns()` of the machine."""

import asyncio
import time
from collections.abc import AsyncIterator

from pydantic import BaseModel


class Input(BaseModel):
    n: int = 0
    wait_s: float = 0.0


class Output(BaseModel):
    n: int = 0
    at: int = 0


class App:
    def setup(self) -> None:
        self.cancelled = asyncio.Event()

    async def run(self, given: Input) -> Output:
        return Output(n=given.n)

    async def work(self, given: Input) -> Output:
        await asyncio.sleep(given.wait_s)
        return Output(at=time.monotonic_ns())

    async def tell(self, given: Input) -> AsyncIterator[Output]:
        await asyncio.sleep(given.wait_s)  # until the client follows
        yield Output(at=time.monotonic_ns())
        await asyncio.sleep(given.wait_s)

    async def hang(self, given: Input) -> AsyncIterator[Output]:
        self.cancelled.clear()
        yield Output(at=time.monotonic_ns())
        await self.cancelled.wait()

    async def on_cancel(self) -> None:
        print(f"cancelled {time.monotonic_ns()}", flush=True)
        self.cancelled.set()
