"""`step.fetch`, `step.ai.infer` and `step.ai.wrap` of our own SDK, over the websocket and over HTTP."""

from __future__ import annotations

from typing import ClassVar

import pytest

from stepwell.testing.provider import Provider, fail, held, say
from stepwell.wire.models.dialect import Usage
from tests.fleet import once
from tests.official.harness import Run, Server
from tests.sdk_e2e.harness import OwnKind, OwnService

pytestmark = pytest.mark.slow
APP = "asking"

KEY = "sk-canary-of-our-own-service"  # of the service


def key_is_nowhere(server: Server, run: Run) -> None:
    written = {path: path.read_bytes() for path in server.files()}
    assert any(run.id.encode() in text for text in written.values())  # it is there that we look
    assert [path for path, text in written.items() if KEY.encode() in text] == []
    for what in ("", "/lines"):
        assert KEY not in server.http.get(f"/api/runs/{run.id}{what}").text


class OwnRequests:
    kind: ClassVar[OwnKind]

    def test_a_typed_answer_with_its_usage_and_cost(
        self, server: Server, service: OwnService, provider: Provider
    ) -> None:
        provider.answer(
            say(json={"title": "Fire", "urgency": "high"}, usage=Usage(input_tokens=1000, output_tokens=100))
        )
        run = server.completed(server.send(service.event("infer"), {"provider": provider.url}))
        (asked,) = provider.calls

        assert run.output["title"] == "Fire"
        assert run.output["usage"] == [1000, 100]
        assert float(run.output["cost"]) == pytest.approx(0.00021)
        schema = asked.json["response_format"]["json_schema"]["schema"]
        assert "urgency" in str(schema)
        assert asked.headers["authorization"] == f"Bearer {KEY}"
        key_is_nowhere(server, run)

    def test_the_answer_is_the_same_after_the_function_left_memory(
        self, server: Server, service: OwnService, provider: Provider
    ) -> None:
        provider.answer(say(json={"title": "Fire", "urgency": "high"}))
        run = server.completed(server.send(service.event("infer"), {"provider": provider.url, "nap": "7s"}))

        assert run.output["title"] == "Fire"
        assert len(provider.calls) == 1
        assert service.calls(run.id) >= 2

    def test_a_large_prompt_and_a_large_answer_are_stored_apart_and_without_the_key(
        self, server: Server, service: OwnService, provider: Provider
    ) -> None:
        title = "long " * 60_000
        provider.answer(say(json={"title": title, "urgency": "low"}))
        data = {"provider": provider.url, "text": "much to read " * 60_000}
        run = server.completed(server.send(service.event("infer"), data))

        assert run.output["title"] == title
        assert len(provider.calls[0].body) > 700_000
        key_is_nowhere(server, run)

    def test_a_plain_function_asks_and_fetches(self, server: Server, service: OwnService, provider: Provider) -> None:
        provider.answer(say("Hi"))
        run = server.completed(server.send(service.event("infer-plain"), {"provider": provider.url}))

        assert run.output == ["Hi", 418, "tea"]

    def test_an_answer_of_another_type_says_so(self, server: Server, service: OwnService, provider: Provider) -> None:
        provider.answer(say("no JSON at all"))
        run = server.completed(server.send(service.event("wrong"), {"provider": provider.url}))

        assert "the model's answer is not Summary" in run.output
        assert "no JSON at all" in run.output

    def test_fetch_sends_what_httpx2_sends_and_gives_its_response(
        self, server: Server, service: OwnService, provider: Provider
    ) -> None:
        run = server.completed(server.send(service.event("fetch"), {"provider": provider.url, "nap": "1s"}))

        assert run.output == {
            "echo": ["POST", '{"ü":1}', "q=a+b", "httpx2"],
            "binary": [200, "OK", 1000, "application/octet-stream"],
            "form": "a=1",
            "files": True,
            "redirected": [200, "/http/echo"],
            "elapsed": True,
        }
        assert len(provider.requests) == 8
        secret = provider.requests[-1]
        for text in (secret.query, secret.headers["x-key"], secret.headers["authorization"], secret.headers["cookie"]):
            assert KEY in text
        key_is_nowhere(server, run)

    def test_a_request_that_nobody_answers_is_an_error_of_its_step(self, server: Server, service: OwnService) -> None:
        run = server.completed(server.send(service.event("refused"), {"url": "http://127.0.0.1:1/"}))

        assert run.output[:2] == ["nobody", "GatewayError"]
        assert server.trace(run.id).child("nobody").attempts == 2

    def test_answers_of_a_broken_server_are_tried_again(
        self, server: Server, service: OwnService, provider: Provider
    ) -> None:
        url = f"{provider.url}/http/flaky/2?key={service.kind}&status=503"
        run = server.completed(server.send(service.event("flaky"), {"url": url}))

        assert run.output == 200
        assert len(provider.requests) == 3

    def test_the_last_answer_counts_whatever_it_is(
        self, server: Server, service: OwnService, provider: Provider
    ) -> None:
        run = server.completed(server.send(service.event("flaky"), {"url": f"{provider.url}/http/status/503"}))

        assert run.output == 503
        assert len(provider.requests) == 5  # four retries

    def test_wrapped_calls_are_steps_with_their_own_kind(self, server: Server, service: OwnService) -> None:
        run = server.completed(server.send(service.event("wrap"), {}))

        assert run.output == [{"model": "m", "answer": "why indeed"}, "how indeed"]
        text = str(server.http.get(f"/api/runs/{run.id}/lines").json())
        assert text.count("ai.wrap") == 2

    def test_a_wrapped_call_of_a_provider_shows_what_was_said(
        self, server: Server, service: OwnService, provider: Provider
    ) -> None:
        provider.answer(say("Because.", usage=Usage(input_tokens=7, output_tokens=2)))
        run = server.completed(server.send(service.event("wrap-provider"), {"provider": provider.url}))
        lines = server.http.get(f"/api/runs/{run.id}/lines").json()["lines"]
        text = "\n".join("".join(piece for _, piece in line) for line in lines)

        assert run.output == "Because."
        assert "7 → 2 tokens" in text
        assert "user       why?" in text
        assert "answer     Because." in text

    def test_after_a_kill_the_function_is_asked_for_its_key_again(
        self, server: Server, service: OwnService, provider: Provider
    ) -> None:
        provider.answer(held(say("lost")), fail(503), say(json={"title": "Found", "urgency": "low"}))
        event = server.send(service.event("infer"), {"provider": provider.url})
        run = server.started(event)
        provider.wait()
        server.waits_at(run.id, "ask")
        server.kill()
        server.start()
        run = server.completed(event, seconds=60)

        assert run.output["title"] == "Found"
        assert len(provider.calls) == 3
        key_is_nowhere(server, run)


class TestWorker(OwnRequests):
    kind = "worker"


@once
class TestUvicorn(OwnRequests):
    kind = "uvicorn"
