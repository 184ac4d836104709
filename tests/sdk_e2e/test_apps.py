"""Apps in a whole server, called by both clients: outputs, streams, files, sessions, and what goes wrong."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

import stepwell
from stepwell.api.site import DEFAULT_NAMESPACE
from stepwell.apps import File
from stepwell.apps.environment import EnvironmentSettings
from stepwell.apps.settings import AppSettings
from stepwell.model.errors import InvalidInput, NotFound
from stepwell.model.task import TaskStatus
from stepwell.sdk.client.errors import ResultTimeout
from stepwell.server import Server
from stepwell.server.settings import ServerSettings
from tests.apps.harness import python
from tests.apps.wheels import repack
from tests.sdk_e2e.apps import tools
from tests.sdk_e2e.apps.tools import Tools

pytestmark = pytest.mark.slow


class Running:
    """A server on a loop and a thread of its own, so that blocking clients may wait for it."""

    def __init__(self, settings: ServerSettings) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.server: Server = self.do(self._start(settings))

    async def _start(self, settings: ServerSettings) -> Server:
        server = Server(settings)
        await server.start()
        return server

    def do(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    async def _deploy(self, path: Path) -> None:
        version = await self.server.apps.importer.import_directory(path, own_namespace=DEFAULT_NAMESPACE)
        await self.server.node.apps.add(version)

    def deploy(self, path: Path) -> None:
        self.do(self._deploy(path))

    def stop(self) -> None:
        self.do(self.server.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


def settings_of(folder: Path) -> ServerSettings:
    environments = EnvironmentSettings(find_links=(str(folder / "wheels"),), offline=True)
    return ServerSettings(
        port=0,
        data=folder / "data",
        discovery=False,
        poll=False,
        manage_logging=False,
        drain_s=0.3,
        apps=AppSettings(environments=environments, stop_grace_s=2, cancel_grace_s=2),
    )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("apps")
    repack(folder / "wheels", python())
    running = Running(settings_of(folder))
    try:
        running.deploy(Path(tools.__file__))
        yield running
    finally:
        running.stop()


class Called:
    """A client of either kind, whose every call is waited for."""

    def __init__(self, kind: str, url: str, loop: asyncio.AbstractEventLoop | None) -> None:
        self.client: Any = stepwell.Client(url) if loop is None else stepwell.AsyncClient(url)
        self.loop = loop
        self.kind = kind

    def __call__(self, found: Any) -> Any:
        if self.loop is not None and inspect.isawaitable(found):
            return self.loop.run_until_complete(found)
        return found

    def all(self, found: Any) -> list[Any]:
        if self.loop is None:
            return list(found)

        async def gathered() -> list[Any]:
            return [one async for one in found]

        return self.loop.run_until_complete(gathered())

    def session(self, *given: Any, **named: Any) -> Any:
        return self.client.sessions.open(*given, **named)


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, running: Running) -> Iterator[Called]:
    loop = None if request.param == "sync" else asyncio.new_event_loop()
    called = Called(request.param, running.server.url, loop)
    yield called
    called(called.client.close())
    if loop is not None:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def test_a_class_that_is_an_app_is_called_with_its_types(call: Called) -> None:
    output = call(call.client.tasks.run(Tools, Tools.Input(text="hello"), setup=Tools.Setup(ending="?")))
    assert output == Tools.Output(text="hello?")
    task = call(call.client.tasks.start("local/tools", {"text": "again"}))
    assert call(task.result(timeout="1m")) == {"text": "again!", "file": None, "pid": 0}
    assert call(call.client.tasks.run("tools", {"text": "x"}, output=Tools.Output)) == Tools.Output(text="x!")
    assert call(task.status()) is TaskStatus.COMPLETED
    info = call(call.client.tasks.get(task.id))
    assert (info.app, info.function, info.status, info.input) == ("local/tools", "run", 10, {"text": "again"})
    assert "called with again" in call(task.logs())
    assert task.id in [one.id for one in call(call.client.tasks.list(app="local/tools", status="completed"))]
    attached = call.client.tasks.attach(task.id, output=Tools.Output)
    assert call(attached.result()).text == "again!"
    call(call.client.tasks.delete(task.id))
    with pytest.raises(NotFound):
        call(task.result())


def test_everything_that_becomes_of_a_task_is_told_once(call: Called) -> None:
    task = call(call.client.tasks.start(Tools, Tools.Input(text="abc"), function="spell"))
    updates = call.all(task.updates())
    outputs = [update.output for update in updates if isinstance(update, stepwell.OutputUpdate)]
    assert outputs[-1] == Tools.Output(text="abc")
    assert [output.text for output in outputs] == sorted({output.text for output in outputs})
    statuses = [update.status for update in updates if isinstance(update, stepwell.StatusUpdate)]
    assert statuses == sorted(set(statuses))
    assert statuses[-1] is TaskStatus.COMPLETED
    printed = "".join(u.text for u in updates if isinstance(u, stepwell.LogUpdate) and u.kind == 4)
    assert printed == "letter a\nletter b\nletter c\n"
    assert [output.text for output in call.all(task.stream())] == ["abc"]


def test_a_failure_has_the_traceback_of_the_app(call: Called) -> None:
    with pytest.raises(stepwell.TaskFailed) as caught:
        call(call.client.tasks.run(Tools, Tools.Input(text="no"), function="fails"))
    assert (caught.value.name, caught.value.message) == ("KeyError", "'no'")
    assert "raise KeyError(input.text)" in caught.value.trace
    assert "raise KeyError(input.text)" in str(caught.value)
    with pytest.raises(stepwell.TaskFailed, match="text"):
        call(call.client.tasks.run("tools", {"text": 5}))


def test_what_is_not_there_is_named(call: Called) -> None:
    with pytest.raises(stepwell.AppNotFound, match="stepwell app deploy") as caught:
        call(call.client.tasks.run("acme/nothing", {}))
    assert caught.value.app == "acme/nothing"
    with pytest.raises(stepwell.AppNotFound, match="it has run"):
        call(call.client.tasks.run(Tools, Tools.Input(text=""), function="other"))
    with pytest.raises(stepwell.AppNotFound):
        call(call.client.apps.get("acme/nothing"))
    with pytest.raises(InvalidInput, match="no form in JSON"):
        call(call.client.tasks.run("tools", {"text": object()}))
    with pytest.raises(NotFound):
        call(call.client.tasks.get("01JZ0000000000000000000001"))


def test_a_task_is_cancelled_and_waiting_for_it_has_an_end(call: Called) -> None:
    with pytest.raises(ResultTimeout) as caught:
        call(call.client.tasks.run(Tools, Tools.Input(text="x"), function="waits", timeout=0.3))
    task = call.client.tasks.attach(caught.value.run_id)
    with pytest.raises(ResultTimeout):
        call(task.result(timeout="0.1s"))
    call(task.cancel())
    with pytest.raises(stepwell.TaskCancelled):
        call(task.result(timeout=30))
    assert call(task.status()) is TaskStatus.CANCELLED


def test_a_key_begins_one_task_only(call: Called) -> None:
    key = f"once-{call.kind}"
    first, second = (call(call.client.tasks.start(Tools, Tools.Input(text="x"), key=key)) for _ in range(2))
    assert first.id == second.id


def test_many_inputs_keep_their_order_and_their_errors(call: Called) -> None:
    given = [{"text": "a"}, {"text": 5}, {"text": "c"}]
    outcomes = call(call.client.tasks.map("tools", given, concurrency=2, output=Tools.Output))
    assert [outcome.input for outcome in outcomes] == given
    assert [outcomes[0].output.text, outcomes[2].output.text] == ["a!", "c!"]
    assert isinstance(outcomes[1].error, stepwell.TaskFailed)
    with pytest.raises(stepwell.TaskFailed):
        print(outcomes[1].output)
    with pytest.raises(ValueError, match="concurrency is 1 or more"):
        call(call.client.tasks.map("tools", [], concurrency=0))


def test_files_go_in_and_come_out(call: Called, tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("content")
    output = call(call.client.tasks.run(Tools, Tools.Input(text="x", file=File(path)), function="copy"))
    (tmp_path / "out").mkdir()
    written = call(call.client.files.download(output.file.uri, to=tmp_path / "out" / "copy.txt"))
    assert written.read_text() == "CONTENT"
    output = call(call.client.tasks.run("tools", {"text": "x", "file": path}, function="copy", output=Tools.Output))
    assert output.file.read_text() == "CONTENT"
    kept = call(call.client.files.upload(b"12345", filename="five.txt"))
    assert (kept.filename, kept.content_type, kept.size) == ("five.txt", "text/plain", 5)
    assert call(call.client.files.download(kept)) == b"12345"
    assert call(call.client.files.download(kept.id)) == b"12345"
    assert kept.id in [one.id for one in call(call.client.files.list())]
    data = call(call.client.files.upload("data:text/plain;base64,aGk="))
    assert call(call.client.files.download(data.uri)) == b"hi"
    call(call.client.files.delete(kept.id))
    with pytest.raises(NotFound):
        call(call.client.files.download(kept.id))
    with pytest.raises(InvalidInput, match="is no file of this machine"):
        call(call.client.files.upload(tmp_path / "absent"))


def test_a_session_keeps_its_state_until_it_is_over(call: Called) -> None:
    session = call.session(Tools, timeout=120)
    assert call(session.run({"text": "a"}, function="remember")) == Tools.Output(text="a")
    assert call(session.run({"text": "b"}, function="remember", output=Tools.Output)).text == "ab"
    assert call(session.run(Tools.Input(text="c"))).text == "c!"
    assert (call(session.info()).calls, call(session.keepalive()).status) == (3, "active")
    assert session.id in [one.id for one in call(call.client.sessions.list())]
    call(session.end())
    call(session.end())
    with pytest.raises(stepwell.SessionOver) as caught:
        call(session.run(Tools.Input(text="d")))
    assert (caught.value.reason, caught.value.session) == ("SESSION_ENDED", session.id)
    unused = call.session("tools")
    call(unused.end())
    with pytest.raises(stepwell.SessionOver, match="begins with its first call"):
        call(unused.info())


def test_a_session_whose_process_is_lost_says_so(call: Called) -> None:
    session = call.session(Tools)
    pid = call(session.run({"text": "a"}, function="who", output=Tools.Output)).pid
    task = call(session.start({"text": "x"}, function="waits"))
    updates = iter(call.client.tasks.attach(task.id).updates()) if call.kind == "sync" else None
    if updates is not None:
        next(update for update in updates if update == stepwell.StatusUpdate(TaskStatus.RUNNING))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(stepwell.SessionLost):
        call(task.result(timeout=60))
    with pytest.raises(stepwell.SessionLost):
        call(session.run(Tools.Input(text="b")))


def test_apps_are_listed(call: Called) -> None:
    (found,) = [one for one in call(call.client.apps.list()) if one.name == "local/tools"]
    assert found == call(call.client.apps.get(Tools))
    assert found.functions["spell"]["description"] == "Letter by letter."
    assert found.reference in [one.reference for one in call(call.client.apps.versions("local/tools"))]
    assert call(call.client.apps.get(found.reference)).version == found.version


def test_with_ends_a_session(running: Running) -> None:
    with stepwell.Client(running.server.url) as client:
        with client.sessions.open(Tools) as session:
            assert session.run(Tools.Input(text="a")).text == "a!"
        assert client.sessions.get(session.id).status == "ended"

    async def asynchronous() -> str:
        async with stepwell.AsyncClient(running.server.url) as client:
            async with client.sessions.open(Tools) as session:
                await session.run(Tools.Input(text="a"))
            return (await client.sessions.get(session.id)).status

    assert asyncio.run(asynchronous()) == "ended"


def test_a_stream_goes_on_after_lost_connections(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from stepwell.sdk.inference.follow import TaskFollower

    opened = 0
    real = TaskFollower.fed

    def cut(self: TaskFollower, piece: bytes) -> Any:
        """Every connection ends in the middle of what its second piece says."""
        nonlocal opened
        opened += 1
        yield from real(self, piece[: len(piece) // 2] if opened % 3 == 0 else piece)
        if opened % 3 == 0:
            raise stepwell.ServerUnreachable(running.server.url, "cut")

    monkeypatch.setattr(TaskFollower, "fed", cut)
    with stepwell.Client(running.server.url) as client:
        task = client.tasks.start(Tools, Tools.Input(text="abcdefghij"), function="spell")
        updates = list(task.updates())
    outputs = [update.output.text for update in updates if isinstance(update, stepwell.OutputUpdate)]
    assert outputs[-1] == "abcdefghij"
    assert outputs == sorted(set(outputs))
    printed = "".join(update.text for update in updates if isinstance(update, stepwell.LogUpdate) and update.kind == 4)
    assert printed == "".join(f"letter {letter}\n" for letter in "abcdefghij")
    assert not any(isinstance(update, stepwell.ResetUpdate) for update in updates)
    assert opened > 4


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_restarted_server_is_waited_for(kind: str, tmp_path: Path) -> None:
    """The call is made again by the new server, and whoever watches is told that what came before is void."""
    repack(tmp_path / "wheels", python())
    settings = settings_of(tmp_path)
    running = Running(settings)
    running.deploy(Path(tools.__file__))
    updates: list[Any] = []

    def follow() -> None:
        with stepwell.Client(running.server.url) as client:
            updates.extend(client.tasks.attach(task, output=Tools.Output).updates())

    async def follow_async() -> None:
        async with stepwell.AsyncClient(running.server.url) as client:
            async for update in client.tasks.attach(task, output=Tools.Output).updates():
                updates.append(update)

    with stepwell.Client(running.server.url) as client:
        started = client.tasks.start(Tools, Tools.Input(text="x" * 100), function="spell")
        task = started.id
        next(output for output in started.stream() if len(output.text) > 5)
    watching = threading.Thread(target=follow if kind == "sync" else lambda: asyncio.run(follow_async()))
    watching.start()
    while not any(isinstance(update, stepwell.OutputUpdate) for update in list(updates)):
        watching.join(0.01)
        assert watching.is_alive()
    port = running.server.port
    running.stop()
    running = Running(dataclasses.replace(settings, port=port))
    try:
        watching.join(60)
        assert not watching.is_alive()
    finally:
        running.stop()
    again = updates.index(stepwell.ResetUpdate())
    outputs = [update.output.text for update in updates[again:] if isinstance(update, stepwell.OutputUpdate)]
    assert outputs[-1] == "x" * 100
    assert outputs == sorted(set(outputs))
    assert updates[-1] == stepwell.StatusUpdate(TaskStatus.COMPLETED)
    statuses = [update.status for update in updates if isinstance(update, stepwell.StatusUpdate)]
    assert statuses == sorted(set(statuses))


def test_models_written_with_their_base_answer_openai_s_clients(running: Running, tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(
        "from stepwell.apps import LanguageModel\n"
        "class Echo(LanguageModel):\n"
        "    async def run(self, input: LanguageModel.Input) -> LanguageModel.Output:\n"
        "        return self.Output(response=f'{input.system_prompt} {input.text}')\n"
    )
    (tmp_path / "vectors.py").write_text(
        "from stepwell.apps import Embeddings\n"
        "class Vectors(Embeddings):\n"
        "    async def run(self, input: Embeddings.Input) -> Embeddings.Output:\n"
        "        return self.Output(vectors=[[float(len(text))] for text in input.texts])\n"
    )
    for path in sorted(tmp_path.iterdir()):
        running.deploy(path)
    with httpx2.Client(base_url=running.server.url, timeout=60) as http:
        messages = [{"role": "system", "content": "be"}, {"role": "user", "content": "kind"}]
        chat = http.post("/v1/chat/completions", json={"model": "local/echo", "messages": messages})
        assert chat.json()["choices"][0]["message"]["content"] == "be kind", chat.text
        made = http.post("/v1/embeddings", json={"model": "local/vectors", "input": ["a", "bb"]})
        assert [one["embedding"] for one in made.json()["data"]] == [[1], [2]], made.text
