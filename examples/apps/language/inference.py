"""A language model of yours on the processor, with llama.cpp. It has no weights: bring a file in the form GGUF.

    stepwell dev --app-read ~/models
    stepwell app deploy examples/apps/language
    curl localhost:8288/apps/run -d '{"app": "examples/language", "wait": true,
        "setup": {"model": "/home/me/models/some-model.gguf"}, "input": {"text": "What is tea?"}}'

llama-cpp-python comes as source: a compiler and cmake are needed, and minutes, once.
"""

from collections.abc import Iterator

from llama_cpp import Llama
from pydantic import BaseModel, Field

from stepwell.apps import LanguageModel


class Language(LanguageModel):
    class Setup(BaseModel):
        model: str = Field(description="path of a GGUF file that apps may read")
        context: int = Field(default=2048, ge=64, description="tokens of question and answer together")

    def setup(self, setup: Setup) -> None:
        self.model = Llama(model_path=setup.model, n_ctx=setup.context, verbose=False)

    def run(self, input: LanguageModel.Input) -> Iterator[LanguageModel.Output]:
        """The answer, piece by piece."""
        said = [{"role": one.role, "content": one.text} for one in input.context]
        if input.system_prompt:
            said.insert(0, {"role": "system", "content": input.system_prompt})
        said.append({"role": input.role, "content": input.text})
        text, reason = "", ""
        for chunk in self.model.create_chat_completion(
            said,
            stream=True,
            max_tokens=input.max_tokens,
            temperature=input.temperature,
            top_p=input.top_p,
            seed=input.seed,
            stop=input.stop or [],
        ):
            (choice,) = chunk["choices"]
            reason = choice["finish_reason"] or reason
            if piece := choice["delta"].get("content"):
                text += piece
                yield self.Output(response=text)
        usage = self.Usage(total_tokens=self.model.n_tokens, stop_reason=reason)
        yield self.Output(response=text, usage=usage)
