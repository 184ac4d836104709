"""Each example, run the way its docstring says: with a real `stepwell dev`, and programs beside it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest

import stepwell
from stepwell.testing.provider import Provider, say
from tests.docs.test_pages import commands_in, take

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
FILES = sorted(path for path in EXAMPLES.rglob("*.py") if path.name not in {"demo.py"})
T = TypeVar("T")


class Dev:
    """A running `stepwell dev`."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self.log = log
        self.client = stepwell.Client(url)

    def send(self, name: str, data: Any) -> stepwell.Run[Any]:
        sent = self.client.send({"name": name, "data": data})
        (run, *_) = self.client.runs(event=sent.ids[0], wait=20)
        return run

    def until(self, what: str, look: Callable[[], T | None]) -> T:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found = look()
            if found is not None:
                return found
            time.sleep(0.05)
        raise AssertionError(f"waited in vain for {what}\n{self.log.read_text(errors='replace')[-3000:]}")

    def get(self, path: str) -> Any:
        try:
            answer = httpx2.get(f"{self.url}{path}")
        except httpx2.HTTPError:
            return None
        return answer.json() if answer.is_success else None

    def waits(self, run: stepwell.Run[Any], step: str) -> None:
        def waiting() -> bool | None:
            children = self.get(f"/api/runs/{run.id}")["trace"]["children"]
            return True if any(one["name"] == step and one["ended_at"] is None for one in children) else None

        self.until(f"{step} to wait", waiting)


def free_port() -> int:
    """A port that is free on both loopbacks, since `localhost` may be either."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as four:
            port = int(four.getsockname()[1])
            try:
                with socket.create_server(("::1", port), family=socket.AF_INET6):
                    return port
            except OSError as err:
                if err.errno in (97, 99):  # there is no IPv6 here
                    return port


@contextmanager
def program(command: Sequence[str], log: Path, **environment: str) -> Iterator[None]:
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def dev(folder: Path, target: str | None = None, *options: str) -> Iterator[Dev]:
    """A server for development, ready when the target's functions are registered."""
    port = free_port()
    command = [sys.executable, "-m", "stepwell.cli", "dev", *([target] if target else []), "--port", str(port)]
    command += ["--data", str(folder / "state"), "--no-discovery", "--no-reload", *options]
    log = folder / "dev.log"
    with program(command, log):
        found = Dev(f"http://localhost:{port}", log)
        found.until("the server", lambda: found.get("/health"))
        if target is not None:
            found.until("the functions", lambda: (found.get("/api/functions") or {}).get("functions") or None)
        with found.client:
            yield found


def test_the_quickstart_greets(tmp_path: Path) -> None:
    with dev(tmp_path, "examples/quickstart/app.py") as server:
        assert server.send("hello/greet", {"name": "Ada"}).result(30) == "Hello, Ada. Your name has 3 letters."


def test_parallel_measures_all_cities_at_once(tmp_path: Path) -> None:
    with dev(tmp_path, "examples/parallel.py") as server:
        began = time.monotonic()
        report = server.send("weather/asked", {"cities": ["Oslo", "Rome", "Lima"]}).result(30)
        assert set(report["degrees"]) == {"Oslo", "Rome", "Lima"}
        assert report["source"] == "quick"
        assert time.monotonic() - began < 4  # the slow one takes five seconds


