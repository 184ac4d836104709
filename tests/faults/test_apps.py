"""Apps whose server and workers are killed, whose tasks are cancelled at every moment, and whose streams are cut."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import os
import random
import signal
import textwrap
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from stepwell.apps.package import write_archive
from tests.apps.wheels import repack
from tests.apps.workers import alive
from tests.faults.harness import Server, until
from tests.faults.invariants import assert_sound
from tests.libraries.environments import python_of

pytestmark = pytest.mark.slow

RUNNING, COMPLETED, FAILED, CANCELLED = 7, 10, 11, 12
SETTING_UP = 6
LOST_SESSION = 500
"""As the clients of inference.sh know it."""

CODE = """
    import asyncio, json, os, time

    def note(what, name):
        line = json.dumps([what, name, os.getpid(), time.time()]) + "\\n"
        file = os.open(os.environ["XDG_CACHE_HOME"] + "/ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(file, line.encode())
        os.close(file)

    class App:
        def setup(self, config):
            self.calls = 0
            note("setup", "")
            time.sleep((config or {}).get("seconds", 0))

        async def run(self, input):
            self.calls += 1
            note("begun", input["name"])
            if input.get("deaf"):
                time.sleep(60)
            until = time.monotonic() + input.get("seconds", 0)
            while time.monotonic() < until and not self.context.cancel_requested:
                await asyncio.sleep(0.01)
            note("told" if self.context.cancel_requested else "ended", input["name"])
            return {"name": input["name"], "calls": self.calls}
"""

COUNT = """
    import asyncio

    class App:
        async def run(self, input):
            for number in range(1, input["upto"] + 1):
                print("line", number)
                yield {"count": number}
                await asyncio.sleep(input["pause"])
"""


@dataclass(frozen=True, slots=True)
class Noted:
    """A line that the code of an app wrote; nothing else knows of it."""

    what: str
    name: str
    pid: int
    at: float


class Apps:
    """What is asked of a server about apps."""

    def __init__(self, server: Server) -> None:
        self.server = server

    async def deploy(self, name: str, folder: Path, code: str = CODE) -> None:
        source = folder / f"source-{name}"
        source.mkdir()
        (source / "inference.py").write_text(textwrap.dedent(code))
        (source / "inf.yml").write_text(f"namespace: acme\nname: {name}\nkernel: python\n")
        archive = io.BytesIO()
        write_archive(source, archive)
        response = await self.server.http.post("/api/apps", content=archive.getvalue(), timeout=60)
        assert response.status_code == 201, response.text

    async def begin(self, app: str, **body: Any) -> str:
        response = await self.server.http.post("/apps/run", json={"app": f"acme/{app}", **body})
        assert response.status_code == 200, response.text
        return str(response.json()["data"]["id"])

    async def task(self, task: str) -> dict[str, Any]:
        return dict((await self.server.get(f"/tasks/{task}"))["data"])

    async def come_to(self, task: str, status: int, seconds: float = 20) -> dict[str, Any]:
        """The task once it has come so far."""

        async def look() -> dict[str, Any] | None:
            found = await self.task(task)
            return found if found["status"] >= status else None

        return await until(f"status {status} of task {task}", look, seconds, self.server.explain)

    async def made(self, app: str, seconds: float = 20, **input: Any) -> dict[str, Any]:
        """A task of the app that completes."""
        found = await self.come_to(await self.begin(app, input={"name": "another", **input}), COMPLETED, seconds)
        assert found["status"] == COMPLETED, found["error"]
        return found

    async def cancel(self, task: str) -> None:
        response = await self.server.http.post(f"/tasks/{task}/cancel")
        assert response.status_code == 200, response.text

    async def stop(self) -> None:
        """Stop the server. Nothing of a worker is left, and what is stored is sound."""
        await self.server.stop()
        await assert_sound(self.server)
        pids = {line.pid for line in self.ledger()}
        await until("the end of all workers", lambda: not any(map(alive, pids)), 5)
        left = [str(path) for path in (self.server.data / "apps" / "workers").glob("*")]
        assert not left, left

    async def workers(self) -> list[dict[str, Any]]:
        return list((await self.server.get("/api/status"))["apps"]["workers"])

    def ledger(self, *apps: str) -> list[Noted]:
        caches = self.server.data / "apps" / "caches" / "acme"
        files = [caches / app / "ledger" for app in apps] or list(caches.glob("*/ledger"))
        lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
        return [Noted(*json.loads(line)) for line in lines]


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a server needs to make environments without an index."""
    folder = tmp_path_factory.mktemp("wheels")
    repack(folder, python_of("inferencesh"))
    return {"UV_FIND_LINKS": str(folder), "UV_NO_INDEX": "1"}


@contextlib.asynccontextmanager
async def running(folder: Path, packages: dict[str, str], *apps: str, workers: int) -> AsyncIterator[Apps]:
    """A server with these apps. In the end no process and no file of a worker is left."""
    server = Server(folder, "--app-workers", str(workers), environment=packages)
    found = Apps(server)
    try:
        await server.start()
        await asyncio.gather(*(found.deploy(app, folder) for app in apps))
        yield found
        await found.stop()
    finally:
        await server.close()


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, packages: dict[str, str]) -> Iterator[Apps]:
    """The processes behind `apps`."""
    folder = tmp_path_factory.mktemp("apps")
    apps = Apps(Server(folder, "--app-workers", "1", environment=packages))

    async def start() -> None:
        await apps.server.start()
        await asyncio.gather(
            *(apps.deploy(app, folder) for app in ("one", "other")), apps.deploy("count", folder, COUNT)
        )
        await apps.server.look_away()

    asyncio.run(start())
    try:
        yield apps
        asyncio.run(Apps(apps.server.seen_again()).stop())
    finally:
        asyncio.run(apps.server.close())


