"""What is published of an answer while it comes: all of it, once, and no credential."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from stepwell.gateway.gateway import GatewaySettings, HttpGateway
from stepwell.model.ids import RunId, StepId
from stepwell.model.offload import INFER
from stepwell.model.stream import Piece
from stepwell.testing.provider import Provider, call, drop, fail, held, raw, say
from stepwell.wire.models.dialect import Usage
from stepwell.wire.offload import infer_request
from tests.gateway.errands import RUN, STEP, Asking, output_of
from tests.gateway.test_infer import ANTHROPIC, DIALECTS, KEY


class Published:
    """Keeps what is published, with the time of each, and what was void."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.times: list[float] = []
        self.voided = 0
        self.something = asyncio.Event()

    def publish(self, run: RunId, step: StepId, name: str, pieces: Sequence[Piece]) -> None:
        assert (run, step, name) == (RUN, STEP, "summarize")
        self.pieces += pieces
        self.times.append(time.monotonic())
        self.something.set()

    def void(self, run: RunId, step: StepId, name: str) -> None:
        assert (run, step, name) == (RUN, STEP, "summarize")
        self.voided += bool(self.pieces)
        self.pieces.clear()

    def text(self, kind: str = "text", index: int | None = None) -> str:
        return "".join(one.text for one in self.pieces if one.kind == kind and index in (None, one.index))

    @property
    def kinds(self) -> set[str]:
        return {one.kind for one in self.pieces}


class LiveAsking(Asking):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.published = Published()
        settings = {"allow_loopback": True} | settings
        self.gateway = HttpGateway(self._deliver, GatewaySettings(**settings), publisher=self.published)

    def begin(self, request: bytes, sealed: Any, **more: Any) -> Any:
        return super().begin(request, sealed, name="summarize", **more)


@pytest.fixture
async def asking() -> AsyncIterator[LiveAsking]:
    asking = LiveAsking()
    yield asking
    await asking.gateway.close()


@pytest.fixture
def published(asking: LiveAsking) -> Published:
    return asking.published


@pytest.mark.parametrize("format", DIALECTS)
async def test_every_dialect_is_published_to_its_last_word_and_what_it_used(
    format: str, asking: LiveAsking, published: Published, provider: Provider
) -> None:
    path, body = DIALECTS[format]
    calls = [call("weather", {"city": "Ulm"}), call("time", {"zone": "CET"})]
    usage = Usage(input_tokens=12, output_tokens=34)
    provider.answer(say("Guten Morgen, schöne Welt 😀", tool_calls=calls, usage=usage, pause_s=0.002, chunk_bytes=50))
    ended = await asking.infer(provider.url + path, format=format, body=body, auth_key=KEY, stream=True)
    assert ended.output is not None
    assert published.text() == "Guten Morgen, schöne Welt 😀"
    assert [one.more["tool"] for one in published.pieces if one.kind == "tool_call"] == ["weather", "time"]
    begun = [one.index for one in published.pieces if one.kind == "tool_call"]
    assert [json.loads(published.text("tool_arguments", index)) for index in begun] == [
        {"city": "Ulm"},
        {"zone": "CET"},
    ]
    last = published.pieces[-1]
    assert last.kind == "usage"
    assert (last.more["input_tokens"], last.more["output_tokens"]) == (12, 34)
    assert float(last.more["cost_usd"]) > 0
    assert published.voided == 0


async def test_thoughts_and_refusals_are_told_apart_from_words(
    asking: LiveAsking, published: Published, provider: Provider
) -> None:
    provider.answer(say("No.", reasoning="Should I? I should not."))
    await asking.infer(f"{provider.url}/v1/messages", format="anthropic", body=ANTHROPIC, stream=True)
    assert published.text("reasoning") == "Should I? I should not."
    assert published.text() == "No."
    published.pieces.clear()
    provider.answer(say(refusal="I will not."))
    await asking.infer(f"{provider.url}/v1/chat/completions", stream=True)
    assert published.text("refusal") == "I will not."


