"""A named credential goes to its own places, takes the place of other keys, and comes back nowhere."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from stepwell.gateway.unpack import Unpacker
from stepwell.model.credential import Credential, Opened
from stepwell.model.ids import RunId, StepId
from stepwell.model.message import OffloadEnded
from stepwell.model.offload import Sealed
from stepwell.server.cipher import AesCipher
from stepwell.testing.provider import Provider, fail, raw, say
from stepwell.wire.offload import fetch_request, read_request
from tests.gateway.errands import RUN, STEP, Asking, error_of, output_of

VALUE = "sk-canary/77aa01=="
OWN = "sk-own-canary-4711"


def opened(*origins: str, **place: Any) -> Opened:
    return Opened(Credential(name="openai", origins=origins, **place), VALUE)


@pytest.fixture
async def asking(provider: Provider) -> AsyncIterator[Asking]:
    asking = Asking(opened(provider.url))
    yield asking
    await asking.gateway.close()


async def one(*kept: Opened) -> Asking:
    return Asking(*kept)


@pytest.mark.parametrize(
    ("format", "path", "header", "expected"),
    [
        ("openai-chat", "/v1/chat/completions", "authorization", f"Bearer {VALUE}"),
        ("openai-responses", "/v1/responses", "authorization", f"Bearer {VALUE}"),
        ("anthropic", "/v1/messages", "x-api-key", VALUE),
        ("gemini", "/v1beta/models/gemini-2.0-flash:generateContent", "x-goog-api-key", VALUE),
        ("grok", "/v1/chat/completions", "authorization", f"Bearer {VALUE}"),
        ("azure-openai", "/openai/deployments/d/chat/completions?api-version=1", "api-key", VALUE),
    ],
)
async def test_it_goes_where_the_api_of_the_model_wants_it(
    asking: Asking, provider: Provider, format: str, path: str, header: str, expected: str
) -> None:
    body = {"model": "m", "messages": [], "max_tokens": 5, "input": "hello", "contents": []}
    provider.answer(say("hi"))
    ended = await asking.infer(f"{provider.url}{path}", format=format, body=body, credential="openai", auth_key=OWN)
    assert ended.output is not None, ended
    (asked,) = provider.requests
    assert asked.headers[header] == expected
    assert OWN not in str(asked.headers)


@pytest.mark.parametrize(
    ("place", "header", "expected"),
    [
        ({}, "authorization", f"Bearer {VALUE}"),
        ({"header": "X-Key"}, "x-key", VALUE),
        ({"header": "Authorization", "prefix": "Token "}, "authorization", f"Token {VALUE}"),
    ],
)
async def test_it_takes_the_place_of_other_keys(
    provider: Provider, place: dict[str, str], header: str, expected: str
) -> None:
    asking = Asking(opened(provider.url, **place))
    headers = {"authorization": f"Bearer {OWN}", "X-API-Key": OWN, "x-key": OWN, "Accept": "text/plain"}
    await asking.fetch(f"{provider.url}/http/echo", headers=headers, credential="openai")
    (asked,) = provider.requests
    assert asked.headers[header] == expected
    assert asked.headers["accept"] == "text/plain"
    assert (OWN in str(asked.headers)) == (header != "x-key")  # a header that is not known to hold a key stays
    await asking.gateway.close()


async def test_it_can_go_into_the_address(provider: Provider) -> None:
    asking = Asking(opened(provider.url, query="at"))
    ended = await asking.fetch(f"{provider.url}/http/echo?a=1&at=own&b=%20+#f", credential="openai")
    (asked,) = provider.requests
    assert asked.query == "a=1&b=%20+&at=sk-canary%2F77aa01%3D%3D"
    told = output_of(ended)
    assert told["url"].endswith("/http/echo?a=1&b=%20+&at=[credential:openai]#f")
    assert "canary" not in json.dumps(told)
    assert "canary" not in ended.exchange.url
    await asking.gateway.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/v1/chat/completions",
        "https://{host}/v1/chat/completions",
        "http://localhost:{port}/v1/chat/completions",
        "http://{host}@127.0.0.1:1/",
        "http://127.0.0.1:1/?{host}",
    ],
)
async def test_a_request_to_another_place_is_refused_before_it_is_sent(
    asking: Asking, provider: Provider, url: str
) -> None:
    host = provider.url.removeprefix("http://")
    address = url.format(host=host, port=host.partition(":")[2])
    for ended in (
        await asking.infer(address, credential="openai"),
        await asking.fetch(address, credential="openai"),
    ):
        assert error_of(ended)["code"] == "credential_refused"
        assert f"'openai' may be sent to {provider.url} only" in error_of(ended)["message"]
        assert not ended.retry
    assert not provider.requests


async def test_one_that_is_not_kept_is_an_error_that_says_what_to_do(asking: Asking, provider: Provider) -> None:
    ended = await asking.infer(f"{provider.url}/v1/chat/completions", credential="other")
    assert error_of(ended)["code"] == "credential_refused"
    assert "no credential 'other'" in error_of(ended)["message"]
    assert not provider.requests


@pytest.mark.parametrize("place", [{}, {"header": "X-Key"}, {"query": "token"}])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_another_origin_does_not_get_it(
    provider: Provider, place: dict[str, str], status: int
) -> None:
    with Provider() as other:
        asking = Asking(opened(provider.url, other.url, **place))
        url = f"{provider.url}/http/redirect-to?url={other.url}/http/echo&status={status}"
        ended = await asking.fetch(url, method="POST", body=b"x", credential="openai", max_redirects=5)
        assert output_of(ended)["status_code"] == 200
        (asked,) = other.requests
        assert "canary" not in f"{asked.headers}{asked.query}"
        await asking.gateway.close()


async def test_nor_a_redirect_that_has_it_in_its_address(asking: Asking, provider: Provider) -> None:
    with Provider() as other:
        provider.answer(raw(b"", status=302, headers={"location": f"{other.url}/http/echo?stolen={VALUE}"}))
        url = f"{provider.url}/v1/chat/completions"
        ended = await asking.fetch(url, method="POST", body=b"{}", credential="openai", max_redirects=5)
        assert error_of(ended)["code"] == "invalid_redirect"
        nothing_of(ended)
        assert not other.requests


FORMS = {
    "as it is": VALUE,
    "escaped for JSON": VALUE.replace("/", "\\/"),
    "in an address": "sk-canary%2F77aa01%3D%3D",
    "as a user's password": base64.b64encode(f"me:{VALUE}".encode()).decode(),
}


def nothing_of(ended: OffloadEnded, *values: str) -> None:
    text = str(ended)
    assert not [value for value in (*values, *FORMS.values(), VALUE) if value in text], text


@pytest.mark.parametrize("how", FORMS)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
@pytest.mark.parametrize("status", [200, 400, 401, 429, 500, 503])
async def test_an_answer_that_repeats_it_is_cleaned(
    asking: Asking, provider: Provider, how: str, path: str, status: int
) -> None:
    answer = {
        "id": f"id {FORMS[how]}",
        "model": f"model {FORMS[how]}",
        "choices": [{"message": {"content": f"it is {FORMS[how]}"}, "finish_reason": "stop"}],
        "content": [{"type": "text", "text": f"it is {FORMS[how]}"}],
        "output": [{"type": "message", "content": [{"type": "output_text", "text": f"it is {FORMS[how]}"}]}],
        "error": {"message": f"bad key {FORMS[how]}", "code": FORMS[how]},
    }
    provider.answer(raw(json.dumps(answer).encode(), status=status, headers={"content-type": "application/json"}))
    for exact in (False, True):
        ended = await asking.infer(f"{provider.url}{path}", format="", credential="openai", exact=exact)
        nothing_of(ended)
        assert ended.exchange.hidden == ("openai",)
        assert "[credential:openai]" in str(ended.output if status == 200 else ended.error)
    fetched = await asking.fetch(f"{provider.url}{path}", method="POST", body=b"{}", credential="openai")
    nothing_of(fetched)
    assert fetched.exchange.hidden == ("openai",)


def own(number: int) -> str:
    return f"sk-{str(number) * 12}-own"


async def test_keys_of_the_function_are_named_after_their_places(provider: Provider) -> None:
    asking = Asking()
    url = f"{provider.url.replace('//', f'//me:{own(1)}@')}/http/echo?key={own(2)}"
    headers = {
        "X-Api-Key": own(3),
        "Cookie": f"session={own(4)}; theme=dark",
        "X-Other": own(5),
        "X-Tenant": "acme",
    }
    ended = await asking.fetch(url, headers=headers, exact=True)
    nothing_of(ended, *map(own, range(1, 6)))
    assert ended.exchange.hidden == ("cookie", "password", "query", "x-api-key", "x-other")
    told = json.loads(output_of(ended)["body"])
    assert ["x-api-key", "[credential:x-api-key]"] in told["headers"]
    assert ["x-tenant", "acme"] in told["headers"]
    assert not [name for name, _ in output_of(ended)["headers"] if name.lower() == "content-length"]
    await asking.gateway.close()


def pieces_of(chunk: bytes, size: int) -> Iterator[bytes]:
    yield from (chunk[at : at + size] for at in range(0, len(chunk), size))


async def test_a_stream_that_repeats_it_in_pieces_is_cleaned(
    asking: Asking, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f'data: {{"id":"{VALUE}","model":"{VALUE}","choices":[{{"delta":{{"content":"so {VALUE}"}}}}]}}\n\n'.encode()
    provider.answer(raw(text + b"data: [DONE]\n\n", headers={"content-type": "text/event-stream"}))
    for size in range(1, 40, 3):
        monkeypatch.setattr(Unpacker, "feed", lambda self, chunk, size=size: pieces_of(chunk, size))
        ended = await asking.infer(f"{provider.url}/v1/chat/completions", credential="openai", exact=True)
        nothing_of(ended)
        assert output_of(ended)["text"] == "so [credential:openai]"
        assert ended.exchange.model == ended.exchange.response_id == "[credential:openai]"


async def test_a_key_that_a_model_says_in_two_deltas_is_not_in_its_text(asking: Asking, provider: Provider) -> None:
    provider.answer(say(["it is ", *VALUE, " indeed"]))
    ended = await asking.infer(f"{provider.url}/v1/chat/completions", credential="openai", exact=True)
    assert output_of(ended)["text"] == "it is [credential:openai] indeed"
    nothing_of(ended)


async def test_what_has_no_answer_tells_nothing(asking: Asking, provider: Provider) -> None:
    provider.answer(fail(503), fail(503))
    for ended in (
        await asking.fetch(f"{provider.url}/http/drop", credential="openai"),
        await asking.infer(f"{provider.url}/v1/chat/completions", credential="openai"),
    ):
        nothing_of(ended)


def test_any_sdk_may_name_a_credential_in_a_header() -> None:
    headers = {"Stepwell-Credential": "openai", "Accept": "text/plain"}
    text, sealed = fetch_request("https://example.com/", method="GET", headers=headers, body=None)
    request = read_request(text)
    assert (request.credential, dict(request.headers), sealed) == ("openai", {"Accept": "text/plain"}, None)


# sealed


GIVEN = Sealed("https://example.com/?key=canary", (("X-Key", "canary"),), "canary")


async def test_credentials_of_a_step_are_sealed_for_that_step_only() -> None:
    first, second = bytes(range(32)), bytes(range(1, 33))
    asking = Asking(cipher=AesCipher([first]), seal=True)
    sealed = asking.gateway.seal(RUN, STEP, GIVEN)
    assert sealed is not None
    assert b"canary" not in sealed
    assert sealed != asking.gateway.seal(RUN, STEP, GIVEN)  # never twice the same

    other = Asking(cipher=AesCipher([second, first])).gateway  # a key that was exchanged still opens
    assert other.unseal(RUN, STEP, sealed) == ""
    assert other.holds(RUN, STEP)
    assert other.seal(RUN, STEP, GIVEN) is None  # this one does not seal
    assert "changed since it was sealed" in other.unseal(RUN, StepId("0" * 40), sealed)
    assert "changed since it was sealed" in other.unseal(RunId("01HZY000000000000000000001"), STEP, sealed)

    stranger = Asking(cipher=AesCipher([second])).gateway
    assert "this server has not got" in stranger.unseal(RUN, STEP, sealed)
    assert "no secret key" in Asking().gateway.unseal(RUN, STEP, sealed)
    assert not stranger.holds(RUN, STEP)


async def test_those_at_hand_are_sealed_for_the_next_attempt() -> None:
    asking = Asking(cipher=AesCipher([bytes(32)]), seal=True)
    assert asking.gateway.seal(RUN, STEP, None) is None
    asking.gateway.keep(RUN, STEP, GIVEN)
    assert asking.gateway.seal(RUN, STEP, None) is not None
    asking.gateway.stop(RUN, STEP)
    assert asking.gateway.seal(RUN, STEP, None) is None
