"""Apps in a whole server: imported, called over HTTP, cancelled, and what becomes of them when the server stops."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from stepwell.apps.environment import EnvironmentSettings
from stepwell.apps.settings import AppSettings
from stepwell.server import Server
from stepwell.server.settings import ServerSettings
from tests.apps.harness import python
from tests.apps.wheels import repack
from tests.apps.workers import alive

pytestmark = pytest.mark.slow

CODE = """
    import asyncio, os
    from inferencesh import BaseApp, BaseAppInput, BaseAppOutput, File

    class Input(BaseAppInput):
        text: str = ""
        wait: str = ""

    class Output(BaseAppOutput):
        text: str
        pid: int
        made: File | None = None

    class App(BaseApp):
        async def setup(self):
            print("setting up")
        async def run(self, input: Input) -> Output:
            print("called with", input.text)
            if input.wait:
                with open(os.path.join(os.environ["XDG_CACHE_HOME"], "began"), "a") as file:
                    file.write(f"{os.getpid()}\\n")
            while input.wait and not os.path.exists(os.path.join(os.environ["XDG_CACHE_HOME"], input.wait)):
                await asyncio.sleep(0.01)
                if self.context.cancel_requested:
                    break
            with open("/tmp/made.txt", "w") as file:
                file.write(input.text)
            return Output(text=input.text.upper(), pid=os.getpid(), made=File(path="/tmp/made.txt"))
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    repack(folder, python())
    return folder


def settings_of(folder: Path, wheels: Path, **more: Any) -> ServerSettings:
    environments = EnvironmentSettings(find_links=(str(wheels),), offline=True)
    defaults: dict[str, Any] = {
        "port": 0, "data": folder / "data", "discovery": False, "poll": False, "manage_logging": False, "drain_s": 0.3,
        "apps": AppSettings(environments=environments, stop_grace_s=2, cancel_grace_s=2),
    }  # fmt: skip
    return ServerSettings(**{**defaults, **more})


class Client:
    def __init__(self, server: Server, http: httpx2.AsyncClient) -> None:
        self.server, self.http = server, http

    async def get(self, path: str) -> Any:
        response = await self.http.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    async def begin(self, **body: Any) -> str:
        response = await self.http.post("/apps/run", json={"app": "acme/shout", **body})
        assert response.status_code == 200, response.text
        return str(response.json()["data"]["id"])

    async def task(self, task: str, status: int = 10) -> dict[str, Any]:
        """The task once it has come so far."""
        deadline = time.monotonic() + 30
        while (found := (await self.get(f"/tasks/{task}"))["data"])["status"] < status:
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.01)
        return dict(found)

    async def deploy(self, folder: Path, code: str = CODE) -> None:
        source = folder / "source"
        source.mkdir(exist_ok=True)
        (source / "inference.py").write_text(textwrap.dedent(code))
        (source / "inf.yml").write_text("namespace: acme\nname: shout\nkernel: python-3.11\n")
        (source / "requirements.txt").write_text("inferencesh\n")
        version = await self.server.apps.importer.import_directory(source)
        await self.server.node.apps.add(version)


@asynccontextmanager
async def serving(settings: ServerSettings) -> AsyncIterator[Client]:
    server = Server(settings)
    await server.start()
    try:
        async with httpx2.AsyncClient(base_url=server.url, timeout=30) as http:
            yield Client(server, http)
    finally:
        await server.stop()


