"""Libraries of AI providers and frameworks on top of them, as they are: each in an environment of its own, in a worker
that `stepwell.http` makes durable."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import pytest

from stepwell.testing.provider import Asked, Provider, Reply, Say, fail, held, say
from stepwell.wire.models import dialect_for
from tests.libraries.environments import OFFLINE, python_of
from tests.official.harness import ROOT, Program, Server, free_port, until
from tests.sdk_e2e.harness import PATH, OwnService, a_server, a_service

pytestmark = pytest.mark.slow

KEY = "sk-canary-of-a-library"
SERVICE = str(Path(__file__).with_name("service"))


@dataclass(frozen=True)
class Library:
    """A module of `apps`, and the environment it needs.

    Attributes:
        repeats: It repeats what failed; `says so` if that can be told from a new request.
    """

    module: str
    environment: str
    repeats: Literal["says so", "silently", "never"] = "says so"


LIBRARIES = [
    Library("openai_chat", "openai"),
    Library("openai_responses", "openai"),
    Library("anthropic_messages", "anthropic"),
    Library("google_genai", "google-genai", "silently"),
    Library("mistral", "mistralai", "silently"),
    Library("pydantic_agent", "pydantic-ai"),
    Library("openai_agent", "openai-agents"),
    Library("langchain_model", "langchain-openai"),
    Library("mcp_tools", "mcp", "never"),
]
LONG = [Library("litellm_completion", "litellm")]


@dataclass(frozen=True)
class Case:
    """A library in a worker that a server knows. The provider is to answer at `port`; a library of models asks it
    itself, a tool of MCP does so for its client, which asks at `asked_port`."""

    library: Library
    server: Server
    service: OwnService
    port: int
    asked_port: int
    environment: dict[str, str]


@pytest.fixture(scope="session")
def only_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with a_server(tmp_path_factory.mktemp("libraries")) as server:
        yield server


@pytest.fixture(
    scope="module",
    params=[*LIBRARIES, *(pytest.param(library, marks=pytest.mark.long) for library in LONG)],
    ids=lambda library: library.module,
)
def case(
    request: pytest.FixtureRequest, only_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    library: Library = request.param
    python = str(python_of(library.environment))
    folder, name, port = tmp_path_factory.mktemp(library.module), library.module.replace("_", "-"), free_port()
    environment = {"LIBRARY": library.module, "PROVIDER": f"http://127.0.0.1:{port}", "KEY": KEY, "PYTHONPATH": PATH}
    environment |= OFFLINE
    with contextlib.ExitStack() as stack:
        asked_port = port
        if library.environment == "mcp":
            asked_port = stack.enter_context(tools(python, folder, environment))
            environment["TOOLS"] = f"http://127.0.0.1:{asked_port}"
        service = a_service("worker", only_server, folder, start=False, name=name, app=SERVICE, python=python)
        worker = stack.enter_context(service)
        worker.start(**environment)
        yield Case(library, only_server, worker, port, asked_port, {**environment, "PYTHON": python})


@contextlib.contextmanager
def tools(python: str, folder: Path, environment: dict[str, str]) -> Iterator[int]:
    """A server of MCP, and its port."""
    port = free_port()
    command = [python, "-m", "tests.libraries.tools"]
    program = Program("tools", command, {**environment, "PORT": str(port)}, folder / "tools.log", ROOT)
    try:
        until("the tools answer", 60, lambda: _listens(port), program.tail)
        yield port
    finally:
        program.stop()


def _listens(port: int) -> Literal[True] | None:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return None


@pytest.fixture
def provider(case: Case) -> Iterator[Provider]:
    with Provider(port=case.port) as provider:
        yield provider


def prompt(call: Asked) -> str:
    return dialect_for(call.dialect, call.path).prompt(call.path, call.body).messages[-1].text


def louder(call: Asked) -> Say:
    return say(prompt(call).upper())


def louder_when_released(call: Asked) -> Reply:
    return held(louder(call))


def callers(case: Case, pid: int) -> int:
    """How many connections a process has to what the library asks."""
    connections = psutil.Process(pid).net_connections("tcp")
    return sum(
        bool(one.raddr) and one.raddr.port == case.asked_port and one.status == "ESTABLISHED" for one in connections
    )


def paused(case: Case, provider: Provider, function: str) -> str:
    """The event of a function that is in its pause, when its three calls at once have been answered."""
    server, service = case.server, case.service
    provider.answer(louder_when_released)
    event = server.send(service.event(function), {"nap": "2s"})
    provider.wait(3)
    assert provider.most_in_flight == 3
    assert server.program is not None
    assert callers(case, server.program.process.pid) >= 3
    assert callers(case, service.program.process.pid) == 0
    provider.release(3)
    server.waits_at(server.started(event).id, "nap")
    return event


def test_no_kill_repeats_a_call_that_was_answered(case: Case, provider: Provider) -> None:
    server, service = case.server, case.service
    event = paused(case, provider, "asynchronous")
    service.program.stop(signal.SIGKILL)
    server.kill()  # between calls
    server.start()
    service.start(**case.environment)
    provider.wait(4, timeout_s=30)
    server.kill()  # during a call
    provider.answer(louder)
    provider.release()
    server.start()

    assert server.completed(event, seconds=60).output == ["ONE", "TWO", "THREE", "FOUR"]
    asked = [prompt(call) for call in provider.calls]
    assert sorted(asked) == sorted(["one", "two", "three", "four", "four"])  # of the last nobody knew the answer
    assert [path for path in server.files() if KEY.encode() in path.read_bytes()] == []


def test_a_plain_function_calls_in_the_same_way(case: Case, provider: Provider) -> None:
    event = paused(case, provider, "plain")
    provider.answer(louder)
    case.service.program.stop(signal.SIGKILL)
    case.service.start(**case.environment)

    assert case.server.completed(event, seconds=60).output == ["ONE", "TWO", "THREE", "FOUR"]
    assert sorted(map(prompt, provider.calls)) == sorted(["one", "two", "three", "four"])


def test_the_retries_of_a_library_are_no_second_request_of_a_step(case: Case, provider: Provider) -> None:
    if case.library.repeats == "never":
        pytest.skip("it repeats nothing")
    provider.answer(fail(429))
    run = case.server.completed(case.server.send(case.service.event("refused"), {}))

    assert "Error" in run.output
    attempts = [step.attempts or 0 for step in case.server.trace(run.id).children if step.name != "Finalization"]
    assert set(attempts) == {2}
    assert len(provider.calls) == sum(attempts)  # each by the function's one retry
    log = case.service.program.log.read_text(errors="replace")
    if case.library.repeats == "says so":
        assert len(attempts) == 1
        assert "a library repeats the request" in log
    else:
        assert len(attempts) > 1
        assert "is made again although" in log


def test_in_a_step_it_calls_directly(case: Case, provider: Provider) -> None:
    provider.answer(louder_when_released)
    event = case.server.send(case.service.event("inside"), {})
    provider.wait(1)
    assert callers(case, case.service.program.process.pid) == 1
    provider.release()
    run = case.server.completed(event)

    assert run.output == "ONE"
    assert case.server.trace(run.id).steps == ["draft"]


def test_outside_of_functions_nothing_changes(case: Case, provider: Provider) -> None:
    provider.answer(louder)
    done = subprocess.run(
        [case.environment["PYTHON"], "-m", "tests.libraries.outside"],
        env={**os.environ, **case.environment}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers: dict[str, str] = json.loads(done.stdout)
    assert answers == {way: way.upper() for way in answers}
    assert {"asked", "streamed", "asked_now"} <= answers.keys()