@pytest.fixture
async def apps(serving: Apps) -> AsyncIterator[Apps]:
    """Apps `one`, `other` and `count`, and room for one worker."""
    again = serving.server.seen_again()
    yield Apps(again)
    await again.look_away()


# killed


def more_than(apps: Apps, lines: int) -> bool:
    return len(apps.ledger()) > lines


async def test_kill_9_of_servers_and_workers_under_load_loses_no_task_and_ends_none_twice(
    tmp_path: Path, packages: dict[str, str]
) -> None:
    chance = random.Random(7)
    names = ["one", "two", "three", "four"]
    accepted: list[str] = []
    seen: dict[str, list[int]] = defaultdict(list)
    kills: list[float] = []
    async with running(tmp_path, packages, *names, workers=4) as apps:
        server = apps.server

        async def send(number: int) -> None:
            while True:
                with contextlib.suppress(httpx2.TransportError):
                    accepted.append(
                        await apps.begin(
                            names[number % 4], input={"name": f"n{number}", "seconds": 0.05 * (number % 3)}
                        )
                    )
                    return
                await asyncio.sleep(0.05)

        async def load() -> None:
            for number in range(200):
                await send(number)
                await asyncio.sleep(0.02)

        async def watch() -> None:
            while True:
                with contextlib.suppress(httpx2.TransportError):
                    for task in chance.sample(accepted, min(5, len(accepted))):
                        life = len(server.kills)
                        status = (await apps.task(task))["status"]
                        if life == len(server.kills):
                            seen[task].append(status)
                await asyncio.sleep(0.05)

        watching = asyncio.create_task(watch())
        loading = asyncio.create_task(load())
        for number in range(10):
            much = len(apps.ledger()) + 12
            await until("work between kills", partial(more_than, apps, much), 20, server.explain)
            if number % 3 == 0:
                server.kill()
                kills.append(server.kills[-1])
                await server.start()
                continue
            busy = [one["pid"] for one in await apps.workers() if one["state"] == "busy"]
            if busy:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(busy), signal.SIGKILL)
                kills.append(time.time())
        await loading
        for task in accepted:
            found = await apps.come_to(task, COMPLETED, 30)
            assert found["status"] == COMPLETED, (found["error"], found["logs"][-5:])
            seen[task].append(found["status"])
            told = [event["status"] for event in found["events"]]
            assert told == sorted(set(told)), told
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert len(set(accepted)) == 200
        for task, statuses in seen.items():
            assert statuses == sorted(statuses), f"{task} went back: {statuses}"
        times: dict[str, list[float]] = defaultdict(list)
        for line in apps.ledger():
            if line.what == "begun":
                times[line.name].append(line.at)
        assert times.keys() == {f"n{number}" for number in range(200)}
        for name, began in times.items():
            began.sort()
            for first, again in itertools.pairwise(began):
                assert any(first - 1 <= kill <= again for kill in kills), f"{name} ran again, and nothing was killed"
        assert len(kills) >= 8


@pytest.mark.parametrize("killed", ["worker", "server"])
async def test_a_session_that_lost_its_worker_says_so_and_is_not_made_again(apps: Apps, killed: str) -> None:
    opened = await apps.come_to(await apps.begin("one", input={"name": "first"}, session="new"), COMPLETED)
    session = opened["session_id"]
    again = await apps.come_to(await apps.begin("one", input={"name": "second"}, session=session), COMPLETED)
    assert again["output"]["calls"] == opened["output"]["calls"] + 1
    (pid,) = [one["pid"] for one in await apps.workers() if one["session"] == session]
    if killed == "worker":
        os.kill(pid, signal.SIGKILL)
    else:
        await apps.server.restart()
    await until("the end of the worker", lambda: not alive(pid))
    name = f"after the {killed} was killed"
    call = {"app": "acme/one", "input": {"name": name}, "session": session}
    response = await apps.server.http.post("/apps/run", json=call)
    if response.status_code == 200:  # before it was noticed
        lost = await apps.come_to(response.json()["data"]["id"], COMPLETED)
        assert lost["status"] == FAILED
        said = lost["error"]
    else:
        assert response.status_code == LOST_SESSION
        said = response.text
    assert session in said
    assert "open a new" in said
    assert name not in {line.name for line in apps.ledger()}
    assert (await apps.made("one"))["output"]["calls"] == 1, "of a new worker"


