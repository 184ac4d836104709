"""A function for each thing that a client does."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

from inferencesh import BaseApp, BaseAppInput, BaseAppOutput, File
from inferencesh.models import LLMDelta, LLMInput, LLMOutput


class RunInput(BaseAppInput):
    upto: int = 1
    pause: float = 0.0


class RunOutput(BaseAppOutput):
    count: int


class FileInput(BaseAppInput):
    file: File
    others: list[File] = []


class FileOutput(BaseAppOutput):
    text: str
    capitals: File


class Nothing(BaseAppInput):
    why: str = ""
    delay: float = 0.0


class Said(BaseAppOutput):
    text: str


class CountOutput(BaseAppOutput):
    calls: int
    name: str | None = None


class App(BaseApp):
    async def setup(self) -> None:
        self.calls = 0
        self.stopped = asyncio.Event()

    async def run(self, input_data: RunInput) -> AsyncGenerator[RunOutput, None]:
        for number in range(1, input_data.upto + 1):
            print(f"counted {number}")
            yield RunOutput(count=number)
            await asyncio.sleep(input_data.pause)

    async def shout(self, input_data: FileInput) -> FileOutput:
        texts = [Path(one.path).read_text() for one in (input_data.file, *input_data.others)]
        path = Path("capitals.txt").absolute()
        path = Path("/tmp") / path.name
        path.write_text(" ".join(texts).upper())
        return FileOutput(text=" ".join(texts), capitals=File(path=str(path)))

    async def wait(self, input_data: Nothing) -> Said:
        self.stopped.clear()
        await asyncio.wait_for(self.stopped.wait(), 60)
        return Said(text="stopped")

    async def on_cancel(self) -> None:
        self.stopped.set()

    async def fail(self, input_data: Nothing) -> Said:
        await asyncio.sleep(input_data.delay)
        raise RuntimeError(input_data.why)

    async def speak(self, input_data: LLMInput) -> AsyncGenerator[LLMOutput | LLMDelta, None]:
        said = ""
        for word in (input_data.text or "").split():
            said += f"{word} "
            yield LLMDelta(response=f"{word} ")
            await asyncio.sleep(0.05)
        yield LLMOutput(response=said)

    async def count(self, input_data: Nothing) -> CountOutput:
        self.calls += 1
        return CountOutput(calls=self.calls, name=input_data.why or None)
