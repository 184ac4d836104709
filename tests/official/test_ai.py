"""`step.ai.infer` and `fetch` of the official SDKs, unmodified: the server makes their requests."""

import json
from typing import Any, ClassVar

import pytest

from stepwell.testing.provider import Provider, drop, fail, held, say
from stepwell.wire.models.dialect import Usage
from tests.fleet import nodes_wanted
from tests.official.harness import Kind, Run, Server, Service

pytestmark = pytest.mark.official

KEY = "sk-canary-of-the-sample-service"  # of the services


def text_of(dialect: str, reply: Any) -> str:
    """What the model said, where the dialect has it."""
    match dialect:
        case "anthropic":
            return str(reply["content"][0]["text"])
        case "gemini":
            return str(reply["candidates"][0]["content"]["parts"][0]["text"])
        case "openai-responses":
            return str(reply["output"][0]["content"][0]["text"])
        case _:
            return str(reply["choices"][0]["message"]["content"])


def key_is_nowhere(server: Server, run: Run) -> None:
    """No file of the server has the key, and no answer about a run either."""
    written = {path: path.read_bytes() for path in server.files()}
    assert any(run.id.encode() in text for text in written.values())  # it is there that we look
    assert [path for path, text in written.items() if KEY.encode() in text] == []
    for what in (f"/api/runs/{run.id}", f"/api/runs/{run.id}/lines", f"/v1/runs/{run.id}", "/v1/events"):
        answer = server.http.get(what)
        assert answer.status_code == 200, answer.text
        assert KEY not in answer.text


def lines_of(server: Server, run: Run) -> str:
    """What `stepwell run show` prints of it."""
    lines = server.http.get(f"/api/runs/{run.id}/lines").json()["lines"]
    return "\n".join("".join(piece for _, piece in line) for line in lines)


def ask(dialect: str, server: Server, service: Service, provider: Provider) -> Any:
    """Have the server ask a model, and look everywhere. What is recorded of the request."""
    provider.answer(say("Good day", usage=Usage(input_tokens=12, output_tokens=34)))
    event = server.send(service.event("ask"), {"dialect": dialect, "provider": provider.url})
    run = server.completed(event)
    (asked,) = provider.calls

    assert text_of(dialect, run.output) == "Good day"
    assert KEY in json.dumps([asked.headers, asked.query])
    assert service.ran(run.id) == ["use"]
    span = server.trace(run.id).child("ask")
    assert (span.status, span.step_op) == ("COMPLETED", "AI_GATEWAY")
    spans = server.http.get(f"/api/runs/{run.id}").json()["trace"]["children"]
    (request,) = [span["request"] for span in spans if span["name"] == "ask"]
    assert (request["status"], request["input_tokens"], request["output_tokens"]) == (200, 12, 34)
    text = lines_of(server, run)
    assert "user       Hello" in text
    assert "answer     Good day" in text
    assert "12 → 34 tokens" in text
    assert "first token" in text
    key_is_nowhere(server, run)
    return request


