"""Several functions, `run` only inherited."""

from typing import Optional

from inferencesh import BaseApp, BaseAppInput, BaseAppOutput, function
from pydantic import BaseModel


class TextInput(BaseAppInput):
    text: str


class TextOutput(BaseAppOutput):
    text: str


class Counts(BaseModel):
    letters: int
    words: int


class Chosen(BaseModel):
    keys: list[str]


class App(BaseApp):
    async def upper(self, input_data: TextInput) -> TextOutput:
        """Write it in capitals.

        Letters only.
        """
        return TextOutput(text=input_data.text.upper())

    @function(credentials=["slack"], annotations={"readOnlyHint": True})
    async def count(self, input_data: TextInput, metadata=None) -> Counts:
        assert metadata is not None
        return Counts(letters=len(input_data.text), words=len(input_data.text.split()))

    def keys(self, input_data: Chosen) -> Optional[Counts]:
        """Not async, and typed without a base of the SDK."""
        return self._counted(input_data.keys)

    def _counted(self, keys: list[str]) -> Counts:
        return Counts(letters=sum(map(len, keys)), words=len(keys))

    def helper(self, text: str) -> str:
        return text