# cancelled


@pytest.mark.parametrize("moment", ["queued", "setting up", "running", "deaf", "finished"])
async def test_a_cancelled_task_ends_once_and_gives_its_worker_back(apps: Apps, moment: str) -> None:
    await apps.made("other")
    setup = {"seconds": 30} if moment == "setting up" else None
    input = {"name": moment, "seconds": 0 if moment == "finished" else 60, "deaf": moment == "deaf"}
    task = first = await apps.begin("one", input=input, setup=setup)
    match moment:
        case "queued":
            await apps.come_to(first, RUNNING)
            task = await apps.begin("one", input={"name": "never"})
        case "setting up":
            await apps.come_to(task, SETTING_UP)
        case "finished":
            await apps.come_to(task, COMPLETED)
        case _:
            await until("the call", lambda: any(line.name == moment for line in apps.ledger()))
    waiting = await apps.begin("other", input={"name": "next"}) if moment != "queued" else ""
    began = time.time()
    await apps.cancel(task)
    if moment == "queued":
        await apps.come_to(task, COMPLETED, 2)
        began = time.time()
        await apps.cancel(first)

    async def free() -> bool:
        return any(one["state"] == "idle" or one["app"].startswith("acme/other@") for one in await apps.workers())

    await until("a worker that is free, or another one", free, 5, apps.server.explain)
    found = await apps.come_to(task, COMPLETED, 5)
    assert found["status"] == (COMPLETED if moment == "finished" else CANCELLED)
    if waiting:
        await apps.come_to(waiting, COMPLETED)
    await apps.cancel(task)
    last = await apps.task(task)
    told = [event["status"] for event in last["events"]]
    assert last["status"] == found["status"]
    assert told == sorted(set(told)), told
    if moment in ("queued", "running"):
        (heard,) = [line.at for line in apps.ledger("one") if line.what == "told" and line.name == moment]
        assert heard - began < 1
    assert "never" not in {line.name for line in apps.ledger()}


# cut streams


async def pieces(apps: Apps, task: str, headers: dict[str, str], seconds: float) -> tuple[list[tuple[str, Any]], bool]:
    """What a stream told before it was cut, with ids, and whether it was answered that nothing more is to come."""
    told: list[tuple[str, Any]] = []
    with contextlib.suppress(TimeoutError, httpx2.TransportError):
        async with (
            asyncio.timeout(seconds),
            apps.server.http.stream("GET", f"/tasks/{task}/stream", headers=headers) as response,
        ):
            if response.status_code == 204:
                return told, True
            assert response.status_code == 200
            id_ = ""
            async for line in response.aiter_lines():
                if line.startswith("id:"):
                    id_ = line[3:].strip()
                elif line.startswith(("data:", "{")):
                    told.append((id_, json.loads(line.removeprefix("data:"))))
    return told, False


def parts(told: list[tuple[str, Any]]) -> Iterator[tuple[bool, dict[str, Any]]]:
    """Whole objects and changes, in order."""
    for _, one in told:
        if "id" in one:
            yield True, one
        elif isinstance(one.get("data"), dict) and "fields" in one:
            yield False, {name: one["data"][name] for name in one["fields"] if name in one["data"]}


@pytest.mark.parametrize("lines", [False, True], ids=["events", "lines"])
async def test_a_stream_that_is_cut_every_200_ms_misses_and_repeats_nothing(apps: Apps, lines: bool) -> None:
    upto = 40
    task = await apps.begin("count", input={"upto": upto, "pause": 0.05})
    counts: list[int] = []
    statuses: list[int] = []
    wholes = cuts = 0
    last = ""
    ended: dict[str, Any] = {}
    deadline = time.monotonic() + 20
    while not ended:
        assert time.monotonic() < deadline, apps.server.explain()
        headers = {"accept": "application/x-ndjson"} if lines else {"last-event-id": last} if last else {}
        told, over = await pieces(apps, task, headers, 0.2)
        assert not over, "the end was never told"
        cuts += 1
        for number, (whole, values) in enumerate(parts(told)):
            wholes += whole
            assert not lines or whole == (number == 0) or values["status"] >= COMPLETED
            output = values.get("output")
            if output and not (whole and counts and counts[-1] == output["count"]):
                counts.append(output["count"])
            if "status" in values and not (whole and statuses and statuses[-1] == values["status"]):
                statuses.append(values["status"])
            if whole and values["status"] >= COMPLETED:
                ended = values
        last = next((id_ for id_, _ in reversed(told) if id_), last)
    assert cuts >= 5
    assert ended["status"] == COMPLETED, ended["error"]
    assert ended["output"]["count"] == upto
    assert counts == sorted(set(counts)), "one was told twice, or late"
    assert statuses == sorted(set(statuses)), statuses
    if not lines:
        assert wholes <= 2, "who gives an id is told everything once, and once more in the end"
        assert counts == list(range(1, upto + 1)), "one is missing"
        _, over = await pieces(apps, task, {"last-event-id": last}, 2)
        assert over
