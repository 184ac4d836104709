"""Reads its secret when it is imported."""

import os

from inferencesh import BaseApp, BaseAppInput, BaseAppOutput

KEY = os.environ["PROVIDER_API_KEY"]
MODE = os.environ.get("MODE", "none")


class AppInput(BaseAppInput):
    pass


class AppOutput(BaseAppOutput):
    key_length: int
    mode: str


class App(BaseApp):
    async def run(self, input_data: AppInput) -> AppOutput:
        return AppOutput(key_length=len(KEY), mode=MODE)
