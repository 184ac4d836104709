"""What `step.fetch` gets: any status, every byte, and an end in any case."""

import asyncio
import base64
import json
from typing import Any

import pytest

from stepwell.gateway.gateway import GatewaySettings, HttpGateway
from stepwell.model.offload import Sealed
from stepwell.testing.provider import Provider, Reply, fail, raw, say
from stepwell.wire.models.dialect import Usage
from stepwell.wire.offload import InvalidRequest, fetch_request, read_answer, read_request
from tests.gateway.errands import RUN, STEP, Asking, error_of, output_of

CANARY = "canary-8f3a9c01d2"


async def test_method_headers_and_body_arrive_unchanged(asking: Asking, provider: Provider) -> None:
    ended = await asking.fetch(
        f"{provider.url}/http/echo?q=a%2Fb+c&empty=",
        method="PUT",
        headers={"X-Custom": "one", "Content-Type": "text/plain; charset=latin-1"},
        body="grüße".encode("latin-1"),
    )
    (asked,) = provider.requests
    assert (asked.method, asked.query, asked.body) == ("PUT", "q=a%2Fb+c&empty=", "grüße".encode("latin-1"))
    assert asked.headers["x-custom"] == "one"
    assert asked.headers["content-type"] == "text/plain; charset=latin-1"
    assert output_of(ended)["status_code"] == 200


@pytest.mark.parametrize("status", [200, 201, 304, 400, 401, 404, 429, 500, 503])
async def test_any_status_is_the_result(status: int, asking: Asking, provider: Provider) -> None:
    ended = await asking.fetch(f"{provider.url}/http/status/{status}?body=words")
    assert output_of(ended)["status_code"] == status
    assert ended.error is None
    assert ended.exchange.status == status


async def test_an_answer_has_the_form_that_the_official_sdks_read(asking: Asking, provider: Provider) -> None:
    ended = await asking.fetch(f"{provider.url}/http/cookies/set?a=1&b=2")
    output = output_of(ended)
    assert set(output) == {"url", "status_code", "headers", "body"}
    cookies = next(value for name, value in output["headers"].items() if name.lower() == "set-cookie")
    assert "a=1" in cookies
    assert ", " in cookies  # repeated headers, joined


async def test_an_exact_answer_keeps_repeated_headers_and_every_byte(asking: Asking, provider: Provider) -> None:
    cookies = read_answer(output_of(await asking.fetch(f"{provider.url}/http/cookies/set?a=1&b=2", exact=True)))
    assert len([name for name, _ in cookies.headers if name.lower() == "set-cookie"]) == 2
    binary = output_of(await asking.fetch(f"{provider.url}/http/bytes/1000", exact=True))
    answer = read_answer(binary)
    assert len(answer.body) == 1000
    if "body_base64" in binary:
        assert base64.b64decode(binary["body_base64"]) == answer.body


async def test_a_text_of_the_callers_stands_in_the_exact_answer(asking: Asking, provider: Provider) -> None:
    told = output_of(await asking.fetch(f"{provider.url}/http/status/404", exact=True, echo='{"place":1}'))
    assert (told["status_code"], told["echo"]) == (404, '{"place":1}')
    assert "echo" not in output_of(await asking.fetch(f"{provider.url}/http/status/404", exact=True))


async def test_a_binary_request_body_arrives(asking: Asking, provider: Provider) -> None:
    body = bytes(range(256))
    await asking.fetch(f"{provider.url}/http/echo", method="POST", body=body)
    assert provider.requests[0].body == body


async def test_a_compressed_answer_is_unpacked(asking: Asking, provider: Provider) -> None:
    ended = await asking.fetch(f"{provider.url}/http/gzip/5000", exact=True)
    answer = read_answer(output_of(ended))
    assert answer.body == bytes(5000)
    assert "content-encoding" not in {name.lower() for name, _ in answer.headers}
    assert ended.exchange.received_bytes < 200


async def test_a_303_is_followed_by_a_get_and_a_307_by_the_same_again(asking: Asking, provider: Provider) -> None:
    for status, method, body in ((303, "GET", b""), (302, "GET", b""), (307, "POST", b"x"), (308, "POST", b"x")):
        provider.requests.clear()
        url = f"{provider.url}/http/redirect-to?url={provider.url}/http/echo&status={status}"
        ended = await asking.fetch(url, method="POST", body=b"x")
        assert (provider.requests[1].method, provider.requests[1].body) == (method, body)
        assert output_of(ended)["url"] == f"{provider.url}/http/echo"
        assert ended.exchange.redirects == 1


