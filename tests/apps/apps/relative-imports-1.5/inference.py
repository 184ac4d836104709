"""Imports its helpers in both ways, one of them through a link, from a directory whose name is no identifier."""

import sibling
from inferencesh import BaseApp, BaseAppInput, BaseAppOutput

from .helper import join
from .provider_helper import PROVIDER


class AppInput(BaseAppInput):
    words: list[str]


class AppOutput(BaseAppOutput):
    text: str


class App(BaseApp):
    async def run(self, input_data: AppInput) -> AppOutput:
        with open("words.txt", encoding="utf-8") as file:
            return AppOutput(text=join([*input_data.words, PROVIDER, sibling.NAME, file.read().strip()]))
