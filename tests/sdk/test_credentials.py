"""Credentials that the server keeps, as functions name them: no key is needed here, and none travels."""

from __future__ import annotations

from typing import Any

import openai
import pytest

import stepwell
from stepwell import ai, http
from stepwell.model.op import Offload
from stepwell.model.payload import decode
from stepwell.sdk.ai import infer_step
from stepwell.sdk.errors import DefinitionError
from stepwell.testing import run
from tests.sdk.test_transport import COMPLETIONS, QUESTION, completion

MAKERS: list[Any] = [ai.openai, ai.openai_responses, ai.anthropic, ai.gemini, ai.grok, ai.deepseek]
KEY = "sk-canary-0123456789"


@pytest.mark.parametrize("make", MAKERS)
def test_a_model_with_a_credential_needs_no_key_and_takes_none_from_the_environment(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI", "ANTHROPIC", "GEMINI", "XAI", "DEEPSEEK"):
        monkeypatch.setenv(f"{name}_API_KEY", KEY)
    asked(make("some-model", credential="team.openai-1"))
    with pytest.raises(DefinitionError, match="has api_key= and credential=; give only one"):
        make("some-model", credential="openai", api_key="x")


def test_the_other_two_take_one_as_well() -> None:
    asked(ai.azure_openai("d", endpoint="https://a.openai.azure.com", credential="team.openai-1"))
    asked(ai.other("m", url="https://example.com/v1/chat/completions", credential="team.openai-1"))


def asked(model: ai.Model) -> None:
    make = infer_step("ask", model=model, body={"messages": []}, output=None, timeout=None).waiting
    assert make is not None
    op = make("s", "ask", 0)  # type: ignore[arg-type]
    assert isinstance(op, Offload)
    assert isinstance(op.request, bytes)
    assert op.sealed is None
    assert decode(op.request)["credential"] == "team.openai-1"
    assert KEY not in str(op)


@pytest.mark.parametrize("name", ["", "-x", "a b", "x" * 65, KEY + "/+"])
def test_what_cannot_be_a_name_is_refused_and_not_shown(name: str) -> None:
    for refused in (
        lambda: ai.openai("m", credential=name),
        lambda: http.client(credential=name),
        lambda: http.AsyncTransport(credential=name),
    ):
        with pytest.raises(DefinitionError, match="the name of a credential has up to 64") as error:
            refused()
        assert KEY not in str(error.value)


def test_a_client_has_one_place_for_its_credential() -> None:
    with pytest.raises(DefinitionError, match="setting of the transport"):
        http.client(credential="openai", transport=http.Transport())
    with pytest.raises(DefinitionError, match="setting of the transport"):
        http.async_client(credential="openai", transport=http.AsyncTransport())


def test_a_fetch_names_one() -> None:
    seen: list[Any] = []

    @stepwell.Service("desk").function(on="a/b")
    async def fetching(ctx: stepwell.Context[Any]) -> Any:
        response = await ctx.step.fetch("rates", "https://api.example.com/rates", credential="rates")
        return response.json()

    def answer(request: dict[str, Any]) -> Any:
        seen.append(request)
        return {"eur": 1}

    run(fetching, steps={"rates": answer})
    (request,) = seen
    assert request["credential"] == "rates"
    assert "***" not in str(request)


def test_a_plain_function_names_one_too_and_not_beside_auth() -> None:
    @stepwell.Service("desk").function(on="a/b")
    def fetching(ctx: stepwell.SyncContext[Any]) -> Any:
        return ctx.step.fetch("rates", "https://api.example.com/", auth=("ann", "secret"), credential="rates").text

    assert "auth= and credential=; give only one" in str(run(fetching).error)


def test_a_library_s_own_key_is_left_out() -> None:
    seen: list[Any] = []

    @stepwell.Service("desk").function(on="a/b")
    async def asking(ctx: stepwell.Context[Any]) -> Any:
        client = openai.AsyncOpenAI(
            api_key=KEY,
            base_url="https://api.example.com/v1",
            http_client=http.async_client(credential="openai"),
            max_retries=0,
        )
        return (await client.chat.completions.create(model="gpt-4o", messages=QUESTION)).choices[0].message.content

    def answer(request: dict[str, Any]) -> Any:
        seen.append(request)
        return completion()

    finished = run(asking, steps={COMPLETIONS: answer})
    assert finished.output == "Because."
    (request,) = seen
    assert request["credential"] == "openai"
    assert "***" not in str(request["headers"])  # so that the server can make it without the function
    assert "authorization" not in {name.lower() for name in request["headers"]}
