"""Nothing of any SDK, and nothing async."""

from pydantic import BaseModel


class Question(BaseModel):
    numbers: list[float]


class Answer(BaseModel):
    total: float
    unit: str


class App:
    def setup(self, config):
        self.unit = config.get("unit", "none")

    def run(self, question: Question) -> Answer:
        return Answer(total=sum(question.numbers), unit=self.unit)

    def unload(self):
        print("unloaded")