class OfficialAi:
    kind: ClassVar[Kind]

    @pytest.mark.parametrize("dialect", ["openai", "anthropic", "gemini"])
    def test_a_model_is_asked_by_the_server_and_its_answer_is_the_result(
        self, dialect: str, server: Server, service: Service, provider: Provider
    ) -> None:
        assert float(ask(dialect, server, service, provider)["cost_usd"]) > 0

    @pytest.mark.parametrize("dialect", ["grok", "deepseek"])
    def test_so_are_models_that_the_sdk_speaks_to_as_to_openai(
        self, dialect: str, server: Server, service: Service, provider: Provider
    ) -> None:
        ask(dialect, server, service, provider)  # whose prices are found by their address, which is not this one

    def test_no_request_to_the_service_is_open_while_the_model_thinks(
        self, server: Server, service: Service, provider: Provider
    ) -> None:
        provider.answer(held(say("at last")))
        event = server.send(service.event("ask"), {"dialect": "openai", "provider": provider.url})
        run = server.started(event)
        provider.wait()
        server.waits_at(run.id, "ask")
        calls = service.calls(run.id)
        provider.release()

        assert text_of("openai", server.completed(event).output) == "at last"
        assert calls == 1
        assert service.calls(run.id) <= 3

    def test_questions_side_by_side_are_asked_side_by_side(
        self, server: Server, service: Service, provider: Provider
    ) -> None:
        provider.answer(held(say("one")), held(say("one")), held(say("one")))
        event = server.send(service.event("ask-many"), {"provider": provider.url})
        assert len(provider.wait(3)) == 3
        provider.release(3)
        run = server.completed(event)

        assert [text_of("openai", reply) for reply in run.output[:3]] == ["one"] * 3
        assert run.output[3] == "done"
        assert service.ran(run.id) == ["beside"]
        assert len(provider.calls) == 3

    def test_a_busy_provider_is_asked_again_when_it_says(
        self, server: Server, service: Service, provider: Provider
    ) -> None:
        provider.answer(fail(429, retry_after_s=2), drop(), say("third time"))
        event = server.send(service.event("ask"), {"dialect": "openai", "provider": provider.url})
        run = server.completed(event)

        assert text_of("openai", run.output) == "third time"
        assert len(provider.calls) == 3
        assert server.trace(run.id).child("ask").attempts == 3
        assert service.ran(run.id) == ["use"]

    def test_a_refusal_is_an_error_of_the_step(self, server: Server, service: Service, provider: Provider) -> None:
        provider.answer(fail(400, f"no such model; your key is {KEY}"))
        event = server.send(service.event("ask"), {"dialect": "openai", "provider": provider.url})
        run = server.failed(event)

        assert "unsuccessful status code: 400" in json.dumps(run.output)
        assert len(provider.calls) == 1
        key_is_nowhere(server, run)

    def test_a_provider_that_stays_broken_fails_the_step_and_shows_no_key(
        self, server: Server, service: Service, provider: Provider
    ) -> None:
        provider.answer(fail(500, f"broken, and your key is {KEY}"))
        event = server.send(service.event("ask"), {"dialect": "openai", "provider": provider.url})
        run = server.failed(event)

        assert "unsuccessful status code: 500" in json.dumps(run.output)
        assert server.trace(run.id).child("ask").attempts == len(provider.calls) > 1
        key_is_nowhere(server, run)

    def test_a_cancelled_run_ends_its_request(self, server: Server, service: Service, provider: Provider) -> None:
        provider.answer(held(say("nobody listens")))
        event = server.send(service.event("ask"), {"dialect": "openai", "provider": provider.url})
        run = server.started(event)
        provider.wait()
        server.waits_at(run.id, "ask")
        server.cancel(run.id)
        provider.release()

        assert server.ended(run.id).status == "Cancelled"
        assert service.ran(run.id) == []


class OfficialAiAcrossRestarts:
    kind: ClassVar[Kind]

    def test_the_service_is_asked_for_its_key_again_after_a_kill(
        self, alone: tuple[Server, Service], provider: Provider
    ) -> None:
        server, service = alone
        service.register()
        provider.answer(held(say("lost")), say("found"))
        event = server.send(service.event("ask"), {"dialect": "openai", "provider": provider.url})
        run = server.started(event)
        provider.wait()
        server.waits_at(run.id, "ask")
        server.kill()
        assert all(KEY.encode() not in path.read_bytes() for path in server.files())
        server.start()
        run = server.completed(event)

        assert text_of("openai", run.output) == "found"
        assert len(provider.calls) == 2
        assert service.ran(run.id) == ["use"]
        assert "credentials" in server.http.get(f"/api/runs/{run.id}/lines").text
        assert "may have been made" in server.http.get(f"/api/runs/{run.id}/lines").text
        key_is_nowhere(server, run)

    def test_parallel_questions_survive_a_kill(self, alone: tuple[Server, Service], provider: Provider) -> None:
        server, service = alone
        service.register()
        provider.answer(*[held(say("lost"))] * 3, say("found"))
        event = server.send(service.event("ask-many"), {"provider": provider.url})
        run = server.started(event)
        provider.wait(3)
        server.wait("the step beside", 15, lambda: service.ran(run.id) or None, run.id)
        server.kill()
        server.start()
        run = server.completed(event)

        assert [text_of("openai", reply) for reply in run.output[:3]] == ["found"] * 3
        assert len(provider.calls) == 6

    def test_a_question_that_came_while_the_service_was_away_waits_for_it(
        self, alone: tuple[Server, Service], provider: Provider
    ) -> None:
        server, service = alone
        service.register()
        provider.answer(held(say("lost")), say("found"))
        event = server.send(service.event("ask"), {"dialect": "openai", "provider": provider.url})
        provider.wait()
        server.kill()
        server.start("--no-poll", "--retry-interval", "5")
        service.restart()
        run = server.completed(event)

        assert text_of("openai", run.output) == "found"