async def test_a_redirect_is_the_result_if_none_is_to_be_followed(asking: Asking, provider: Provider) -> None:
    ended = await asking.fetch(f"{provider.url}/http/redirect/1", max_redirects=0)
    assert output_of(ended)["status_code"] == 302


CREDENTIALS = {
    "Authorization": f"Bearer {CANARY}",
    "x-api-key": CANARY,
    "api-key": CANARY,
    "x-goog-api-key": CANARY,
    "Cookie": f"session={CANARY}",
    "X-Anything": CANARY,
}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_credential_goes_to_another_origin(status: int, asking: Asking, provider: Provider) -> None:
    with Provider() as other:
        await asking.fetch(
            f"{provider.url}/http/redirect-to?url={other.url}/http/echo&status={status}&key={CANARY}",
            headers={**CREDENTIALS, "Accept": "text/plain"},
        )
        (first,), (second,) = provider.requests, other.requests
    assert CANARY in first.headers["authorization"]
    assert CANARY in first.query
    assert CANARY not in json.dumps([second.headers, second.query, second.path])
    assert second.headers["accept"] == "text/plain"


async def test_nor_in_the_address_that_a_redirect_names(asking: Asking, provider: Provider) -> None:
    with Provider() as other:
        ended = await asking.fetch(
            f"{provider.url}/http/redirect-to?url={other.url}/http/echo?stolen={CANARY}&status=302",
            headers={"Authorization": f"Bearer {CANARY}"},
        )
        assert not other.requests
    assert error_of(ended)["code"] == "invalid_redirect"
    assert CANARY not in error_of(ended)["message"]


async def test_credentials_stay_on_a_redirect_to_the_same_origin(asking: Asking, provider: Provider) -> None:
    await asking.fetch(f"{provider.url}/http/redirect/1", headers={"Authorization": "Bearer abcdef"})
    assert provider.requests[1].headers["authorization"] == "Bearer abcdef"


async def test_user_and_password_of_the_url_become_an_authorization(asking: Asking, provider: Provider) -> None:
    url = provider.url.replace("http://", f"http://ann:{CANARY}@")
    ended = await asking.fetch(f"{url}/http/echo")
    told = base64.b64decode(provider.requests[0].headers["authorization"].split()[1]).decode()
    assert told == f"ann:{CANARY}"
    assert CANARY not in str(ended.exchange)


# limits


async def test_a_body_above_the_limit_names_it(provider: Provider) -> None:
    asking = Asking(max_answer_bytes=10_000)
    for path in ("bytes/20000", "bytes/20000?length=no", "endless", "gzip/20000000"):
        ended = await asking.fetch(f"{provider.url}/http/{path}")
        assert error_of(ended)["code"] == "response_too_large"
        assert "10000 bytes" in error_of(ended)["message"]
        assert not ended.retry
        assert ended.exchange.received_bytes < 2_000_000
    await asking.gateway.close()


async def test_a_body_that_never_ends_runs_out_of_time(provider: Provider) -> None:
    asking = Asking(timeout_s=0.3)
    ended = await asking.fetch(f"{provider.url}/http/slow?delay_s=0&pieces=1000&pause_s=0.05")
    assert error_of(ended)["code"] == "timed_out"
    assert "0.3 s" in error_of(ended)["message"]
    assert ended.retry
    await asking.gateway.close()


async def test_a_function_may_ask_for_less_time(asking: Asking, provider: Provider) -> None:
    ended = await asking.fetch(f"{provider.url}/http/slow?delay_s=5", timeout_ms=200)
    assert error_of(ended)["code"] == "timed_out"


@pytest.mark.parametrize("what", ["count=10000&size=10", "count=1&size=65536"])
async def test_too_many_headers_or_too_large_ones(what: str, asking: Asking, provider: Provider) -> None:
    ended = await asking.fetch(f"{provider.url}/http/headers?{what}")
    assert error_of(ended)["code"] == "invalid_http"
    assert "too many headers" in error_of(ended)["message"]


# what goes wrong


async def test_a_connection_that_breaks_is_tried_again(asking: Asking, provider: Provider) -> None:
    ended = await asking.fetch(f"{provider.url}/http/drop")
    assert ended.retry
    assert ended.exchange.status == 0
    assert error_of(ended)["name"] == "GatewayError"


async def test_nobody_listening_is_told_in_words(asking: Asking) -> None:
    ended = await asking.fetch("http://127.0.0.1:1/")
    assert "http://127.0.0.1:1 cannot be connected to" in error_of(ended)["message"]
    assert ended.retry


