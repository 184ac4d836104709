"""Takes several inputs at a time, and says that it makes embeddings. Models within the class."""

from __future__ import annotations

from pydantic import BaseModel


def batched(max_size: int, max_wait: float):
    def mark(function):
        function.__stepwell_batch__ = (max_size, max_wait)
        function.__stepwell_capabilities__ = ("embeddings",)
        return function

    return mark


class App:
    session = "rebuild"

    class Input(BaseModel):
        texts: list[str]

    class Output(BaseModel):
        vectors: list[list[float]]

    @batched(max_size=8, max_wait=0.02)
    async def run(self, inputs: list[Input]) -> list[Output]:
        print(f"{len(inputs)} at a time")
        return [self._vectors(one) for one in inputs]

    def _vectors(self, given: Input):
        if "bad" in given.texts:
            return ValueError("bad text")  # for this one only
        return self.Output(vectors=[[float(len(text))] for text in given.texts])

    @batched(max_size=8, max_wait=0.02)
    def short(self, inputs: list[Input]) -> list[Output]:
        """Gives back too few."""
        return []
