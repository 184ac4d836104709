"""The libraries of OpenAI and Anthropic as they are, on `stepwell.http`, over the websocket and over HTTP."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from stepwell.testing.provider import Provider, fail, held, say
from stepwell.wire.models.dialect import Usage
from tests.fleet import once
from tests.official.harness import Run, Server
from tests.sdk_e2e.harness import OwnKind, OwnService

pytestmark = pytest.mark.slow
APP = "libraries"

KEY = "sk-canary-of-a-library"  # of the service
WORDS = ["one", "two", "three"]


def prompts(provider: Provider) -> list[str]:
    return [call.json["messages"][-1]["content"] for call in provider.calls]


def key_is_nowhere(server: Server, run: Run) -> None:
    written = {path: path.read_bytes() for path in server.files()}
    assert any(run.id.encode() in text for text in written.values())  # it is there that we look
    assert [path for path, text in written.items() if KEY.encode() in text] == []
    for what in ("", "/lines"):
        assert KEY not in server.http.get(f"/api/runs/{run.id}{what}").text


def repeated(call: Any) -> Any:
    return say(call.json["messages"][-1]["content"].upper())


class OwnLibraries:
    kind: ClassVar[OwnKind]

    def test_three_calls_at_once_are_three_at_once(
        self, server: Server, service: OwnService, provider: Provider
    ) -> None:
        provider.answer(held(say("Hi")))
        event = server.send(service.event("three"), {"provider": provider.url})
        provider.wait(3)
        assert provider.most_in_flight == 3
        provider.answer(say("Bye"))
        provider.release(3)
        run = server.completed(event)

        assert run.output == ["Hi", "Hi", "Hi", "Bye"]
        assert sorted(prompts(provider)) == sorted([*WORDS, "four"])
        assert all(call.headers["authorization"] == f"Bearer {KEY}" for call in provider.calls)
        key_is_nowhere(server, run)

    def test_answers_are_the_same_after_the_function_left_memory(
        self, server: Server, service: OwnService, provider: Provider
    ) -> None:
        provider.answer(repeated)
        run = server.completed(server.send(service.event("three"), {"provider": provider.url, "nap": "7s"}))

        assert run.output == ["ONE", "TWO", "THREE", "FOUR"]
        assert len(provider.calls) == 4
        assert service.calls(run.id) >= 2

    def test_a_kill_of_the_server_repeats_no_call_that_was_answered(
        self, server: Server, service: OwnService, provider: Provider
    ) -> None:
        def hold_the_last(call: Any) -> Any:
            reply = repeated(call)
            return held(reply) if "four" in str(call.json) else reply

        provider.answer(hold_the_last)
        event = server.send(service.event("three"), {"provider": provider.url})
        provider.wait(4)
        server.kill()
        provider.answer(repeated)
        provider.release()
        server.start()
        run = server.completed(event, seconds=60)

        assert run.output == ["ONE", "TWO", "THREE", "FOUR"]
        asked = prompts(provider)
        assert sorted(word for word in asked if word != "four") == sorted(WORDS)
        assert asked.count("four") == 2  # what became of it was unknown
        key_is_nowhere(server, run)

    def test_nor_does_one_between_the_calls(self, server: Server, service: OwnService, provider: Provider) -> None:
        provider.answer(repeated)
        event = server.send(service.event("three"), {"provider": provider.url, "nap": "2s"})
        server.waits_at(server.started(event).id, "nap")
        server.kill()
        server.start()

        assert server.completed(event, seconds=60).output == ["ONE", "TWO", "THREE", "FOUR"]
        assert sorted(prompts(provider)) == sorted([*WORDS, "four"])

    def test_a_recorded_stream_is_a_stream(self, server: Server, service: OwnService, provider: Provider) -> None:
        provider.answer(say(["Be", "cause"]), say(["Some", "how"]))
        run = server.completed(server.send(service.event("streamed"), {"provider": provider.url, "nap": "7s"}))

        assert run.output == ["Because", "Somehow"]
        assert [call.streamed for call in provider.calls] == [True, True]

    def test_a_plain_function(self, server: Server, service: OwnService, provider: Provider) -> None:
        used = Usage(input_tokens=7, output_tokens=2)
        provider.answer(say("Because", usage=used), say("Somehow", usage=used))
        run = server.completed(server.send(service.event("plain"), {"provider": provider.url}))
        lines = server.http.get(f"/api/runs/{run.id}/lines").json()["lines"]
        text = "\n".join("".join(piece for _, piece in line) for line in lines)

        assert run.output == ["Because", "Somehow"]
        assert len(provider.calls) == 2
        assert text.count("7 → 2 tokens") == 2
        for said in ("user       why?", "answer     Because", "user       how?", "answer     Somehow", "$0.0"):
            assert said in text
        key_is_nowhere(server, run)

    def test_a_client_of_httpx(self, server: Server, service: OwnService, provider: Provider) -> None:
        run = server.completed(server.send(service.event("old"), {"provider": provider.url}))

        assert run.output == ["httpx", '{"a":1}']

    def test_the_retries_of_a_library_ask_nobody(self, server: Server, service: OwnService, provider: Provider) -> None:
        provider.answer(fail(429, retry_after_s=1))
        run = server.completed(server.send(service.event("refused"), {"provider": provider.url}))

        assert run.output == "RateLimitError"
        assert len(provider.calls) == 2  # by the function's one retry, not by the library's
        assert "a library repeats the request" in service.program.log.read_text(errors="replace")

    def test_a_request_that_changes_ends_the_run_and_names_the_field(
        self, server: Server, service: OwnService, provider: Provider
    ) -> None:
        provider.answer(say("Hi"))
        run = server.failed(server.send(service.event("changing"), {"provider": provider.url, "nap": "7s"}))

        assert "RequestChanged" in str(run.output)
        assert "in body.messages.0.content" in str(run.output)
        assert len(provider.calls) == 1

    def test_in_a_step_it_calls_directly(self, server: Server, service: OwnService, provider: Provider) -> None:
        provider.answer(repeated)
        run = server.completed(server.send(service.event("inside"), {"provider": provider.url}))

        assert run.output == ["ONE", "TWO"]
        assert len(provider.calls) == 2
        draft, asked = server.trace(run.id).children[:2]
        assert (draft.name, draft.step_op) == ("draft", "RUN")
        assert asked.name.startswith(f"POST {provider.url.removeprefix('http://')}/v1/chat/completions ")


class TestWorker(OwnLibraries):
    kind = "worker"


@once
class TestUvicorn(OwnLibraries):
    kind = "uvicorn"
