"""OpenAI's own client asks real apps: one written for inference.sh, and one of a single file."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest

from stepwell.apps.declared import directory_of
from stepwell.apps.environment import EnvironmentSettings
from stepwell.apps.settings import AppSettings
from stepwell.model.task import TaskStatus
from stepwell.server import ServerSettings
from tests.apps.wheels import repack
from tests.infsh_clients.conftest import Serving
from tests.libraries.environments import python_of

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
SLOW = '''
import asyncio

from stepwell.apps import LanguageModel


class Slow(LanguageModel):
    """Takes so many seconds."""

    async def run(self, input: LanguageModel.Input) -> LanguageModel.Output:
        await asyncio.sleep(float(input.text))
        return self.Output(response="Done")
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


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_with_a_key_outlives_the_server(tmp_path: Path, stream: bool) -> None:
    repack(tmp_path / "wheels", python_of("inferencesh"))
    environments = EnvironmentSettings(find_links=(str(tmp_path / "wheels"),), offline=True)
    settings = ServerSettings(
        port=0,
        data=tmp_path / "data",
        discovery=False,
        poll=False,
        drain_s=0.2,
        manage_logging=False,
        apps=AppSettings(environments=environments),
    )
    body = {"model": "slow", "messages": [{"role": "user", "content": "2"}], "stream": stream}
    headers = {"idempotency-key": "once"}
    broken: list[httpx2.Response | httpx2.TransportError] = []

    def ask() -> None:
        try:
            broken.append(httpx2.post(f"{first.url}/v1/chat/completions", json=body, headers=headers, timeout=60))
        except httpx2.TransportError as err:
            broken.append(err)

    def tasks(serving: Serving) -> list[int]:
        found = httpx2.post(f"{serving.url}/tasks/list", json={}).json()["data"]["items"]
        return [one["status"] for one in found]

    first = Serving(settings)
    try:
        file = tmp_path / "slow.py"
        file.write_text(SLOW)
        with directory_of(file) as directory:
            first.deploy(directory)
        asking = threading.Thread(target=ask)
        asking.start()
        until = time.monotonic() + 60
        while tasks(first) != [TaskStatus.RUNNING]:
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        first.close()
    asking.join()
    (answer,) = broken
    assert isinstance(answer, httpx2.TransportError) or "Done" not in answer.text
    second = Serving(settings)
    try:
        whole = httpx2.post(f"{second.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
        assert "Done" in whole.text
        assert tasks(second) == [TaskStatus.COMPLETED]
    finally:
        second.close()
