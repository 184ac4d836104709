"""A real engine instead of the stand-in: llama.cpp, with random weights that the suite writes, behind OpenAI's API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.libraries.environments import python_of
from tests.official.harness import ROOT, Program, Server, free_port, until
from tests.sdk_e2e.harness import PATH, OwnService, a_server, a_service

pytestmark = [pytest.mark.slow, pytest.mark.long]

HERE = Path(__file__).parent
KEY = "sk-canary-of-a-library"
BUILD = {"CMAKE_ARGS": "-DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DLLAVA_BUILD=OFF", "CMAKE_BUILD_PARALLEL_LEVEL": "2"}
"""The engine comes as source: ten minutes of two cores, once."""


@dataclass(frozen=True)
class Engine:
    """A server of OpenAI's API. Its log tells each request and its status: it may fail when several come at once."""

    url: str
    program: Program

    @property
    def answered(self) -> int:
        return self.program.log.read_text(errors="replace").count('"POST /v1/chat/completions HTTP/1.1" 200')


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    python, folder, port = str(python_of("llama-cpp-python", **BUILD)), tmp_path_factory.mktemp("engine"), free_port()
    model = str(folder / "tiny.gguf")
    environment = {"PYTHONPATH": PATH, "PYTHONUNBUFFERED": "1"}
    subprocess.run(
        [python, "-m", "tests.libraries.tiny_model", model], env={**os.environ, **environment}, cwd=ROOT, check=True
    )
    command = [python, "-m", "llama_cpp.server", "--model", model, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--n_threads", "1", "--n_ctx", "256"]
    program = Program("engine", command, environment, folder / "engine.log", ROOT)
    try:
        until("the engine answers", 120, lambda: "Uvicorn running" in program.tail() or None, program.tail)
        yield Engine(f"http://127.0.0.1:{port}", program)
    finally:
        program.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with a_server(tmp_path_factory.mktemp("server")) as server:
        yield server


def kill_both(server: Server, service: OwnService, **environment: str) -> None:
    service.program.stop(signal.SIGKILL)
    server.kill()
    server.start()
    service.start(**environment)


def test_a_library_asks_it_and_no_kill_repeats_a_call(engine: Engine, server: Server, tmp_path: Path) -> None:
    python = str(python_of("openai"))
    environment = {"LIBRARY": "openai_chat", "PROVIDER": engine.url, "KEY": KEY}
    app = str(HERE / "service")
    with a_service("worker", server, tmp_path, start=False, name="engine-library", app=app, python=python) as service:
        service.start(**environment)
        before = engine.answered
        event = server.send(service.event("asynchronous"), {"nap": "2s"})
        server.waits_at(server.started(event).id, "nap", 60)
        kill_both(server, service, **environment)
        run = server.completed(event, seconds=120)

    assert len(run.output) == 4
    assert all(run.output)
    assert engine.answered - before == 4


def test_infer_asks_it_for_text_and_calls_of_tools(engine: Engine, server: Server, tmp_path: Path) -> None:
    environment = {"PROVIDER": engine.url, "KEY": KEY}
    with a_service("worker", server, tmp_path, start=False, name="engine-infer", app=str(HERE / "engine")) as service:
        service.start(**environment)
        before = engine.answered
        event = server.send(service.event("inferred"), {"nap": "2s"})
        server.waits_at(server.started(event).id, "nap", 60)
        kill_both(server, service, **environment)
        answer = server.completed(event, seconds=120).output

    assert answer["text"]
    [[name, arguments]] = answer["calls"]
    assert name == "weather"
    called = json.loads(arguments)
    assert called["rain"] in (True, False)
    assert called["wind"] in ("none", "weak", "strong")
    assert engine.answered - before == 2