@pytest.mark.parametrize(
    ("url", "method", "headers"),
    [
        ("ftp://example.com/", "GET", {}),
        ("nonsense", "GET", {}),
        ("http:///path", "GET", {}),
        ("http://127.0.0.1/a b", "GET", {}),
        ("http://127.0.0.1:99999/", "GET", {}),
        ("http://127.0.0.1/" + "x" * 20_000, "GET", {}),
        ("http://127.0.0.1/", "GE T", {}),
        ("http://127.0.0.1/", "CONNECT", {}),
        ("http://127.0.0.1/", "GET", {"X-A": "b\r\nX-Injected: c"}),
        ("http://127.0.0.1/", "GET", {"bad name": "b"}),
    ],
)
async def test_what_cannot_be_requested_fails_for_good(
    url: str, method: str, headers: dict[str, str], asking: Asking
) -> None:
    ended = await asking.fetch(url, method=method, headers=headers)
    assert not ended.retry
    assert error_of(ended)["code"] in {"invalid_url", "invalid_request"}


async def test_statuses_that_are_worth_trying_again_leave_their_answer(asking: Asking, provider: Provider) -> None:
    ended = await asking.fetch(f"{provider.url}/http/status/503", retry_statuses=(503,))
    assert ended.retry
    assert output_of(ended)["status_code"] == 503
    assert "503" in error_of(ended)["message"]


# stopping, and what is kept


async def test_a_stopped_request_is_given_up_and_says_nothing(asking: Asking, provider: Provider) -> None:
    request, _ = fetch_request(f"{provider.url}/http/slow?delay_s=30", method="GET", headers={}, body=None)
    asking.begin(request, Sealed("http://a/", (("X-Key", "abcdef"),)))
    assert asking.gateway.in_flight == 1
    asking.gateway.stop(RUN, STEP)
    assert not asking.gateway.holds(RUN, STEP)
    assert asking.gateway.in_flight == 0
    await asyncio.sleep(0.05)
    assert asking.nothing_came()


async def test_the_oldest_credentials_go_when_there_are_too_many() -> None:
    asking = Asking(credentials=2)
    steps = [type(STEP)(f"{number:040x}") for number in range(3)]
    for step in steps:
        asking.gateway.keep(RUN, step, Sealed("http://a/?key=abcdef"))
    assert [asking.gateway.holds(RUN, step) for step in steps] == [False, True, True]
    await asking.gateway.close()


async def test_credentials_that_nobody_asked_for_in_days_go() -> None:
    now = 1_000_000_000
    gateway = HttpGateway(lambda *said: None, GatewaySettings(credentials_s=100), clock=lambda: now)
    gateway.keep(RUN, STEP, Sealed("http://a/?key=abcdef"))
    now += 100_001
    gateway.keep(RUN, type(STEP)("0" * 40), Sealed("http://b/?key=abcdef"))
    assert not gateway.holds(RUN, STEP)
    await gateway.close()


async def test_a_gateway_that_is_leaving_makes_no_new_requests(asking: Asking, provider: Provider) -> None:
    asking.gateway.drain()
    request, _ = fetch_request(f"{provider.url}/http/echo", method="GET", headers={}, body=None)
    errand = asking.begin(request, None)
    await asyncio.sleep(0.05)
    assert [claim.job for claim in asking.gateway.held_back] == [errand.job]
    assert not provider.requests


def test_nothing_that_may_be_secret_is_recorded() -> None:
    request, sealed = fetch_request(
        f"https://ann:{CANARY}@api.example.com/x?api_key={CANARY}&page=2", method="GET", headers=CREDENTIALS, body=None
    )
    assert CANARY.encode() not in request
    assert read_request(request).url == "https://***@api.example.com/x?api_key=***&page=2"
    assert sealed is not None
    assert CANARY not in repr(sealed) + str(sealed) + repr({"a": [sealed]})


def test_headers_are_bounded_because_they_are_kept_in_memory() -> None:
    with pytest.raises(InvalidRequest, match="may have 64 KiB"):
        fetch_request("https://example.com/", method="GET", headers={"X-Long": "x" * 70_000}, body=None)


def test_a_request_without_secrets_needs_none() -> None:
    _, sealed = fetch_request("https://api.example.com/x?page=2", method="GET", headers={"Accept": "*/*"}, body=None)
    assert sealed is None


