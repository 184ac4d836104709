"""What `step.ai.infer` gets, from providers of every dialect."""

import asyncio
import json
from typing import Any

import pytest

from stepwell.model.offload import INFER
from stepwell.testing.provider import Asked, Provider, Reply, call, drop, fail, held, raw, say
from stepwell.wire.models.dialect import Usage
from stepwell.wire.offload import infer_request
from tests.gateway.errands import HELLO, STEP, Asking, error_of, output_of

JSON = {"content-type": "application/json"}
KEY = "sk-canary-73b1c0ffee"

GEMINI = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
ANTHROPIC = {"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}
RESPONSES = {"model": "gpt-4o-mini", "input": "Hello"}
GROK = {"model": "grok-3", "messages": [{"role": "user", "content": "Hello"}]}

DIALECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai-chat": ("/v1/chat/completions", HELLO),
    "openai-responses": ("/v1/responses", RESPONSES),
    "anthropic": ("/v1/messages", ANTHROPIC),
    "gemini": ("/v1beta/models/gemini-2.5-flash:generateContent", GEMINI),
    "grok": ("/grok/v1/chat/completions", GROK),
    "azure-openai": ("/openai/deployments/gpt-4o-mini/chat/completions", HELLO),
}


def credential_of(asked: Asked) -> str:
    """The key, wherever the dialect puts it."""
    return json.dumps([asked.headers, asked.query])


@pytest.mark.parametrize("format", DIALECTS)
async def test_every_dialect_is_asked_and_accounted_for(format: str, asking: Asking, provider: Provider) -> None:
    path, body = DIALECTS[format]
    provider.answer(say("Good day", usage=Usage(input_tokens=12, output_tokens=34)))
    ended = await asking.infer(provider.url + path, format=format, body=body, auth_key=KEY)
    assert "Good day" in json.dumps(output_of(ended))
    exchange = ended.exchange
    assert (exchange.input_tokens, exchange.output_tokens) == (12, 34)
    assert exchange.status == 200
    assert exchange.model
    assert exchange.cost_usd is not None
    assert float(exchange.cost_usd) > 0
    assert "genai-prices" in exchange.prices
    assert exchange.first_token_ms is not None
    assert KEY in credential_of(provider.calls[0])
    assert KEY not in str(ended)


async def test_the_result_is_the_plain_answer_although_a_stream_was_asked_for(
    asking: Asking, provider: Provider
) -> None:
    provider.answer(say("one two three"))
    ended = await asking.infer(f"{provider.url}/v1/chat/completions")
    assert provider.calls[0].streamed
    output = output_of(ended)
    assert output["object"] == "chat.completion"
    assert output["choices"][0]["message"]["content"] == "one two three"


async def test_tool_calls_come_through(asking: Asking, provider: Provider) -> None:
    provider.answer(say(tool_calls=[call("weather", {"city": "Ulm"})]))
    ended = await asking.infer(f"{provider.url}/v1/chat/completions")
    (asked,) = output_of(ended)["choices"][0]["message"]["tool_calls"]
    assert asked["function"]["name"] == "weather"
    assert json.loads(asked["function"]["arguments"]) == {"city": "Ulm"}


@pytest.mark.parametrize(
    ("status", "retried"),
    [(400, False), (401, False), (404, False), (503, True), (429, True), (500, True), (529, True)],
)
async def test_a_failure_is_an_error_tried_again_if_that_can_help(
    status: int, retried: bool, asking: Asking, provider: Provider
) -> None:
    provider.answer(fail(status))
    ended = await asking.infer(f"{provider.url}/v1/chat/completions")
    error = error_of(ended)
    assert error["name"] == "AIGatewayError"
    assert error["message"] == f"Error making AI request: unsuccessful status code: {status}"
    assert error["data"] == error["stack"]
    assert ended.retry is retried
    assert ended.exchange.status == status


async def test_retry_after_is_honoured_within_bounds(provider: Provider) -> None:
    asking = Asking(max_retry_after_s=60)
    waits = []
    for asked in ("7", "-5", "315360000", "soon"):
        provider.answer(raw(b'{"error":{"message":"slow down"}}', status=429, headers={**JSON, "retry-after": asked}))
        ended = await asking.infer(f"{provider.url}/v1/chat/completions")
        at = ended.retry_at
        waits.append(None if at is None else round((at - ended.exchange.started_at) / 1000))
    await asking.gateway.close()
    assert waits == [7, 0, 60, None]


async def test_a_provider_that_refuses_to_stream_is_asked_again_without(asking: Asking, provider: Provider) -> None:
    refusal = {
        "message": "Your organization must be verified to stream this model.",
        "type": "invalid_request_error",
        "param": "stream",
        "code": "unsupported_value",
    }
    provider.answer(raw(json.dumps({"error": refusal}).encode(), status=400, headers=JSON), say("plain"))
    ended = await asking.infer(f"{provider.url}/v1/chat/completions")
    assert output_of(ended)["choices"][0]["message"]["content"] == "plain"
    assert [asked.streamed for asked in provider.calls] == [True, False]


async def test_the_second_request_has_a_key_of_its_own_since_the_first_was_answered(provider: Provider) -> None:
    refusal = {"message": "no", "type": "invalid_request_error", "param": "stream", "code": "unsupported_value"}
    provider.answer(raw(json.dumps({"error": refusal}).encode(), status=400, headers=JSON), say("plain"))
    asking = Asking(idempotency_headers={provider.url.removeprefix("http://"): "Idempotency-Key"})
    await asking.infer(f"{provider.url}/v1/chat/completions", key="the-key")
    await asking.gateway.close()
    assert [asked.headers["idempotency-key"] for asked in provider.calls] == ["the-key", "the-key-plain"]


