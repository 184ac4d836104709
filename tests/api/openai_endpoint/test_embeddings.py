"""Embeddings of apps, and the list of models, asked for by OpenAI's own client."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.api.api import Api
from tests.api.infsh.performing import Call, ScriptedApps


async def lengths(call: Call) -> None:
    vectors = [[float(len(text)), 0.5] for text in call.request.input["texts"]]
    call.returned({"vectors": vectors, "tokens": 5})


@pytest.mark.parametrize("form", ["float", "base64", None])
async def test_an_app_makes_vectors(api: Api, performer: ScriptedApps, client: openai.AsyncOpenAI, form: Any) -> None:
    performer.script = lengths
    more = {} if form is None else {"encoding_format": form}  # without one the client asks for base64 and reads it
    answer = await client.embeddings.create(model="acme/vectors", input=["a", "bcd"], **more)
    found: list[Any] = [one.embedding for one in answer.data]
    assert found == (["AACAPwAAAD8=", "AABAQAAAAD8="] if form == "base64" else [[1.0, 0.5], [3.0, 0.5]])
    assert [one.index for one in answer.data] == [0, 1]
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (5, 5)


async def test_one_text_and_dimensions(api: Api, performer: ScriptedApps, client: openai.AsyncOpenAI) -> None:
    performer.script = lengths
    answer = await client.embeddings.create(model="acme/vectors", input="ab", dimensions=2)
    assert answer.data[0].embedding == [2.0, 0.5]
    assert performer.calls[0].request.input == {"texts": ["ab"], "dimensions": 2}


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"input": [[1, 2]]}, 400, "tokens are not offered"),
        ({"input": []}, 400, "1 to 2048"),
        ({"model": "acme/speaker", "input": "a"}, 400, "makes embeddings"),
        ({"model": "acme/none", "input": "a"}, 404, "stepwell app deploy"),
    ],
)
async def test_what_is_refused(
    api: Api, performer: ScriptedApps, client: openai.AsyncOpenAI, body: Any, status: int, text: str
) -> None:
    with pytest.raises(openai.APIStatusError, match=text) as caught:
        await client.embeddings.create(**{"model": "acme/vectors", **body})
    assert caught.value.status_code == status
    assert performer.calls == []


async def test_too_few_vectors(api: Api, performer: ScriptedApps, client: openai.AsyncOpenAI) -> None:
    async def few(call: Call) -> None:
        call.returned({"vectors": [[1.0]]})

    performer.script = few
    with pytest.raises(openai.InternalServerError, match="each of 2 texts"):
        await client.embeddings.create(model="acme/vectors", input=["a", "b"])


async def test_models(api: Api, client: openai.AsyncOpenAI) -> None:
    listed = [(one.id, one.owned_by) async for one in client.models.list()]
    assert listed == [
        ("acme/lines", "acme"),
        ("acme/secretive", "acme"),
        ("acme/speaker", "acme"),
        ("acme/vectors", "acme"),
        ("local/parrot", "local"),
    ]
    for name in ("acme/speaker", "parrot", "acme/speaker@v1"):
        assert (await client.models.retrieve(name)).id == name
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("acme/images")