# the same request, told by its key


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("POST", {}, "the-key"),
        ("GET", {}, None),
        ("POST", {"Idempotency-Key": "mine"}, "mine"),
        ("POST", {"idempotency-key": "mine"}, "mine"),
        ("POST", {"X-Idempotency-Key": "mine"}, None),
        ("PUT", {}, "the-key"),
        ("DELETE", {}, "the-key"),
        ("HEAD", {}, None),
    ],
)
async def test_hosts_that_know_it_get_a_key(
    method: str, headers: dict[str, str], expected: str | None, provider: Provider
) -> None:
    asking = Asking(idempotency_headers={provider.url.removeprefix("http://"): "Idempotency-Key"})
    await asking.fetch(f"{provider.url}/http/echo", method=method, headers=headers, key="the-key")
    await asking.gateway.close()
    assert provider.requests[0].headers.get("idempotency-key") == expected


def test_the_hosts_that_are_known_to_take_a_key() -> None:
    known = GatewaySettings().idempotency_headers
    assert {known[f"api.{name}.com"] for name in ("openai", "stripe", "adyen", "mollie", "resend")} == {
        "Idempotency-Key"
    }
    assert known["api.paypal.com"] == known["api-m.paypal.com"] == "PayPal-Request-Id"
    assert "api.anthropic.com" not in known


async def test_an_answer_that_breaks_off_leaves_open_what_was_done(asking: Asking, provider: Provider) -> None:
    provider.answer(say("long " * 500, cut_after=2))
    ended = await asking.fetch(f"{provider.url}/v1/chat/completions", method="POST", body=b"{}")
    provider.answer(say("whole"))
    whole = await asking.fetch(f"{provider.url}/v1/chat/completions", method="POST", body=b"{}")
    late = await asking.fetch(f"{provider.url}/http/slow?pieces=2&pause_s=5", timeout_ms=300)
    assert ended.retry
    assert (ended.exchange.status, ended.exchange.cut) == (200, True)
    assert (whole.exchange.status, whole.exchange.cut) == (200, False)
    assert error_of(late)["code"] == "timed_out"
    assert (late.exchange.status, late.exchange.cut) == (200, True)


async def test_other_hosts_get_none(asking: Asking, provider: Provider) -> None:
    await asking.fetch(f"{provider.url}/http/echo", method="POST", key="the-key")
    assert "idempotency-key" not in provider.requests[0].headers


async def test_large_answers_are_read_a_few_at_a_time(provider: Provider) -> None:
    asking = Asking(max_answer_bytes=1_000_000, answers_bytes=2_000_000)
    request, _ = fetch_request(f"{provider.url}/http/bytes/900000?pause_s=0.01", method="GET", headers={}, body=None)
    for number in range(6):
        asking.begin(request, None, step=type(STEP)(f"{number:040x}"))
    for _ in range(6):
        assert len(output_of(await asking.end())["body"]) == 900_000
    assert asking.gateway._room._value == 2  # every place is free again
    await asking.gateway.close()


async def test_so_many_requests_are_made_at_a_time() -> None:
    asking = Asking(requests=3)
    with Provider() as provider:
        request, _ = fetch_request(f"{provider.url}/http/slow?delay_s=0.1", method="GET", headers={}, body=None)
        for number in range(9):
            asking.begin(request, None, step=type(STEP)(f"{number:040x}"))
        for _ in range(9):
            assert (await asking.end()).output is not None
        assert 1 < provider.most_in_flight <= 3
    await asking.gateway.close()


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_model_that_a_plain_request_asks_is_accounted(
    streamed: bool, asking: Asking, provider: Provider
) -> None:
    provider.answer(say("Hi", usage=Usage(input_tokens=1000, output_tokens=100)))
    body: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
    if streamed:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    ended = await asking.fetch(
        f"{provider.url}/v1/chat/completions",
        method="POST",
        headers={"Content-Type": "application/json"},
        body=json.dumps(body).encode(),
        exact=True,
    )
    assert output_of(ended)["status_code"] == 200
    assert output_of(ended)["body"].startswith("data: " if streamed else "{")
    exchange = ended.exchange
    assert (exchange.model.startswith("gpt-4o"), exchange.input_tokens, exchange.output_tokens) == (True, 1000, 100)
    assert exchange.cost_usd == "0.0035"


@pytest.mark.parametrize("reply", [fail(503), raw(b"no JSON"), say("Hi", cut_after=2, cut_cleanly=True)])
async def test_an_answer_of_a_model_that_cannot_be_read_is_the_result_all_the_same(
    reply: Reply, asking: Asking, provider: Provider
) -> None:
    provider.answer(reply)
    body = b'{"model":"gpt-4o","stream":true,"messages":[]}'
    ended = await asking.fetch(f"{provider.url}/v1/chat/completions", method="POST", body=body, exact=True)
    assert output_of(ended)["status_code"] in {200, 503}
    assert ended.exchange.cost_usd is None
