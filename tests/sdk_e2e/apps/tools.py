"""An app of one file, as people write them, and a class that its callers import."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from pydantic import BaseModel

from stepwell.apps import App, File


class Tools(App):
    class Setup(BaseModel):
        ending: str = "!"

    class Input(BaseModel):
        text: str
        file: File | None = None

    class Output(BaseModel):
        text: str
        file: File | None = None
        pid: int = 0

    async def setup(self, setup: Setup) -> None:
        self.ending = setup.ending
        self.said = ""

    async def run(self, input: Input) -> Output:
        print("called with", input.text)
        return self.Output(text=input.text + self.ending)

    async def spell(self, input: Input) -> AsyncIterator[Output]:
        """Letter by letter."""
        for length in range(1, len(input.text) + 1):
            print("letter", input.text[length - 1])
            yield self.Output(text=input.text[:length])
            await asyncio.sleep(0.02)

    async def fails(self, input: Input) -> Output:
        raise KeyError(input.text)

    async def waits(self, input: Input) -> Output:
        while not self.context.cancel_requested:  # noqa: ASYNC110 - as people write apps
            await asyncio.sleep(0.01)
        return self.Output(text="cancelled")

    async def copy(self, input: Input) -> Output:
        assert input.file is not None
        content = (await input.file.fetch()).read_text()
        return self.Output(text="", file=File.of(content.upper().encode(), "copy.txt"))

    async def remember(self, input: Input) -> Output:
        self.said += input.text
        return self.Output(text=self.said)

    async def who(self, input: Input) -> Output:
        return self.Output(text="", pid=os.getpid())
