"""`step.fetch` and `step.ai.infer` in functions that are tested in memory, and what is refused before it is sent."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

import httpx2
import pytest

import stepwell
from stepwell import ai
from stepwell.model.payload import decode
from stepwell.sdk.ai import infer_step
from stepwell.sdk.client.address import bearer
from stepwell.sdk.errors import DefinitionError
from stepwell.sdk.request import Body
from stepwell.testing import NotAnswered, run

service = stepwell.Service("desk")
MODEL = ai.openai("gpt-4o-mini", api_key="sk-canary-1234567890")
CANARY = "canary-1234567890"


@dataclass
class Summary:
    title: str
    urgency: Literal["low", "high"]


@service.function(on="desk/ticket")
async def summarize(ctx: stepwell.Context[Any]) -> list[Any]:
    reply, rates = await asyncio.gather(
        ctx.step.ai.infer("summarize", model=MODEL, body={"messages": []}, output=Summary),
        ctx.step.fetch("rates", "https://api.example.com/rates", headers={"X-Key": CANARY}),
    )
    await ctx.step.sleep("cool-off", "1h")
    return [reply.output.urgency, rates.status_code, rates.json(), rates.headers["x-one"]]


ANSWERS: dict[str, Any] = {
    "summarize": Summary("Fire", "high"),
    "rates": httpx2.Response(201, json={"eur": 1}, headers={"X-One": "1"}),
}


@pytest.mark.parametrize("crashing", [False, True])
def test_a_test_gives_the_answers(crashing: bool) -> None:
    finished = run(summarize, steps=ANSWERS, crash_after_each_step=crashing)

    assert finished.output == ["high", 201, {"eur": 1}, "1"]
    assert finished.steps["summarize"].output.text == '{"title":"Fire","urgency":"high"}'
    assert finished.steps["rates"].attempts == 1


def test_an_answer_that_is_missing_is_asked_for() -> None:
    with pytest.raises(NotAnswered, match=r"step 'summarize' asks a model; give steps=\{'summarize': "):
        run(summarize)


def test_an_answer_may_depend_on_the_request_or_be_a_failure() -> None:
    def refuse(request: dict[str, Any]) -> None:
        assert request["format"] == "openai-chat"
        assert CANARY not in str(request)
        raise ValueError("no such model")

    finished = run(summarize, steps={**ANSWERS, "summarize": refuse})
    assert "no such model" in str(finished.error)


def test_a_key_is_asked_for_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, make in {
        "OPENAI_API_KEY": ai.openai,
        "ANTHROPIC_API_KEY": ai.anthropic,
        "GEMINI_API_KEY": ai.gemini,
        "XAI_API_KEY": ai.grok,
        "DEEPSEEK_API_KEY": ai.deepseek,
    }.items():
        monkeypatch.delenv(variable, raising=False)
        with pytest.raises(DefinitionError, match=f"set {variable}"):
            make("some-model")
        monkeypatch.setenv(variable, "from-the-environment")
        assert make("some-model").api_key == "from-the-environment"


def test_a_model_shows_no_key() -> None:
    model = ai.openai("gpt-4o", api_key=CANARY, headers={"X-Other": CANARY})
    assert CANARY not in repr(model)
    op = infer_step("ask", model=model, body={}, output=None, timeout="30s").waiting
    assert op is not None
    assert CANARY not in repr(op("s", "ask", 0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "member"),
    [
        (ai.openai("m", api_key="k"), "response_format"),
        (ai.openai_responses("m", api_key="k"), "text"),
        (ai.gemini("m", api_key="k"), "generationConfig"),
        (ai.azure_openai("m", endpoint="https://a.openai.azure.com", api_key="k"), "response_format"),
        (ai.anthropic("m", api_key="k"), None),
    ],
)
def test_the_schema_of_the_output_is_sent_where_the_provider_takes_one(model: ai.Model, member: str | None) -> None:
    make = infer_step("ask", model=model, body={"messages": []}, output=Summary, timeout=None).waiting
    assert make is not None
    body = decode(make("s", "ask", 0).request)["body"]  # type: ignore[arg-type, union-attr]
    assert ("urgency" in str(body)) is (member is not None)
    assert member is None or member in body


def test_a_model_of_ones_own_is_at_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "signkey-test-" + "ab" * 32
    monkeypatch.setenv("STEPWELL_URL", "https://one.example.com/, https://two.example.com")
    monkeypatch.setenv("STEPWELL_API_KEY", key)
    model = ai.app("acme/speaker")
    assert (model.url, model.name) == ("https://one.example.com/v1/chat/completions", "acme/speaker")
    assert f"Bearer {model.api_key}" == bearer(key)  # not the key itself
    kept = ai.app("acme/speaker", url="http://localhost:9", credential="own")
    assert (kept.url, kept.api_key, kept.credential) == ("http://localhost:9/v1/chat/completions", "", "own")
    with pytest.raises(DefinitionError, match="only one"):
        ai.app("acme/speaker", api_key="k", credential="own")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"url": "/relative"}, "needs a whole address"),
    ({"url": "ftp://example.com/"}, "needs a whole address"),
    ({"url": "https://example.com/", "json": object()}, "cannot make this request"),
    ({"url": "https://example.com/", "timeout": -1}, "cannot be negative"),
    ({"url": "https://example.com/", "timeout": 0}, "longer than nothing"),
    ({"url": "https://example.com/", "timeout": "soon"}, "soon"),
    ({"url": "https://example.com/", "content": b"x" * 9_000_000}, "8 MiB"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_a_request_that_cannot_be_made_is_refused_where_it_is_written(arguments: dict[str, Any], message: str) -> None:
    told = dict(arguments)
    url = told.pop("url")

    @stepwell.Service("refusing").function(on="a/b")
    async def refusing(ctx: stepwell.Context[Any]) -> None:
        await ctx.step.fetch("one", url, **told)

    finished = run(refusing)
    assert message in str(finished.error)


def test_files_are_sent_the_same_on_every_replay() -> None:
    texts = []
    for _ in range(2):
        from stepwell.sdk.fetch import RETRIED_STATUSES, fetch_step

        request = fetch_step(
            "up", "https://example.com/", method="POST", params=None, headers=None, cookies=None, content=None,
            data={"a": "b"}, files={"f": b"bytes"}, json=None, auth=("ann", "secret"), timeout=None,
            follow_redirects=False, retry_statuses=RETRIED_STATUSES,
        )  # fmt: skip
        assert request.waiting is not None
        texts.append(request.waiting("s", "up", 0))  # type: ignore[arg-type]
    assert texts[0] == texts[1]


# arguments of steps, as they are recorded


class Opaque:
    """What JSON does not have."""


def called(client: Any, question: str = "", *rest: Any, limit: int = 0) -> None:
    """A callable to be wrapped."""


@pytest.mark.parametrize(
    ("arguments", "options", "blocked"),
    [
        ((Opaque(), "why"), {}, "its argument 'client' is of the type Opaque and has no JSON form"),
        (("c", Opaque()), {}, "its argument 'question' is of the type Opaque"),
        (("c", "q", Opaque()), {}, "its argument 'number 3' is of the type Opaque"),
        (("c",), {"limit": Opaque()}, "its argument 'limit' is of the type Opaque"),
        (("x" * 20_000,), {}, "its arguments have 20004 bytes as JSON, and are recorded up to 16384"),
    ],
)
def test_what_keeps_arguments_from_being_recorded_is_named(
    arguments: tuple[Any, ...], options: dict[str, Any], blocked: str
) -> None:
    given, reason = Body(called, arguments, options).shown_input()
    assert given is None
    assert reason.startswith(blocked)


def test_what_blocks_an_argument_does_not_show_it() -> None:
    class Keeper(Opaque):
        def __repr__(self) -> str:
            return CANARY

    _, reason = Body(called, ({"key": Keeper()}, CANARY)).shown_input()
    assert "'client' is of the type dict" in reason
    assert CANARY not in reason


def test_arguments_of_wrapped_calls_may_be_longer() -> None:
    given, reason = Body(called, ("x" * 20_000,), kind="step.ai.wrap").shown_input()
    assert (len(given or b""), reason) == (20_004, "")


def test_a_step_without_arguments_has_nothing_to_record() -> None:
    assert Body(called).shown_input() == (None, "")
