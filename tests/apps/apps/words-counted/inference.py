"""Yields the whole output so far, from an async generator and from one that is not."""

import threading
from typing import AsyncGenerator, Iterator

from inferencesh import BaseApp, BaseAppInput, BaseAppOutput, OutputMeta, TextMeta


class AppInput(BaseAppInput):
    text: str


class AppOutput(BaseAppOutput):
    words: list[str] = []
    thread: str = ""


class App(BaseApp):
    async def run(self, input_data: AppInput) -> AsyncGenerator[AppOutput, None]:
        words = input_data.text.split()
        for end in range(1, len(words) + 1):
            meta = OutputMeta(outputs=[TextMeta(tokens=end)])
            yield AppOutput(words=words[:end], thread=threading.current_thread().name, output_meta=meta)

    def slowly(self, input_data: AppInput) -> Iterator[AppOutput]:
        words = input_data.text.split()
        for end in range(1, len(words) + 1):
            yield AppOutput(words=words[:end], thread=threading.current_thread().name)
