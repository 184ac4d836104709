"""A real server with apps whose calls a test answers, and OpenAI's own clients."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from stepwell.apps.base import Embeddings, LanguageModel
from stepwell.model.app import AppFunction, AppVersion, Needed
from tests.api.api import Api
from tests.api.conftest import Start
from tests.api.infsh.performing import ScriptedApps


def version(name: str, namespace: str = "acme", **details: Any) -> AppVersion:
    return AppVersion(namespace=namespace, name=name, version="v1", checksum=f"{namespace} {name}", **details)


def chat(name: str = "run", **properties: Any) -> AppFunction:
    schema = LanguageModel.Input.model_json_schema()
    return AppFunction(
        name=name,
        capabilities=("llm",),
        input_schema={**schema, "properties": {**schema["properties"], **properties}},
    )


@pytest.fixture
async def api(start: Start, data: Any) -> Api:
    """With language models `acme/speaker`, `local/parrot` (a plain one), `acme/secretive`, `acme/lines`, and
    `acme/vectors`."""
    api = await start(data=data)
    plain = {"run": AppFunction(name="run"), "talk": chat("talk")}
    short = AppFunction(name="run", capabilities=("llm",), input_schema={"properties": {"text": {}}})
    vectors = AppFunction(name="run", capabilities=("embeddings",), input_schema=Embeddings.Input.model_json_schema())
    for one in (
        version("speaker", functions={"run": chat(style={"type": "string"})}, description="Speaks"),
        version("parrot", "local", functions=plain),
        version("secretive", functions={"run": chat()}, secrets=(Needed(key="KEY"),)),
        version("lines", functions={"run": short}),
        version("vectors", functions={"run": vectors}),
        version("images", functions={"run": AppFunction(name="run")}),
    ):
        await api.server.node.apps.add(one)
    return api


@pytest.fixture
def performer(api: Api) -> ScriptedApps:
    return ScriptedApps(*api.servers)


@pytest.fixture
async def client(api: Api) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{api.port}/v1", api_key="none", max_retries=0) as client:
        yield client
