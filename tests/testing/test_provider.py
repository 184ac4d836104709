"""The stand-in for providers does what a test tells it."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from stepwell.testing.provider import Asked, Provider, Reply, call, drop, fail, held, raw, say
from stepwell.wire.models import dialect_for
from stepwell.wire.models.credentials import take_out
from stepwell.wire.models.dialect import Answered, Usage
from stepwell.wire.models.errors import AnswerMalformed, StreamCut, StreamFailed

CHAT = "/v1/chat/completions"
MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
HI: dict[str, Any] = {"model": "gpt-4o", "messages": MESSAGES}
WORDS = "Grüße, 世界 🎉!"
PATHS = {
    "openai-chat": CHAT,
    "openai-responses": "/v1/responses",
    "anthropic": "/v1/messages",
    "gemini": "/v1beta/models/gemini-2.5-flash:generateContent",
    "grok": "/grok/v1/chat/completions",
    "azure-openai": "/openai/deployments/chat/chat/completions?api-version=2024-10-21",
}


@pytest.fixture
async def client(provider: Provider) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=provider.url, timeout=10) as client:
        yield client


async def ask(provider: Provider, format: str, *, stream: bool) -> Answered:
    """Ask as the gateway does: a request of our dialect over a real connection, the answer read as it comes."""
    url, headers, credentials = take_out(provider.url + PATHS[format], {}, auth_key="test-key")
    dialect = dialect_for(format, url)
    request = dialect.request(
        url, headers=headers, body=json.dumps(HI).encode(), credentials=credentials, stream=stream
    )
    async with httpx2.AsyncClient(timeout=10) as client:
        async with client.stream("POST", request.url, headers=request.headers, content=request.body) as response:
            assert response.status_code == 200
            reader = dialect.reader(response.headers["content-type"], limit_bytes=1 << 20)
            async for chunk in response.aiter_raw():
                reader.feed(chunk)
    return reader.finish()


@pytest.mark.parametrize("format", PATHS)
async def test_every_dialect_answers_alike_streamed_and_plain(provider: Provider, format: str) -> None:
    used = Usage(input_tokens=50, output_tokens=20, cached_read_tokens=10, reasoning_tokens=4)
    provider.answer(say(WORDS, reasoning="Hm, ja.", tool_calls=[call("weather", {"city": "Oslo"})], usage=used))
    plain = (await ask(provider, format, stream=False)).answer
    streamed = (await ask(provider, format, stream=True)).answer

    assert (plain.text, plain.reasoning, plain.usage) == (WORDS, "Hm, ja.", used)
    assert (streamed.text, streamed.tool_calls[0].arguments, streamed.usage) == (WORDS, '{"city":"Oslo"}', used)
    assert [asked.streamed for asked in provider.calls] == [False, True]
    assert {asked.dialect for asked in provider.calls} == {format}


async def test_it_remembers_what_it_was_asked(provider: Provider, client: httpx2.AsyncClient) -> None:
    await client.post(CHAT, json=HI, headers={"X-Own": "1"}, params={"a": "b"})
    await client.get("/http/echo")
    (asked,) = provider.calls
    assert (asked.number, asked.method, asked.path, asked.query, asked.answered) == (1, "POST", CHAT, "a=b", True)
    assert asked.headers["x-own"] == "1"
    assert asked.json == HI
    assert [each.dialect for each in provider.requests] == ["openai-chat", "http"]


async def test_replies_come_in_order_and_the_last_one_stays(provider: Provider, client: httpx2.AsyncClient) -> None:
    provider.answer(fail(429, retry_after_s=2), say("one"), say("two"))
    statuses, texts = [], []
    for _ in range(4):
        response = await client.post(CHAT, json=HI)
        statuses.append(response.status_code)
        texts.append(response.json().get("choices", [{}])[0].get("message", {}).get("content"))
    assert statuses == [429, 200, 200, 200]
    assert texts == [None, "one", "two", "two"]


async def test_a_function_of_the_request_is_a_reply(provider: Provider, client: httpx2.AsyncClient) -> None:
    def reply(asked: Asked) -> Reply:
        return say(asked.json["messages"][0]["content"].upper())

    provider.answer(reply)
    assert (await client.post(CHAT, json=HI)).json()["choices"][0]["message"]["content"] == "HI"


async def test_errors_have_the_form_of_the_provider(client: httpx2.AsyncClient, provider: Provider) -> None:
    provider.answer(fail(429, "slow down", retry_after_s=1.5, limits={"requests": (10, 0, 30)}))
    openai = await client.post(CHAT, json=HI)
    anthropic = await client.post(PATHS["anthropic"], json=HI)
    gemini = await client.post(PATHS["gemini"], json={})

    assert openai.json()["error"]["message"] == "slow down"
    assert (openai.headers["retry-after"], openai.headers["x-ratelimit-remaining-requests"]) == ("1.5", "0")
    assert anthropic.json()["error"] == {"type": "rate_limit_error", "message": "slow down"}
    assert anthropic.headers["anthropic-ratelimit-requests-limit"] == "10"
    assert gemini.json()["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert gemini.json()["error"]["details"][0]["retryDelay"] == "1.5s"


@pytest.mark.parametrize("format", PATHS)
async def test_streams_break_where_they_are_told_to(provider: Provider, format: str) -> None:
    words = say(["one", " two", " three", " four"])
    provider.answer(say(words.pieces, cut_after=2, cut_cleanly=True))
    with pytest.raises(StreamCut):
        await ask(provider, format, stream=True)
    provider.answer(say(words.pieces, cut_after=2))
    with pytest.raises(httpx2.TransportError):
        await ask(provider, format, stream=True)
    provider.answer(say(words.pieces, malformed_after=2))
    with pytest.raises(AnswerMalformed):
        await ask(provider, format, stream=True)
    provider.answer(say(words.pieces, error_after=2, error=fail(503, "gone")))
    with pytest.raises(StreamFailed, match="gone"):
        await ask(provider, format, stream=True)
    assert [asked.abandoned for asked in provider.calls] == [False] * 4


async def test_a_connection_can_be_dropped_and_the_next_request_is_answered(
    provider: Provider, client: httpx2.AsyncClient
) -> None:
    provider.answer(drop(), say("ok"))
    with pytest.raises(httpx2.TransportError):
        await client.post(CHAT, json=HI)
    assert (await client.post(CHAT, json=HI)).status_code == 200


async def test_pieces_come_at_the_chosen_pace(provider: Provider, client: httpx2.AsyncClient) -> None:
    provider.answer(say(["a", "b"], delay_s=0.2, pause_s=0.1))
    started, times = time.monotonic(), []
    async with client.stream("POST", CHAT, json={**HI, "stream": True}) as response:
        times.append(time.monotonic() - started)
        async for _ in response.aiter_raw():
            times.append(time.monotonic() - started)
    assert times[0] >= 0.2
    assert times[-1] - times[0] >= 0.4  # five events: role, a, b, end, mark
    assert len(times) > 4


async def test_a_stream_can_come_in_bytes(provider: Provider) -> None:
    provider.answer(say(WORDS, chunk_bytes=3))
    assert (await ask(provider, "openai-chat", stream=True)).answer.text == WORDS


async def test_answers_wait_until_they_are_released(provider: Provider, client: httpx2.AsyncClient) -> None:
    provider.answer(held(say("late")))
    asking = [asyncio.ensure_future(client.post(CHAT, json=HI)) for _ in range(3)]
    await provider.asked(3)
    await asyncio.sleep(0.1)
    assert not any(each.done() for each in asking)
    assert provider.most_in_flight == 3

    provider.release(2)
    done, _ = await asyncio.wait(asking, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert done
    provider.release()
    assert [(await each).status_code for each in asking] == [200, 200, 200]


async def test_it_sees_that_a_caller_went_away(provider: Provider, client: httpx2.AsyncClient) -> None:
    provider.answer(held(say("late")))
    with pytest.raises(httpx2.TimeoutException):
        await client.post(CHAT, json=HI, timeout=0.2)
    for _ in range(100):
        if provider.calls[0].abandoned:
            break
        await asyncio.sleep(0.02)
    assert provider.calls[0].abandoned
    assert not provider.calls[0].answered


async def test_raw_bytes_are_sent_as_they_are(provider: Provider, client: httpx2.AsyncClient) -> None:
    provider.answer(raw(b"<html>\xff", status=502, headers={"content-type": "text/html", "x-own": "1"}))
    response = await client.post(CHAT, json=HI)
    assert (response.status_code, response.content) == (502, b"<html>\xff")
    assert (response.headers["content-type"], response.headers["x-own"]) == ("text/html", "1")


def test_it_serves_plain_functions_too_and_says_what_did_not_come() -> None:
    with Provider(say("Hello")) as provider:
        assert httpx2.post(provider.url + CHAT, json=HI).json()["choices"][0]["message"]["content"] == "Hello"
        assert len(provider.wait(1)) == 1
        with pytest.raises(TimeoutError, match=r"1 of 2 requests came within 0\.1 s"):
            provider.wait(2, timeout_s=0.1)
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(provider.url)


class TestOnItsOwn:
    """What it answers when no script was given."""

    SCHEMA = {
        "type": "object",
        "properties": {
            "name": {"$ref": "#/$defs/name"},
            "kind": {"enum": ["a", "b"]},
            "sizes": {"type": "array", "items": {"type": "integer"}},
            "note": {"anyOf": [{"type": "null"}, {"type": "string"}]},
        },
        "$defs": {"name": {"type": "string"}},
    }
    FILLED = {"name": "example", "kind": "a", "sizes": [1], "note": None}

    @pytest.mark.parametrize("format", PATHS)
    async def test_it_repeats_what_the_user_said(
        self, provider: Provider, client: httpx2.AsyncClient, format: str
    ) -> None:
        said = {
            "messages": [{"role": "user", "content": "Hi"}],
            "input": "Hi",
            "contents": [{"parts": [{"text": "Hi"}]}],
        }
        response = await client.post(PATHS[format], json=said)
        assert dialect_for(format, "").answer(response.json()).text == "You said: Hi"

    async def test_it_fills_a_schema(self, client: httpx2.AsyncClient) -> None:
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": self.SCHEMA}}
        response = await client.post(CHAT, json={**HI, "response_format": wanted})
        assert json.loads(response.json()["choices"][0]["message"]["content"]) == self.FILLED

    async def test_it_calls_the_tool_that_it_must_call_once(self, client: httpx2.AsyncClient) -> None:
        function = {"type": "function", "function": {"name": "save", "parameters": self.SCHEMA}}
        request = {**HI, "tools": [function], "tool_choice": "required"}
        message = (await client.post(CHAT, json=request)).json()["choices"][0]["message"]
        assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == self.FILLED

        answered = [*MESSAGES, message, {"role": "tool", "tool_call_id": "c", "content": "saved"}]
        again = await client.post(CHAT, json={**request, "messages": answered})
        assert again.json()["choices"][0]["message"]["content"] == "You said: saved"


class TestPlainPages:
    async def test_echo_of_text_and_of_bytes(self, client: httpx2.AsyncClient) -> None:
        text = (await client.put("/http/echo?a=1", content="ü", headers={"X-A": "1"})).json()
        assert (text["method"], text["text"]) == ("PUT", "ü")
        assert text["url"].endswith("/http/echo?a=1")
        assert ["x-a", "1"] in text["headers"]
        assert (await client.post("/http/echo", content=b"\xff")).json()["base64"] == "/w=="

    async def test_redirects(self, client: httpx2.AsyncClient) -> None:
        first = await client.get("/http/redirect/2")
        assert (first.status_code, first.headers["location"]) == (302, "/http/redirect/1?status=302")
        last = await client.post("/http/redirect/3?status=307", content="kept", follow_redirects=True)
        assert (last.json()["text"], len(last.history)) == ("kept", 3)
        away = await client.get("/http/redirect-to", params={"url": "http://other.example/"})
        assert away.headers["location"] == "http://other.example/"

    async def test_bodies_of_many_kinds(self, client: httpx2.AsyncClient) -> None:
        big = await client.get("/http/bytes/100000?piece=1000")
        assert big.content == bytes(range(256)) * 390 + bytes(range(160))
        assert big.headers["content-length"] == "100000"
        chunked = await client.get("/http/bytes/1000?length=no")
        assert "content-length" not in chunked.headers
        assert len(chunked.content) == 1000
        assert (await client.get("/http/gzip/100000")).content == bytes(100000)
        assert (await client.get("/http/slow?pieces=3&pause_s=0.01")).text == "piece 0\npiece 1\npiece 2\n"

    async def test_a_body_without_end(self, client: httpx2.AsyncClient) -> None:
        received = 0
        async with client.stream("GET", "/http/endless") as response:
            async for chunk in response.aiter_raw():
                received += len(chunk)
                if received > 1_000_000:
                    break
        assert received > 1_000_000

    async def test_statuses_headers_cookies_and_failures(self, client: httpx2.AsyncClient) -> None:
        assert (await client.get("/http/status/404?body=no")).text == "no"
        assert (await client.get("/http/status/204")).content == b""
        assert len((await client.get("/http/headers?count=50&size=100")).headers["x-header-49"]) == 100
        await client.get("/http/cookies/set?a=1&b=2")
        assert (await client.get("/http/cookies")).json() == {"a": "1", "b": "2"}
        assert [(await client.get("/http/flaky/2?key=k")).status_code for _ in range(3)] == [503, 503, 200]
        assert (await client.get("/http/nothing")).status_code == 404
        with pytest.raises(httpx2.TransportError):
            await client.get("/http/drop")


@pytest.mark.slow
def test_it_runs_alone() -> None:
    command = [sys.executable, "-u", "-m", "stepwell.testing.provider"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split(" at ")[1].split(". ")[0]
            assert httpx2.post(url + CHAT, json=HI).json()["choices"][0]["message"]["content"] == "You said: Hi"
        finally:
            process.terminate()
