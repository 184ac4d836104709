"""Running what a page shows: a real server with its state in memory, the page's services as its workers, and a script.

send NAME DATA      send an event; the runs it starts are what the lines below are about
until STATUS        wait until a step of the run is SLEEPING, WAITING, RETRYING ...
also NAME DATA      send another event, to the same run
cancel              cancel the run
gives JSON          the run completed with this output
fails TEXT          the run failed, and its error says so
cancelled           the run was cancelled
notes TEXT          the author was told this, as a line of the log
starts SLUG JSON    a run of this function came of it, and gave this
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Protocol, TypeVar

import stepwell
from stepwell.sdk.worker import Worker
from stepwell.server import Server, ServerSettings
from stepwell.workers.socket import SocketPerformer
from tests.docs.pages import Module, Page

T = TypeVar("T")

PATIENCE_S = 20.0
IDLE_MS = 300
"""How long a waiting function stays in memory: less than in earnest, so that suspensions come soon."""


def load(page: Page, module: Module) -> ModuleType:
    """Run the module's blocks. Steps need what they call at module level, so it is a real module."""
    import sys

    name = f"docs_{page.path.stem}_{module.name}".replace("-", "_").replace(".", "_")
    made = ModuleType(name)
    made.__file__ = str(page.path)
    sys.modules[name] = made
    exec(compile(module.text, str(page.path), "exec"), made.__dict__)
    return made


def services_of(module: ModuleType) -> list[stepwell.Service]:
    """The services that a module defines."""
    found = [one for one in vars(module).values() if isinstance(one, stepwell.Service)]
    return list({id(one): one for one in found}.values())


@contextmanager
def running_server(**settings: Any) -> Iterator[Server]:
    """A server with its state in memory, on an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def do(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(20)

    defaults = SocketPerformer.__init__.__kwdefaults__
    assert defaults is not None
    before, defaults["idle_ms"] = defaults["idle_ms"], IDLE_MS
    settings = {"port": 0, "data": None, "discovery": False, "manage_logging": False, **settings}
    server = Server(ServerSettings(**settings))
    do(server.start())
    try:
        yield server
    finally:
        defaults["idle_ms"] = before
        do(server.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


class Reached(Protocol):
    """A server, in this process or in another."""

    @property
    def url(self) -> str: ...


@contextmanager
def working(services: Sequence[stepwell.Service], server: Reached) -> Iterator[None]:
    """The services as workers of the server, on another event loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    workers = [Worker(service, server.url, drain_limit_s=1) for service in services]

    async def connected() -> list[Any]:
        tasks = [asyncio.ensure_future(worker.run()) for worker in workers]
        for worker in workers:
            await asyncio.wait_for(worker.is_connected.wait(), 10)
        return tasks

    async def ended(tasks: list[Any]) -> None:
        for worker in workers:
            worker.drain()
        await asyncio.wait(tasks, timeout=5)
        for task in tasks:
            task.cancel()

    tasks = asyncio.run_coroutine_threadsafe(connected(), loop).result(20)
    try:
        yield
    finally:
        if tasks:
            asyncio.run_coroutine_threadsafe(ended(tasks), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


class Log(logging.Handler):
    """Keeps what the SDK tells authors."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    @contextmanager
    def listening(self) -> Iterator[None]:
        logger = logging.getLogger("stepwell")
        before = logger.propagate
        logger.addHandler(self)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.propagate = before


class Script:
    """Carries out one `check` comment."""

    def __init__(self, client: stepwell.Client, log: Log, functions: Sequence[str]) -> None:
        self._client = client
        self._log = log
        self._functions = functions
        self._run: stepwell.Run[Any] | None = None

    def play(self, text: str) -> None:
        for line in text.splitlines():
            if line.strip():
                word, _, rest = line.strip().partition(" ")
                getattr(self, f"_{word}")(rest)

    @property
    def run(self) -> stepwell.Run[Any]:
        assert self._run is not None, "nothing was sent"
        return self._run

    def _detail(self, run_id: str | None = None) -> dict[str, Any]:
        import httpx2

        answer = httpx2.get(f"{self._client._exchange.address.api}/api/runs/{run_id or self.run.id}")
        found: dict[str, Any] = answer.json()
        return found

    def _send(self, rest: str) -> None:
        sent = self._event(rest)
        found = self._client.runs(event=sent.ids[0], wait=PATIENCE_S)
        assert found, f"{rest} started no run"
        assert len(found) == 1, f"{rest} started {found}; which of them is meant?"
        self._run = found[0]

    def _also(self, rest: str) -> None:
        self._event(rest)

    def _event(self, rest: str) -> stepwell.Sent:
        name, _, data = rest.partition(" ")
        return self._client.send({"name": name, "data": json.loads(data or "{}")})

    def _until(self, status: str) -> None:
        def reached() -> bool | None:
            children = self._detail()["trace"]["children"]
            return True if any(one["status"] == status for one in children) else None

        def alternatives() -> str:
            return str([(one["name"], one["status"]) for one in self._detail()["trace"]["children"]])

        # A wait is shown as RUNNING in the trace; what it waits for tells it apart.
        ops = {"SLEEPING": "SLEEP", "WAITING": "WAIT_FOR_EVENT", "INVOKING": "INVOKE"}

        def waiting() -> bool | None:
            children = self._detail()["trace"]["children"]
            op = ops.get(status)
            return True if any(one["op"] == op and one["ended_at"] is None for one in children) else None

        patiently(waiting if status in ops else reached, lambda: f"no step is {status}: {alternatives()}")

    def _cancel(self, rest: str) -> None:
        self.run.cancel()

    def _gives(self, rest: str) -> None:
        assert self.run.result(timeout=PATIENCE_S) == json.loads(rest)

    def _fails(self, rest: str) -> None:
        try:
            value = self.run.result(timeout=PATIENCE_S)
        except stepwell.RunFailed:
            error = self._detail()["error"]
            assert rest in f"{error['name']}: {error['message']}"
        else:
            raise AssertionError(f"it gave {value!r} and should fail: {rest}")

    def _cancelled(self, rest: str) -> None:
        try:
            value = self.run.result(timeout=PATIENCE_S)
        except stepwell.RunCancelled:
            return
        raise AssertionError(f"it gave {value!r} and should be cancelled")

    def _notes(self, rest: str) -> None:
        patiently(
            lambda: True if any(rest in line for line in self._log.lines) else None,
            lambda: f"nobody was told {rest!r}, but {self._log.lines}",
        )

    def _starts(self, rest: str) -> None:
        slug, _, wanted = rest.partition(" ")
        found = patiently(
            lambda: self._client.runs(function=slug) or None,
            lambda: f"no run of {slug}",
        )
        assert found[0].result(timeout=PATIENCE_S) == json.loads(wanted)


def patiently(look: Callable[[], T | None], explain: Callable[[], str]) -> T:
    """Look until there is something."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        time.sleep(0.02)
    raise AssertionError(explain())
