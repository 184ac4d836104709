"""The official Python SDK, unmodified, against Stepwell: asynchronous on FastAPI and synchronous on Flask."""

import pytest

from tests.official.behaviour import OfficialSdk, OfficialSdkAcrossRestarts
from tests.official.harness import FUNCTION, Server, Service

pytestmark = pytest.mark.official


class PythonSdk(OfficialSdk):
    error_name = "ValueError"
    step_error = ("KeyError", "'no such row'")

    def test_a_function_of_n_steps_takes_n_and_one_requests(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("steps"), {"count": 5}))

        assert service.calls(run.id) == 6

    def test_racing_branches_do_not_wait_for_each_other(self, server: Server, service: Service) -> None:
        run = server.completed(server.send(service.event("parallel"), {"mode": "race"}))

        assert service.calls(run.id) == 9

    def test_the_failure_of_a_function_is_told_as_the_sdk_described_it(self, server: Server, service: Service) -> None:
        run = server.failed(server.send(service.event("failing"), {}))
        error = server.internal_event("inngest/function.failed", run.id)["data"]["error"]

        assert (run.output["name"], run.output["message"], run.output["code"]) == ("ValueError", "bad input", "unknown")
        assert "Traceback" in run.output["stack"]
        assert error == {
            "error": "invalid status code: 500",
            "name": "ValueError",
            "message": "bad input",
            "stack": run.output["stack"],
        }
        assert service.attempts(run.id, FUNCTION) == [0, 0, 1]


class TestFastApi(PythonSdk):
    kind = "fastapi"


class TestFlask(PythonSdk):
    kind = "flask"


class TestFastApiAcrossRestarts(OfficialSdkAcrossRestarts):
    kind = "fastapi"