@pytest.mark.parametrize(
    ("broken", "status"),
    [(drop(), 0), (say("a b c", cut_after=2), 200), (say("a b c", cut_after=2, cut_cleanly=True), 200)],
)
async def test_an_answer_that_breaks_off_is_tried_again(
    broken: Reply, status: int, asking: Asking, provider: Provider
) -> None:
    provider.answer(broken)
    ended = await asking.infer(f"{provider.url}/v1/chat/completions")
    assert ended.retry
    assert ended.output is None
    assert error_of(ended)["name"] == "AIGatewayError"
    assert (ended.exchange.status, ended.exchange.cut) == (status, status > 0)


@pytest.mark.parametrize(("how", "code"), [({"cut_after": 4}, "truncated_response"), ({"pause_s": 0.2}, "timed_out")])
async def test_what_was_used_until_an_answer_broke_off_is_spent(
    how: dict[str, Any], code: str, asking: Asking, provider: Provider
) -> None:
    provider.answer(say("a b c d e f", usage=Usage(input_tokens=1000, output_tokens=100), **how))
    ended = await asking.infer(f"{provider.url}/v1/messages", format="anthropic", body=ANTHROPIC, timeout_ms=500)
    assert error_of(ended)["code"] == code
    assert (ended.exchange.cut, ended.exchange.input_tokens) == (True, 1000)
    assert ended.exchange.cost_usd is not None


async def test_an_error_in_the_middle_of_a_stream_is_an_answer(asking: Asking, provider: Provider) -> None:
    provider.answer(say("a b c", error_after=2, error=fail(529, "overloaded")))
    ended = await asking.infer(f"{provider.url}/v1/chat/completions")
    assert ended.retry
    assert (ended.exchange.status, ended.exchange.cut) == (200, False)


async def test_a_key_that_the_provider_repeats_is_not_passed_on(asking: Asking, provider: Provider) -> None:
    for status in (400, 401, 500):
        provider.answer(raw(f"bad key {KEY}".encode(), status=status))
        ended = await asking.infer(f"{provider.url}/v1/chat/completions", auth_key=KEY)
        assert "bad key [credential:api_key]" in error_of(ended)["data"]
        assert KEY not in str(ended)
    for said in (say(f"your key is {KEY}"), say("a b c", error_after=2, error=fail(500, f"bad key {KEY}"))):
        provider.answer(said)
        ended = await asking.infer(f"{provider.url}/v1/chat/completions", auth_key=KEY)
        assert KEY not in str(ended)
        assert "key" in str(ended.output) + str(ended.error)


async def test_an_inference_that_is_stopped_ends_its_request(asking: Asking, provider: Provider) -> None:
    provider.answer(held(say("too late")))
    request, sealed = infer_request(
        f"{provider.url}/v1/chat/completions", format="openai-chat", headers={}, body=HELLO, auth_key=KEY
    )
    errand = asking.begin(request, sealed, kind=INFER)
    await provider.asked()
    asking.gateway.stop(errand.run, STEP)
    provider.release()
    await asyncio.sleep(0.05)
    assert asking.nothing_came()


async def test_an_answer_after_the_limit_is_no_result(asking: Asking, provider: Provider) -> None:
    provider.answer(say("late", delay_s=1.0))
    ended = await asking.infer(f"{provider.url}/v1/chat/completions", timeout_ms=200)
    assert error_of(ended)["code"] == "timed_out"
    assert ended.retry
    assert ended.exchange.output_tokens is None  # spent or not: nobody knows


async def test_a_model_without_a_price_costs_an_unknown_amount(asking: Asking, provider: Provider) -> None:
    ended = await asking.infer(f"{provider.url}/v1/chat/completions", body={**HELLO, "model": "my-own-model"})
    assert ended.exchange.output_tokens is not None
    assert ended.exchange.cost_usd is None


async def test_an_unknown_format_is_asked_all_the_same(asking: Asking, provider: Provider) -> None:
    ended = await asking.infer(f"{provider.url}/http/echo", format="somebody-elses", auth_key=KEY)
    assert output_of(ended)["method"] == "POST"
    assert KEY in provider.requests[0].headers["authorization"]


async def test_the_connection_is_kept_although_the_end_of_an_answer_comes_late(asking: Asking) -> None:
    connections = 0
    chunk = {"id": "c", "object": "chat.completion.chunk", "model": "m"}
    choice = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}
    events = f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\ndata: [DONE]\n\n".encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while head := await reader.read(65536):
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length - len(head.partition(b"\r\n\r\n")[2]))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            writer.write(b"%x\r\n%b\r\n" % (len(events), events))
            await asyncio.sleep(0.1)
            writer.write(b"0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for number in range(3):
            ended = await asking.infer(f"http://127.0.0.1:{port}/v1/chat/completions")
            assert output_of(ended)["choices"][0]["message"]["content"] == "Hi"
            if number:
                assert ended.exchange.connected_ms is None
                assert ended.exchange.duration_ms < 100, "nobody waits for the end"
            await asyncio.sleep(0.2)
        await asking.gateway.close()
    assert connections == 1


async def test_a_large_prompt_passes(asking: Asking, provider: Provider) -> None:
    """A PDF of 5 MB."""
    pdf = "JVBERi0xLjQK" * 560_000
    source = {"type": "base64", "media_type": "application/pdf", "data": pdf}
    body = {**ANTHROPIC, "messages": [{"role": "user", "content": [{"type": "document", "source": source}]}]}
    ended = await asking.infer(f"{provider.url}/v1/messages", format="anthropic", body=body, auth_key=KEY)
    assert ended.output is not None
    assert pdf.encode() in provider.calls[0].body
    assert ended.exchange.sent_bytes > 6_000_000