async def test_nothing_is_published_of_what_nobody_asked_to_see(
    asking: LiveAsking, published: Published, provider: Provider
) -> None:
    provider.answer(say("Hello"))
    await asking.infer(f"{provider.url}/v1/chat/completions")
    assert published.pieces == []


async def test_a_caller_who_asks_the_provider_for_a_stream_has_it_published(
    asking: LiveAsking, published: Published, provider: Provider
) -> None:
    provider.answer(say("Hello"))
    path, body = DIALECTS["openai-chat"]
    ended = await asking.infer(provider.url + path, body={**body, "stream": True})
    assert output_of(ended)["object"] == "chat.completion"
    assert published.text() == "Hello"


async def test_the_first_word_is_out_long_before_the_last(
    asking: LiveAsking, published: Published, provider: Provider
) -> None:
    provider.answer(say(["one ", "two ", "three"], pause_s=0.15))
    request, sealed = infer_request(
        f"{provider.url}/v1/chat/completions", format="openai-chat", headers={}, body=DIALECTS["openai-chat"][1],
        stream=True,
    )  # fmt: skip
    asking.begin(request, sealed, kind=INFER)
    await asyncio.wait_for(published.something.wait(), 5)
    assert published.text() == "one "
    assert asking.nothing_came()
    await asking.end()
    assert published.text() == "one two three"


async def test_words_that_come_quickly_are_published_together(
    asking: LiveAsking, published: Published, provider: Provider
) -> None:
    words = [f"word{number} " for number in range(200)]
    provider.answer(say(words, pause_s=0.001))
    await asking.infer(f"{provider.url}/v1/chat/completions", stream=True)
    assert published.text() == "".join(words)
    took = published.times[-1] - published.times[0]
    assert len(published.times) <= took / 0.020 + 3
    assert len(published.times) < 100


async def test_the_end_is_not_waited_with(asking: LiveAsking, provider: Provider) -> None:
    took = []
    for _ in range(5):
        provider.answer(say("Hello there"))
        ended = await asking.infer(f"{provider.url}/v1/chat/completions", stream=True)
        took.append(ended.exchange.duration_ms)
    assert min(took) < 18


async def test_an_answer_that_came_whole_is_published_whole(
    asking: LiveAsking, published: Published, provider: Provider
) -> None:
    refuses = fail(400, "streaming is not supported with this model", code="unsupported_value")
    provider.answer(refuses, say("Hello", tool_calls=[call("weather", {"city": "Ulm"})]))
    path, body = DIALECTS["openai-chat"]
    ended = await asking.infer(provider.url + path, body={**body, "modalities": ["audio"]}, stream=True)
    if ended.output is None:  # this model takes no such refusal for one of streaming
        ended = await asking.infer(provider.url + path, body={**body, "modalities": ["audio"]}, stream=True)
    assert published.text() == "Hello"
    assert published.kinds == {"text", "tool_call", "tool_arguments", "usage"}


@pytest.mark.parametrize(
    "answer",
    [
        say("one two three", pause_s=0.03, cut_after=3),
        say("one two three", pause_s=0.03, error_after=2, error=fail(500, "overloaded")),
        say("one two three", pause_s=0.03, malformed_after=2),
    ],
    ids=["cut", "error", "malformed"],
)
async def test_what_was_published_of_an_answer_that_never_came_whole_is_void(
    answer: Any, asking: LiveAsking, published: Published, provider: Provider
) -> None:
    provider.answer(answer)
    ended = await asking.infer(f"{provider.url}/v1/chat/completions", stream=True)
    assert ended.error is not None
    assert published.pieces == []
    assert published.voided == 1


async def test_what_was_published_before_the_time_was_over_is_void(provider: Provider) -> None:
    asking = LiveAsking(timeout_s=0.3)
    provider.answer(say(["one ", "two"], pause_s=0.2))
    ended = await asking.infer(f"{provider.url}/v1/chat/completions", stream=True)
    await asking.gateway.close()
    assert ended.error is not None
    assert (asking.published.pieces, asking.published.voided) == ([], 1)


