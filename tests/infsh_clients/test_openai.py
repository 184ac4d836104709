"""OpenAI's own client asks real apps: one written for inference.sh, and one of a single file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from stepwell.apps.declared import directory_of
from tests.infsh_clients.conftest import Serving

pytestmark = pytest.mark.slow

APPS = Path(__file__).parents[1] / "apps" / "apps"
PARROT = '''
from collections.abc import AsyncIterator

from stepwell.apps import LanguageModel


class Parrot(LanguageModel):
    """Says after you."""

    async def run(self, input: LanguageModel.Input) -> AsyncIterator[LanguageModel.Output]:
        said = input.system_prompt + "".join(f"[{one.role}: {one.text}]" for one in input.context)
        for word in input.text.split():
            said += f" {word}"
            yield self.Output(response=said)
        usage = self.Usage(prompt_tokens=5, completion_tokens=2, stop_reason="length")
        yield self.Output(response=said, usage=usage)
'''
VECTORS = '''
from stepwell.apps import Embeddings


class Vectors(Embeddings):
    """Lengths of texts."""

    async def run(self, input: Embeddings.Input) -> Embeddings.Output:
        return self.Output(vectors=[[len(text), 0.5] for text in input.texts], tokens=3)
'''


@pytest.fixture(scope="module")
def client(serving: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp("models")
    serving.deploy(APPS / "chat-words")
    for name, text in (("parrot", PARROT), ("vectors", VECTORS)):
        file = folder / f"{name}.py"
        file.write_text(text)
        with directory_of(file) as directory:
            serving.deploy(directory)
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_an_app_written_for_inference_sh(client: openai.OpenAI) -> None:
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "one two three"}]
    whole = client.chat.completions.create(model="tests/chat-words", messages=messages)
    assert whole.choices[0].message.content == "one two three "
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 3  # of `output_meta`
    pieces = client.chat.completions.create(model="tests/chat-words", messages=messages, stream=True)
    assert [one.choices[0].delta.content for one in pieces] == ["one ", "two ", "three ", None]


def test_an_app_of_one_file(client: openai.OpenAI) -> None:
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [
        {"role": "system", "content": "Sir!"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "well then"},
    ]
    whole = client.chat.completions.create(model="parrot", messages=messages)
    assert whole.choices[0].message.content == "Sir![user: Hi][assistant: Ho] well then"
    assert whole.choices[0].finish_reason == "length"
    pieces = client.chat.completions.create(model="parrot", messages=messages, stream=True)
    said = [one.choices[0].delta.content for one in pieces]
    assert said == ["Sir![user: Hi][assistant: Ho] well", " then", None]


def test_what_does_not_fit_the_app(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(
            model="parrot", messages=[{"role": "user", "content": "Hi"}], extra_body={"temperature": "hot"}
        )


def test_vectors(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="vectors", input=["a", "bcd"])
    assert [one.embedding for one in answer.data] == [[1.0, 0.5], [3.0, 0.5]]
    assert answer.usage.total_tokens == 3
    assert {"tests/chat-words", "local/parrot", "local/vectors"} <= {one.id for one in client.models.list()}
