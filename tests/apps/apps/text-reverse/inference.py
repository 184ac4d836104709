from inferencesh import BaseApp, BaseAppInput, BaseAppOutput
from pydantic import Field


class AppInput(BaseAppInput):
    text: str = Field(description="what to turn round")
    times: int = Field(default=1, ge=1, le=9)


class AppOutput(BaseAppOutput):
    text: str
    length: int


class App(BaseApp):
    async def setup(self, metadata):
        self.variant = metadata.app_variant

    async def run(self, input_data: AppInput, metadata) -> AppOutput:
        """Turn a text round."""
        text = input_data.text
        for _ in range(input_data.times):
            text = text[::-1]
        return AppOutput(text=text, length=len(text))