def test_models_are_asked_by_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = {"title": "Fire", "urgent": True}
    with Provider(lambda asked: say(json=summary) if b"Sum up" in asked.body else say("Run!")) as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{provider.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-of-the-example")
        with dev(tmp_path, "examples/models.py") as server:
            ticket = {"text": "The printer is on fire", "customer": f"{provider.url}/http/status/404"}
            result = server.send("support/ticket.created", ticket).result(30)
        assert result == {"summary": summary, "customer_status": 404, "draft": "Run!", "tokens": result["tokens"]}
        assert result["tokens"] > 0
        assert {asked.headers["authorization"] for asked in provider.calls} == {"Bearer sk-canary-of-the-example"}
    state = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert state
    assert not any(b"sk-canary" in path.read_bytes() for path in state)


def test_a_library_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Provider(lambda asked: say("an essay" if b"Join" in asked.body else "a part")) as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{provider.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-of-the-example")
        with dev(tmp_path, "examples/durable_library.py") as server:
            essay = {"topic": "tea", "parts": ["history", "taste"]}
            assert server.send("essay/asked", essay).result(30) == "an essay"
        assert len(provider.calls) == 3
        assert provider.calls[2].json["messages"][0]["content"] == "Join these:\na part\na part"


def test_approval_waits_for_the_decision_on_this_expense(tmp_path: Path) -> None:
    with dev(tmp_path, "examples/approval.py") as server:
        assert server.send("expenses/handed-in", {"id": "e0", "amount": 9}).result(30) == "approved: small enough"
        run = server.send("expenses/handed-in", {"id": "e1", "amount": 900})
        server.waits(run, "decision")
        for expense in ("e2", "e1"):
            decision = {"id": expense, "approved": expense == "e1", "by": "Grace"}
            server.client.send({"name": "expenses/decided", "data": decision})
        assert run.result(30) == "approved by Grace"


def test_cleanup_gives_back_what_the_cancelled_run_had_booked(tmp_path: Path) -> None:
    with dev(tmp_path, "examples/cleanup.py") as server:
        run = server.send("rooms/booked", {"room": 7})
        server.waits(run, "until-checkout")
        server.client.send({"name": "rooms/revoked", "data": {"room": 7}})
        with pytest.raises(stepwell.RunCancelled):
            run.result(30)
        freed = server.until("the cleanup", lambda: server.client.runs(function="rooms/give-back") or None)
        assert freed[0].result(30) == "room 7 is free again"


def test_fastapi_starts_runs_and_tells_of_them(tmp_path: Path) -> None:
    port = free_port()
    address = f"http://localhost:{port}"
    with ExitStack() as stack:
        server = stack.enter_context(dev(tmp_path, None, "--service-url", f"{address}/api/inngest"))
        serve = [sys.executable, "-m", "uvicorn", "examples.fastapi_app:app", "--port", str(port)]
        stack.enter_context(
            program(serve, tmp_path / "web.log", STEPWELL_DEV="1", STEPWELL_URL=server.url, PYTHONPATH=str(ROOT))
        )
        server.until("the functions", lambda: (server.get("/api/functions") or {}).get("functions") or None)
        run = httpx2.post(f"{address}/greetings", params={"name": "Ada"}).json()["run"]

        def greeting() -> Any:
            found = httpx2.get(f"{address}/greetings/{run}")
            return found.json()["greeting"] if found.is_success else None

        assert server.until("the greeting", greeting) == "Hello, Ada."


def test_schedule_once_runs_now_what_is_due_and_not_what_was_revoked(tmp_path: Path) -> None:
    with dev(tmp_path, "examples/schedule_once.py") as server:
        told = subprocess.run(
            [sys.executable, "examples/schedule_once.py"],
            cwd=ROOT,
            env={**os.environ, "STEPWELL_URL": server.url},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        lines = ["taxes: QUEUED", "taxes: CANCELLED", "tea: QUEUED", "Remember: tea"]
        assert told.stdout.splitlines() == lines


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_a_docstring_says_how_to_run_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    docstring = text.split('"""')[1]
    for line in docstring.splitlines():
        for words in commands_in(line.strip()) if "stepwell " in line and not line.strip().startswith("#") else []:
            take(words)
    for target in re.findall(r"examples/\S+\.py", docstring):
        assert (ROOT / target).exists(), target
    for data in re.findall(r"stepwell send \S+ '(.*?)'", docstring):
        assert isinstance(json.loads(data), dict)
