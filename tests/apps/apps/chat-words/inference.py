"""A language model, as far as anybody can see: streams what is added, then gives the whole answer."""

from typing import AsyncGenerator, Union

from inferencesh import BaseApp, OutputMeta, TextMeta
from inferencesh.models import LLMDelta, LLMInput, LLMOutput
from inferencesh.openai import OpenAIChatMixin

DEFAULT_MODEL = "words"


class AppOutput(LLMOutput):
    pass


class App(OpenAIChatMixin, BaseApp):
    async def run(self, input_data: LLMInput) -> AsyncGenerator[Union[AppOutput, LLMDelta], None]:
        said = ""
        for word in input_data.text.split():
            said += word + " "
            yield LLMDelta(response=word + " ")
        yield AppOutput(response=said, output_meta=OutputMeta(outputs=[TextMeta(tokens=len(said.split()))]))

    async def only_deltas(self, input_data: LLMInput) -> AsyncGenerator[Union[LLMOutput, LLMDelta], None]:
        """Leaves it to others to put them together."""
        for word in input_data.text.split():
            yield LLMDelta(response=word)
