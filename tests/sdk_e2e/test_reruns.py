"""Runs of our own SDK made again, over the websocket and over HTTP: what is kept, and edited inputs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from stepwell.testing.provider import Provider, held, say
from stepwell.wire.models.dialect import Usage
from tests.fleet import once
from tests.official.harness import Run, Server
from tests.sdk_e2e.harness import PATH, OwnKind, OwnService, a_service

pytestmark = pytest.mark.slow

KEY = "sk-canary-of-our-own-service"  # of the service


@pytest.fixture(scope="class")
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, OwnService]]:
    assert request.cls is not None
    kind, folder = request.cls.kind, tmp_path_factory.mktemp(request.cls.__name__)
    with contextlib.closing(Server(folder, "--redact", "content")) as server:
        server.start()
        with a_service(kind, server, folder, start=False, name=f"again-{kind}", app="again") as service:
            service.start(**request.cls.environment)
            service.register()
            yield server, service


def asked(server: Server, run: str, status: int = 200, key: str = "", **body: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    response = server.http.post(f"/v1/runs/{run}/rerun", json=body, headers=headers)
    assert response.status_code == status, response.text
    answer = response.json()
    return answer["data"] if status == 200 else answer["error"]


def again(server: Server, run: str, **body: Any) -> Run:
    new = server.ended(asked(server, run, **body)["run_id"])
    assert new.status == "Completed", server.explain(new.id)
    return new


def spans(server: Server, run: str) -> dict[str, Any]:
    children = server.http.get(f"/api/runs/{run}").json()["trace"]["children"]
    return {span["name"]: span for span in children if span["step"]}


class OwnReruns:
    kind: ClassVar[OwnKind]
    environment: ClassVar[dict[str, str]] = {}

    def story(self, server: Server, service: OwnService, provider: Provider) -> Run:
        provider.answer(say("Good day", usage=Usage(input_tokens=12, output_tokens=34)), say("Good night"))
        run = server.completed(server.send(service.event("story"), {"provider": provider.url}))
        assert run.output["reply"] == "Good day"
        return run

    def test_a_model_is_asked_something_else_and_nothing_before_it_happens_again(
        self, server: Server, service: OwnService, provider: Provider
    ) -> None:
        run = self.story(server, service, provider)
        before = len(server.events(service.event("paid")))
        new = again(server, run.id, from_step="draft", set={"messages.0.content": "Bye", "model": "gpt-4o"})

        assert new.output == run.output | {
            "reply": "Good night",
            "polished": {"model": "m", "answer": "Good night!"},
            "post": '{"text":"Good night"}',
        }
        assert [one.json["messages"][0]["content"] for one in provider.calls] == ["Hello", "Bye"]
        assert [one.json["model"] for one in provider.calls] == ["gpt-4o-mini", "gpt-4o"]
        assert KEY in json.dumps(provider.calls[1].headers)
        assert service.ran(new.id) == ["polish", "end"]
        assert len(server.events(service.event("paid"))) == before
        found = spans(server, new.id)
        kept = ["tell", "paid", "nap", "call", "left", "right"]
        assert {name: span["origin"] for name, span in found.items()} == dict.fromkeys(kept, run.id) | dict.fromkeys(
            ["draft", "polish", "post", "end"]
        )
        assert [name for name, span in found.items() if span["edited"]] == ["draft"]
        children = server.http.get("/api/runs", params={"function": service.slug("child"), "limit": "100"}).json()
        assert [one["parent"] for one in children["runs"]].count(new.id) == 0
        for path in server.files():
            assert KEY.encode() not in path.read_bytes()

    def test_a_wrapped_call_has_other_arguments(self, server: Server, service: OwnService, provider: Provider) -> None:
        run = self.story(server, service, provider)
        new = again(server, run.id, from_step="polish", set={"question": "Really", "model": "n"})

        assert new.output == run.output | {"polished": {"model": "n", "answer": "Really!"}}
        assert service.ran(new.id) == ["polish", "end"]
        assert len(provider.calls) == 1
        span = spans(server, new.id)["polish"]
        assert (span["edited"], span["input"]) == (True, [{"model": "n", "question": "Really"}])

    def test_a_fetch_sends_something_else(self, server: Server, service: OwnService, provider: Provider) -> None:
        run = self.story(server, service, provider)
        new = again(server, run.id, from_step="post", set={"body.text": "edited", "body.more": [1]})

        assert json.loads(new.output["post"]) == {"text": "edited", "more": [1]}
        (_, second) = [one for one in provider.requests if "/http/echo" in one.path]
        assert second.headers["x-key"] == KEY
        assert service.ran(new.id) == ["end"]
        refused = asked(server, run.id, 409, from_step="post", input={"url": "http://elsewhere.example/"})
        assert "credentials" in refused
        refused = asked(server, run.id, 409, from_step="post", set={"headers": {"X-Key": "mine"}})
        assert "may hold a secret" in refused

    def test_a_request_of_a_library_asks_something_else(
        self, server: Server, service: OwnService, provider: Provider
    ) -> None:
        provider.answer(say("one"), say("two"))
        run = server.completed(server.send(service.event("library"), {"provider": provider.url}))
        (name,) = spans(server, run.id)
        new = again(server, run.id, from_step=name, set={"body.messages.0.content": "Bye", "body.model": "gpt-4o"})

        assert (run.output, new.output) == ("one", "two")
        first, second = provider.calls
        assert (first.json["model"], second.json["model"]) == ("gpt-4o-mini", "gpt-4o")
        assert second.json["messages"][0]["content"] == "Bye"
        assert KEY in json.dumps(second.headers)

    def test_without_an_edit_the_step_and_what_follows_happen_anew(
        self, server: Server, service: OwnService, provider: Provider
    ) -> None:
        run = self.story(server, service, provider)
        new = again(server, run.id, from_step="right")
        assert set(service.ran(new.id)) - {"left"} == {"right", "polish", "end"}
        assert {spans(server, new.id)[name]["origin"] for name in ("tell", "paid", "nap", "call")} == {run.id}
        assert new.output["sum"] == 3

    def test_a_whole_run_again(self, server: Server, service: OwnService, provider: Provider) -> None:
        run = self.story(server, service, provider)
        new = again(server, run.id)
        assert new.output["reply"] == "Good night"
        assert sorted(service.ran(new.id)) == sorted(service.ran(run.id))
        assert not any(span["origin"] for span in spans(server, new.id).values())

    def test_a_rerun_of_a_rerun_says_where_a_result_happened(
        self, server: Server, service: OwnService, provider: Provider
    ) -> None:
        run = self.story(server, service, provider)
        second = again(server, run.id, from_step="polish", set={"question": "two"})
        compared = server.http.get(f"/api/runs/{run.id}/compare/{second.id}").json()
        same = {step["name"] for step in compared["steps"] if step["same"]}
        assert {"draft", "call"} <= same
        assert "polish" not in same
        assert compared["new"]["cost_usd"] is None  # the model was asked by the old run alone
        assert float(compared["old"]["cost_usd"]) > 0
        third = again(server, second.id, from_step="end")
        assert third.output["polished"]["answer"] == "two!"
        found = spans(server, third.id)
        assert (found["draft"]["origin"], found["polish"]["origin"]) == (run.id, second.id)

    def test_one_key_makes_one_run(self, server: Server, service: OwnService, provider: Provider) -> None:
        run = self.story(server, service, provider)
        first = asked(server, run.id, key="k1", from_step="end")
        twice = asked(server, run.id, key="k1", from_step="end")
        other = asked(server, run.id, key="k2", from_step="end")
        assert (first["doubled"], twice["doubled"], other["doubled"]) == (False, True, False)
        assert first["run_id"] == twice["run_id"] != other["run_id"]
        assert server.ended(first["run_id"]).status == server.ended(other["run_id"]).status == "Completed"

    def test_a_plain_function(self, server: Server, service: OwnService) -> None:
        run = server.completed(server.send(service.event("plain"), {}))
        new = again(server, run.id, from_step="polish", input=["how"])
        assert (run.output, new.output) == ([1, "why!"], [1, "how!"])
        assert service.ran(new.id) == ["polish"]

    def test_what_blocks_an_edit_is_named_and_a_failed_call_can_be_edited(
        self, server: Server, service: OwnService
    ) -> None:
        run = server.failed(server.send(service.event("blocked"), {}))
        error = asked(server, run.id, 409, from_step="opaque", set={"question": "how"})
        assert "its argument 'client' is of the type Opaque" in error
        assert spans(server, run.id)["strict"]["input"] == [{"model": "bad"}]
        assert again(server, run.id, from_step="strict", set={"model": "good"}).output == "good"
        assert "no step 'nothing'; it has opaque, strict" in asked(server, run.id, 404, from_step="nothing")

    def test_a_run_that_has_not_ended_is_refused(self, server: Server, service: OwnService, provider: Provider) -> None:
        provider.answer(held(say("at last")))
        run = server.started(server.send(service.event("story"), {"provider": provider.url}))
        provider.wait()
        assert "has not ended" in asked(server, run.id, 409, from_step="draft")
        provider.release()
        assert server.ended(run.id).status == "Completed"

    def test_the_command_shows_both_side_by_side(self, server: Server, service: OwnService, provider: Provider) -> None:
        run = self.story(server, service, provider)
        command = [sys.executable, "-m", "stepwell.cli", "rerun", run.id, "--url", server.url, "--from", "draft"]
        more = ["--set", "messages.0.content=Bye", "--set", "model=gpt-4o", "--compare"]
        environment = {**os.environ, "PYTHONPATH": PATH, "COLUMNS": "120"}
        done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=60, env=environment)
        assert done.returncode == 0, done.stderr
        assert "6 results kept" in done.stderr
        lines = done.stdout.splitlines()
        answer = next(line for line in lines if line.startswith("answer"))
        assert "Good day" in answer
        assert "Good night" in answer
        assert any(line.startswith("tokens") and "12 → 34" in line for line in lines)
        assert any(line.startswith("model") and "gpt-4o-mini" in line for line in lines)
        assert any(line.startswith("user") and line.count("***") == 2 for line in lines)  # --redact content
        same = next(line for line in lines if line.startswith("the same in both: "))
        assert {"tell", "paid", "nap", "call", "left", "right"} <= set(same.partition(": ")[2].split(", "))


class TestWorker(OwnReruns):
    kind = "worker"


class TestUvicorn(OwnReruns):
    kind = "uvicorn"


@once
class TestUvicornWithoutCheckpoints(OwnReruns):
    kind = "uvicorn"
    environment: ClassVar = {"CHECKPOINTS_OFF": "1"}
