"""Work that can be cancelled: by `on_cancel`, by looking at the flag, not at all."""

import asyncio
import time
from typing import AsyncGenerator

from inferencesh import BaseApp, BaseAppInput, BaseAppOutput


class AppInput(BaseAppInput):
    seconds: float = 60.0


class AppOutput(BaseAppOutput):
    ended: str


class App(BaseApp):
    async def setup(self):
        self.cancelled = asyncio.Event()

    async def run(self, input_data: AppInput) -> AppOutput:
        print("running")
        self.cancelled.clear()
        try:
            await asyncio.wait_for(self.cancelled.wait(), input_data.seconds)
        except asyncio.TimeoutError:
            return AppOutput(ended="by itself")
        return AppOutput(ended="by on_cancel")

    async def on_cancel(self):
        print("on_cancel was called")
        self.cancelled.set()

    def looks(self, input_data: AppInput) -> AppOutput:
        """Not async: looks at the flag."""
        print("looking")
        end = time.monotonic() + input_data.seconds
        while time.monotonic() < end:
            if self.context.cancel_requested:
                return AppOutput(ended="by the flag")
            time.sleep(0.01)
        return AppOutput(ended="by itself")

    async def blocks(self, input_data: AppInput) -> AppOutput:
        """Async by name only: nothing else happens on the loop meanwhile."""
        return self.looks(input_data)

    async def yields(self, input_data: AppInput) -> AsyncGenerator[AppOutput, None]:
        try:
            for number in range(round(input_data.seconds * 100)):
                yield AppOutput(ended=f"{number}")
                await asyncio.sleep(0.01)
        finally:
            print("cleaned up")

    async def stubborn(self, input_data: AppInput) -> AppOutput:
        print("stubborn")
        await asyncio.sleep(input_data.seconds)
        return AppOutput(ended="by itself")