class TestFastApi(OfficialAi):
    kind = "fastapi"

    @pytest.mark.skipif(nodes_wanted() > 0, reason="without a data folder the server has no secret key by itself")
    def test_a_header_names_a_key_that_the_server_keeps(
        self, server: Server, service: Service, provider: Provider
    ) -> None:
        body = {"name": "kept", "hosts": [provider.url], "value": "sk-kept-by-the-server"}
        assert server.http.post("/api/credentials", json=body).status_code in (200, 201)
        provider.answer(say("Good day"))
        event = server.send(service.event("ask-kept"), {"credential": "kept", "provider": provider.url})
        run = server.completed(event)
        (asked,) = provider.calls

        assert text_of("openai", run.output) == "Good day"
        assert asked.headers["authorization"] == "Bearer sk-kept-by-the-server"
        assert "stepwell-credential" not in asked.headers
        key_is_nowhere(server, run)


class TestFlask(OfficialAi):
    kind = "flask"


class TestTypeScript(OfficialAi):
    kind = "typescript"

    def test_the_fetch_of_the_sdk_is_made_by_the_server(
        self, server: Server, service: Service, provider: Provider
    ) -> None:
        run = server.completed(server.send(service.event("fetching"), {"base": provider.url}))

        assert run.output == {"method": "POST", "body": "grüße", "status": 404, "text": "missing"}
        assert len(provider.requests) == 2
        (secret,) = [asked for asked in provider.requests if "404" in asked.path]
        assert KEY in secret.query
        assert secret.headers["authorization"] == f"Bearer {KEY}"
        assert secret.headers["x-key"] == KEY
        assert {asked.headers["user-agent"] for asked in provider.requests} == {"stepwell"}
        key_is_nowhere(server, run)

    @pytest.mark.parametrize("dialect", ["openai-responses", "azure-openai"])
    def test_models_that_only_this_sdk_offers(
        self, dialect: str, server: Server, service: Service, provider: Provider
    ) -> None:
        assert float(ask(dialect, server, service, provider)["cost_usd"]) > 0
        assert provider.calls[0].dialect == dialect

    def test_it_is_a_step_tool_too(self, server: Server, service: Service, provider: Provider) -> None:
        run = server.completed(server.send(service.event("fetching"), {"base": provider.url, "how": "step"}))

        assert run.output == "step"
        assert server.trace(run.id).steps == ["step.fetch: 127.0.0.1"]
        assert [asked.headers["user-agent"] for asked in provider.requests] == ["stepwell"]
        key_is_nowhere(server, run)

    def test_inside_a_step_it_is_a_request_of_the_service(
        self, server: Server, service: Service, provider: Provider
    ) -> None:
        run = server.completed(server.send(service.event("fetching"), {"base": provider.url, "how": "inside"}))

        assert run.output == "inside"
        assert server.trace(run.id).steps == ["inside"]
        assert [asked.headers["user-agent"] for asked in provider.requests] == ["node"]

    def test_requests_side_by_side_have_their_own_answers(
        self, server: Server, service: Service, provider: Provider
    ) -> None:
        run = server.completed(server.send(service.event("fetching"), {"base": provider.url, "how": "many"}))

        assert run.output == [203, 201, 202]
        assert len(provider.requests) == 3

    def test_a_wrapped_call_is_a_step(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("wrapped"), {}))

        assert run.output == {"answer": "really!"}
        assert server.trace(run.id).steps == ["wrap"]

    def test_a_wrapped_call_of_a_provider_is_made_once_and_shows_what_was_said(
        self, server: Server, service: Service, provider: Provider
    ) -> None:
        provider.answer(say("Good day", usage=Usage(input_tokens=12, output_tokens=34)))
        run = server.completed(server.send(service.event("wrapped"), {"provider": provider.url}))
        text = lines_of(server, run)

        assert run.output == "Good day"
        assert server.trace(run.id).steps == ["wrap", "use"]
        assert len(provider.calls) == 1
        assert "user       Hello" in text
        assert "answer     Good day" in text
        assert "12 → 34 tokens" in text


class TestFastApiAcrossRestarts(OfficialAiAcrossRestarts):
    kind = "fastapi"


class TestTypeScriptAcrossRestarts(OfficialAiAcrossRestarts):
    kind = "typescript"