async def test_a_request_that_fails_before_any_word_makes_nothing_void(
    asking: LiveAsking, published: Published, provider: Provider
) -> None:
    for reply in (fail(503), drop()):
        provider.answer(reply)
        assert (await asking.infer(f"{provider.url}/v1/chat/completions", stream=True)).error is not None
    assert (published.pieces, published.voided) == ([], 0)


async def test_a_request_that_is_made_again_begins_anew(
    asking: LiveAsking, published: Published, provider: Provider
) -> None:
    provider.answer(held(say("never")), say("whole"))
    request, sealed = infer_request(
        f"{provider.url}/v1/chat/completions", format="openai-chat", headers={}, body=DIALECTS["openai-chat"][1],
        stream=True,
    )  # fmt: skip
    published.pieces.append(Piece(text="of another server"))
    asking.begin(request, sealed, kind=INFER)
    await asyncio.to_thread(provider.wait, 1)
    assert (published.pieces, published.voided) == ([], 1)
    asking.begin(request, sealed, kind=INFER)  # by a job that somebody else made
    await asking.end()
    assert published.text() == "whole"


async def test_a_key_that_a_model_repeats_is_in_no_piece_however_it_is_cut(
    asking: LiveAsking, published: Published, provider: Provider
) -> None:
    pieces = ["the key is ", KEY[:4], KEY[4:9], KEY[9:], " and sk-", "can is not, nor s"]
    provider.answer(say(pieces, pause_s=0.03))
    await asking.infer(f"{provider.url}/v1/chat/completions", auth_key=KEY, stream=True)
    assert KEY not in published.text()
    assert published.text().startswith("the key is ")
    assert published.text().endswith(" and sk-can is not, nor s")


async def test_a_key_within_the_arguments_or_the_name_of_a_tool_is_in_no_piece(
    asking: LiveAsking, published: Published, provider: Provider
) -> None:
    provider.answer(say(tool_calls=[call(KEY, {"key": KEY})]))
    await asking.infer(f"{provider.url}/v1/chat/completions", auth_key=KEY, stream=True)
    assert KEY not in str(published.pieces)
    assert {"tool_call", "tool_arguments"} <= published.kinds


async def test_what_a_library_asked_to_stream_is_published_and_handed_on_as_it_is(
    asking: LiveAsking, published: Published, provider: Provider
) -> None:
    path, body = DIALECTS["openai-chat"]
    provider.answer(say("one two three", usage=Usage(input_tokens=12, output_tokens=34)))
    whole = {**body, "stream": True, "stream_options": {"include_usage": True}}
    ended = await asking.fetch(
        provider.url + path,
        method="POST",
        headers={"content-type": "application/json", "authorization": f"Bearer {KEY}"},
        body=json.dumps(whole).encode(),
        exact=True,
    )
    assert "data: [DONE]" in output_of(ended)["body"]
    assert published.text() == "one two three"
    assert published.pieces[-1].more["output_tokens"] == 34
    assert ended.exchange.output_tokens == 34


async def test_what_a_library_asked_to_have_whole_is_not_published(
    asking: LiveAsking, published: Published, provider: Provider
) -> None:
    path, body = DIALECTS["openai-chat"]
    provider.answer(say("one two three"))
    ended = await asking.fetch(provider.url + path, method="POST", body=json.dumps(body).encode(), exact=True)
    assert ended.output is not None
    assert published.pieces == []


async def test_a_stream_that_cannot_be_read_is_handed_on_all_the_same(
    asking: LiveAsking, published: Published, provider: Provider
) -> None:
    path, body = DIALECTS["openai-chat"]
    text = b'data: {"choices": 5}\n\ndata: nonsense\n\ndata: more\n\n'
    provider.answer(raw(text, headers={"content-type": "text/event-stream"}))
    ended = await asking.fetch(provider.url + path, method="POST", body=json.dumps(body).encode(), exact=True)
    assert output_of(ended)["body"] == text.decode()
    assert published.text() == ""