async def test_an_app_is_called_over_http_and_everything_about_it_can_be_seen(tmp_path: Path, wheels: Path) -> None:
    async with serving(settings_of(tmp_path, wheels)) as client:
        await client.deploy(tmp_path)
        first = await client.task(await client.begin(input={"text": "hello"}))
        second = await client.task(await client.begin(input={"text": "again"}))
        assert first["status"] == second["status"] == 10, (first["error"], first["logs"])
        assert first["output"]["text"] == "HELLO"
        assert second["output"]["pid"] == first["output"]["pid"]
        made = await client.http.get(first["output"]["made"])
        assert made.text == "hello"
        assert [event["status"] for event in first["events"]] == [1, 2, 3, 4, 5, 6, 7, 9, 10]
        assert [event["status"] for event in second["events"]] == [1, 2, 3, 7, 9, 10]
        lines = [(log["log_type"], log["content"]) for log in first["logs"]]
        assert any("setting up" in content for log_type, content in lines if log_type == 3), lines
        assert any("called with hello" in content for log_type, content in lines if log_type == 4), lines

        status = (await client.get("/api/status"))["apps"]
        (worker,) = status["workers"]
        assert worker["app"].startswith("acme/shout@")
        assert (worker["state"], worker["pid"], worker["tasks"]) == ("idle", first["output"]["pid"], 2)
        assert status["isolation"]
        figures = (await client.http.get("/metrics")).text
        assert 'stepwell_app_workers{state="idle"} 1.0' in figures
        assert 'stepwell_app_calls_total{app="acme/shout",outcome="completed"} 2.0' in figures
        assert "stepwell_app_workers_started_total 1.0" in figures
        page = await client.http.get("/status", headers={"accept": "text/html"})
        assert "acme/shout" in page.text
        pid = first["output"]["pid"]
    assert not alive(pid)
    assert not list((tmp_path / "data" / "apps" / "workers").iterdir())


async def test_a_task_is_cancelled_while_it_runs_and_its_worker_stays_warm(tmp_path: Path, wheels: Path) -> None:
    async with serving(settings_of(tmp_path, wheels)) as client:
        await client.deploy(tmp_path)
        task = await client.begin(input={"wait": "nothing"})
        await client.task(task, 7)
        began = time.monotonic()
        await client.http.post(f"/tasks/{task}/cancel")
        assert (await client.task(task))["status"] == 12
        assert time.monotonic() - began < 2
        again = await client.task(await client.begin(input={"text": "x"}))
        assert again["status"] == 10
        assert len((await client.get("/api/status"))["apps"]["workers"]) == 1


async def test_a_new_version_takes_over_at_once_and_a_session_stays_with_its_worker(
    tmp_path: Path, wheels: Path
) -> None:
    async with serving(settings_of(tmp_path, wheels)) as client:
        await client.deploy(tmp_path)
        opened = await client.task(await client.begin(input={"text": "a"}, session="new"))
        session = opened["session_id"]
        await client.task(await client.begin(input={"text": "b"}))
        await client.deploy(tmp_path, CODE.replace("input.text.upper()", "input.text.title()"))

        async def only_the_session() -> bool:
            workers = (await client.get("/api/status"))["apps"]["workers"]
            return [one["session"] for one in workers] == [session]

        await until(only_the_session)
        inside = await client.task(await client.begin(input={"text": "inside"}, session=session))
        assert (inside["output"]["text"], inside["output"]["pid"]) == ("INSIDE", opened["output"]["pid"])
        outside = await client.task(await client.begin(input={"text": "outside"}))
        assert outside["output"]["text"] == "Outside"
        await client.http.delete(f"/sessions/{session}")
        await until(partial(nobody, {opened["output"]["pid"]}))


SPY = """
    import os, urllib.error, urllib.request
    from inferencesh import BaseApp, BaseAppInput, BaseAppOutput

    class Input(BaseAppInput):
        url: str
        paths: list[str]

    class Output(BaseAppOutput):
        environment: str
        answers: list[str]
        files: list[str]

    def answer(request):
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return f"{response.status} {response.read()[:100]}"
        except urllib.error.HTTPError as error:
            return str(error.code)

    def read(path):
        try:
            with open(path, "rb") as file:
                return file.read(10_000_000).decode(errors="replace")
        except OSError as error:
            return type(error).__name__

    class App(BaseApp):
        async def run(self, input: Input) -> Output:
            routes = ["/api/status", "/api/runs", "/v1/events", "/status", "/metrics", "/tasks/list", "/secrets/list"]
            answers = [answer(input.url + route) for route in routes]
            answers.append(answer(urllib.request.Request(input.url + "/apps/run", b"{}", method="POST")))
            answers.append(answer(urllib.request.Request(input.url + "/e/guess", b"{}", method="POST")))
            return Output(environment=str(dict(os.environ)), answers=answers, files=[read(one) for one in input.paths])
"""


