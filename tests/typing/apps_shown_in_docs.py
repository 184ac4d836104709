"""What checkers must know of apps. Never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

from pydantic import BaseModel

from stepwell.apps import App, Embeddings, File, LanguageModel, batched


class Embed(App):
    requirements = ["numpy"]
    resources = {"gpu": {"vram": "24GB"}, "ram": 8}
    scaling = {"min": 1}
    session = "rebuild"

    class Setup(BaseModel):
        model: str = "small"

    class Input(BaseModel):
        texts: list[str]

    class Output(BaseModel):
        vectors: list[list[float]]

    async def setup(self, setup: Setup) -> None:
        self.model = setup.model

    async def run(self, input: Input) -> Output:
        assert_type(self.context.cancel_requested, bool)
        return self.Output(vectors=[])


class Words(App):
    async def run(self, input: Embed.Input) -> AsyncIterator[Embed.Output]:
        yield Embed.Output(vectors=[])


class Pulled(App):
    def run(self, input: Embed.Input) -> Iterator[Embed.Output]:
        yield Embed.Output(vectors=[])


class Plain(App):
    def run(self, input: Embed.Input) -> Embed.Output:
        return Embed.Output(vectors=[])


class Together(App):
    @batched(max_size=8, max_wait=0.01)
    async def run(self, inputs: list[Embed.Input]) -> list[Embed.Output]:
        return []

    @batched()
    def blocking(self, inputs: list[Embed.Input]) -> list[Embed.Output]:
        return []


class Small(LanguageModel):
    async def run(self, input: LanguageModel.Input) -> AsyncIterator[LanguageModel.Output]:
        yield self.Output(response=input.text)


class Vectors(Embeddings):
    async def run(self, input: Embeddings.Input) -> Embeddings.Output:
        return self.Output(vectors=[])


def ran() -> None:
    given = Embed.Input(texts=["a"])
    assert_type(Embed.run_locally(given), Embed.Output)
    assert_type(Embed.run_locally(given, setup=Embed.Setup()), Embed.Output)
    assert_type(Words.run_locally(given), Embed.Output)
    assert_type(Pulled.run_locally(given), Embed.Output)
    assert_type(Plain.run_locally(given), Embed.Output)
    assert_type(Together.run_locally(given), Embed.Output)
    assert_type(Together().blocking(given), Embed.Output)
    assert_type(Small.run_locally(LanguageModel.Input(text="a")).response, str)
    assert_type(Vectors.run_locally(Embeddings.Input(texts=[])).vectors, list[list[float]])


async def files(file: File) -> None:
    assert_type(file.path, str)
    assert_type((await file.fetch()).name, str)
    assert_type(file.read_bytes(), bytes)
    assert_type(file.size, int | None)
