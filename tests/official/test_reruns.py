"""Runs on the official SDKs, unmodified, made again from a step with another input."""

import json
from typing import Any, ClassVar

import pytest

from stepwell.testing.provider import Provider, say
from tests.official.harness import Kind, Run, Server, Service
from tests.official.test_ai import KEY, key_is_nowhere, text_of

pytestmark = pytest.mark.official


def again(server: Server, run: str, **body: Any) -> Run:
    """The run that makes another one again, once it has ended."""
    response = server.http.post(f"/v1/runs/{run}/rerun", json=body)
    assert response.status_code == 200, response.text
    return server.ended(response.json()["data"]["run_id"])


def refused(server: Server, run: str, **body: Any) -> str:
    response = server.http.post(f"/v1/runs/{run}/rerun", json=body)
    assert response.status_code == 409, response.text
    return str(response.json()["error"])


class OfficialReruns:
    kind: ClassVar[Kind]

    @pytest.mark.parametrize("dialect", ["openai", "anthropic", "gemini"])
    def test_a_model_is_asked_something_else(
        self, dialect: str, server: Server, service: Service, provider: Provider
    ) -> None:
        provider.answer(say("Good day"), say("Good night"))
        run = server.completed(server.send(service.event("ask"), {"dialect": dialect, "provider": provider.url}))
        path = "contents.0.parts.0.text" if dialect == "gemini" else "messages.0.content"
        new = again(server, run.id, from_step="ask", set={path: "Bye", "model": "another-model"})

        assert new.status == "Completed"
        assert text_of(dialect, new.output) == "Good night"
        first, second = provider.calls
        assert "Hello" in json.dumps(first.json)
        assert "Bye" in json.dumps(second.json)
        assert "Hello" not in json.dumps(second.json)
        assert "another-model" in (second.path if dialect == "gemini" else json.dumps(second.json))
        assert KEY in json.dumps([second.headers, second.query])
        assert service.ran(new.id) == ["use"]
        key_is_nowhere(server, new)

    def test_what_comes_before_the_step_is_kept(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("linear"), {}))
        new = again(server, run.id, from_step="three")

        assert (new.status, new.output) == ("Completed", run.output)
        assert service.ran(new.id) == ["three"]
        spans = server.http.get(f"/api/runs/{new.id}").json()["trace"]["children"]
        assert [(span["name"], span["origin"]) for span in spans if span["step"]] == [
            ("one", run.id),
            ("two", run.id),
            ("three", None),
        ]

    def test_a_whole_run_with_other_data(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("linear"), {"echo": "old"}))
        new = again(server, run.id, set={"echo": "new"})

        assert (run.output["echo"], new.output["echo"]) == ("old", "new")
        assert service.ran(new.id) == ["one", "two", "three"]

    def test_a_child_behind_the_step_is_started_once(self, server: Server, service: Service) -> None:
        data = {"target": "child", "how": "double", "seconds": None}
        run = server.completed(server.send(service.event("parent"), data))
        new = again(server, run.id, from_step="call")
        assert new.output == run.output == {"result": {"doubled": 42}}
        children = server.http.get("/api/runs", params={"function": service.slug("child"), "limit": "100"})
        parents = [one["parent"] for one in children.json()["runs"]]
        assert parents.count(run.id) == parents.count(new.id) == 1


class PythonReruns(OfficialReruns):
    def test_its_steps_take_no_other_arguments(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("linear"), {}))
        error = refused(server, run.id, from_step="two", input=[1])
        assert "Inngest's Python SDK" in error


class TestFastApi(PythonReruns):
    kind = "fastapi"


class TestFlask(PythonReruns):
    kind = "flask"


class TestTypeScript(OfficialReruns):
    kind = "typescript"

    def test_a_wrapped_call_has_other_arguments(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("wrapped"), {}))
        new = again(server, run.id, from_step="wrap", set={"question": "truly"})

        assert run.output == {"answer": "really!"}
        assert new.output == {"answer": "truly!"}
        (span,) = [
            one for one in server.http.get(f"/api/runs/{new.id}").json()["trace"]["children"] if one["name"] == "wrap"
        ]
        assert (span["edited"], span["input"]) == (True, [{"question": "truly"}])

    def test_the_protocols_own_rerun(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("wrapped"), {}))
        (step,) = [
            one["step"] for one in server.http.get(f"/api/runs/{run.id}").json()["trace"]["children"] if one["step"]
        ]
        query = """mutation Rerun($runID: ULID!, $fromStep: RerunFromStepInput) {
          rerun(runID: $runID, fromStep: $fromStep) }"""
        variables = {"runID": run.id, "fromStep": {"stepID": step, "input": '[{"question": "surely"}]'}}
        new = server.ended(server.graphql(query, variables)["rerun"])

        assert new.output == {"answer": "surely!"}