async def test_the_code_of_an_app_learns_nothing_of_the_server(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "ca" * 32
    monkeypatch.setenv("STEPWELL_SIGNING_KEY", key)
    monkeypatch.setenv("APP_KEY", "canary-of-an-app")
    production = {
        "dev": False, "signing_key": key, "event_keys": ("canary-event-key",),
        "app_secrets": {"OTHER_KEY": "canary-of-another-app"},
    }  # fmt: skip
    async with serving(settings_of(tmp_path, wheels, **production)) as client:
        client.http.headers["authorization"] = f"Bearer {key}"
        await client.deploy(tmp_path, SPY)
        data = tmp_path / "data"
        own = f"/proc/{os.getpid()}"
        paths = [
            *map(str, (data / "stepwell.db", data / "stepwell.db-wal", *(data / "apps").rglob("process.json"))),
            *(f"{own}/{name}" for name in ("environ", "mem", "cmdline", "root/etc/shadow", f"root{data}/stepwell.db")),
        ]
        found = await client.task(
            await client.begin(input={"url": client.server.url.replace("localhost", "127.0.0.1"), "paths": paths})
        )
        assert found["status"] == 10, found["error"]
        output = found["output"]
        assert set(output["answers"]) == {"401"}
        assert set(output["files"]) <= {"PermissionError", "FileNotFoundError"}, output["files"]
        assert "canary" not in output["environment"]
        assert key not in str(output)


async def test_a_task_that_was_under_way_when_the_server_stopped_is_done_by_the_next_one(
    tmp_path: Path, wheels: Path
) -> None:
    cache = tmp_path / "data" / "apps" / "caches" / "acme" / "shout"
    async with serving(settings_of(tmp_path, wheels)) as client:
        await client.deploy(tmp_path)
        tasks = [await client.begin(input={"text": str(n), "wait": "go"}) for n in range(3)]
        await client.task(tasks[0], 7)
    (cache / "go").write_text("")
    async with serving(settings_of(tmp_path, wheels)) as client:
        for number, task in enumerate(tasks):
            found = await client.task(task)
            assert (found["status"], found["output"]["text"]) == (10, str(number))
            statuses = [event["status"] for event in found["events"]]
            assert statuses == sorted(set(statuses)), "they only ever become more"


async def until(look: Callable[[], Awaitable[Any]]) -> Any:
    deadline = time.monotonic() + 20
    while not (found := await look()):
        assert time.monotonic() < deadline, "it did not come to be"
        await asyncio.sleep(0.02)
    return found


async def busy(client: Client) -> set[int]:
    return {one["pid"] for one in (await client.get("/api/status"))["apps"]["workers"] if one["state"] == "busy"}


async def nobody(pids: set[int]) -> bool:
    return not any(map(alive, pids))


SERVE = """
    import asyncio, sys
    from pathlib import Path
    from tests.server.test_apps import Client, serving, settings_of

    async def main():
        async with serving(settings_of(Path(sys.argv[1]), Path(sys.argv[2]))) as client:
            print(client.server.url, flush=True)
            await asyncio.sleep(600)

    asyncio.run(main())
"""


async def test_kill_9_of_the_server_under_load_loses_no_task_and_leaves_no_process(
    tmp_path: Path, wheels: Path
) -> None:
    async with serving(settings_of(tmp_path, wheels)) as client:
        await client.deploy(tmp_path)
        await client.task(await client.begin(input={"text": "warm"}))
    cache = tmp_path / "data" / "apps" / "caches" / "acme" / "shout"
    command = [sys.executable, "-c", textwrap.dedent(SERVE), str(tmp_path), str(wheels)]
    tasks: list[str] = []
    pids: set[int] = set()
    for _ in range(2):  # the second time, calls of the first life hold the workers
        process = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], env={**os.environ}
        )
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        async with httpx2.AsyncClient(base_url=url, timeout=30) as http:
            client = Client(None, http)  # type: ignore[arg-type]
            for number in range(10):
                tasks.append(await client.begin(input={"text": f"n{number}", "wait": "go" if number else ""}))
            await client.task(tasks[0])
            pids |= await until(partial(busy, client))
        process.kill()
        await process.wait()
    await until(partial(nobody, pids))
    (cache / "go").write_text("")
    async with serving(settings_of(tmp_path, wheels)) as client:
        for number, task in enumerate(tasks):
            found = await client.task(task)
            assert (found["status"], found["output"]["text"]) == (10, f"N{number % 10}")
