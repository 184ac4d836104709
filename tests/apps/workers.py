"""Apps written for one test, and processes that run them."""

from __future__ import annotations

import asyncio
import os
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from stepwell.apps.isolation import Isolation, find_isolation
from stepwell.apps.process import Exit, Plan, Process, places_of
from stepwell.wire.app import Done, Failed, FromProcess, Load, Loaded, Ready, Run, Setup
from tests.apps.harness import HARNESS, python

PATIENCE_S = 20.0
ISOLATION = find_isolation("auto")

_Frame = TypeVar("_Frame", bound=FromProcess)


def write_app(folder: Path, code: str) -> Path:
    """An app of one file. `code` is its module; it need not derive from anything."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "inference.py").write_text(textwrap.dedent(code))
    return folder


def interpreter() -> tuple[Path, ...]:
    """Folders that the interpreter of the apps needs."""
    executable = python()
    return executable.parents[1], executable.resolve().parents[1], HARNESS


async def until(true: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
    deadline = asyncio.get_running_loop().time() + within_s
    while not (value := true()):
        assert asyncio.get_running_loop().time() < deadline, "it did not come to be"
        await asyncio.sleep(0.01)
    return value


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Talk:
    """One process, and what came from it in order: frames, and lines as text."""

    def __init__(self, package: Path, folder: Path, isolation: Isolation = ISOLATION, **more: Any) -> None:
        self.heard: list[FromProcess | str | Exit] = []
        self.news = asyncio.Event()
        places = places_of(folder, package, folder.parent / "cache", interpreter())
        command = (str(python()), str(HARNESS / "harness.py"))
        plan = Plan(worker=folder.name, folder=folder, places=places, command=command, isolation=isolation, **more)
        self.process = Process(plan, on_frame=self._hear, on_line=self._hear, on_exit=self._hear)

    def _hear(self, what: FromProcess | str | Exit) -> None:
        self.heard.append(what)
        self.news.set()

    @property
    def lines(self) -> list[str]:
        return [one for one in self.heard if isinstance(one, str)]

    async def next(self, kind: type[_Frame], call: str = "") -> _Frame:
        """The first of a kind, which is taken out with everything before it. A failure is an error if nobody waits
        for it."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for number, one in enumerate(self.heard):
                    if isinstance(one, kind) and (not call or getattr(one, "call", "") == call):
                        return one
                    assert not isinstance(one, Failed | Exit), (one, self.heard[:number])
                self.news.clear()
                await self.news.wait()

    async def ready(self, setup: Any = None) -> None:
        self.process.send(Load(directory=str(self.process.plan.places.package)))
        await self.next(Loaded)
        self.process.send(Setup(value=setup))
        await self.next(Ready)

    async def run(self, input: Any = None, function: str = "run", call: str = "c") -> Any:
        self.heard.clear()
        self.process.send(Run(call=call, function=function, input=input))
        return (await self.next(Done, call)).value


@asynccontextmanager
async def started(code: str, tmp_path: Path, isolation: Isolation = ISOLATION, **more: Any) -> AsyncIterator[Talk]:
    """A process of an app that is set up; it is gone afterwards."""
    talk = Talk(write_app(tmp_path / "app", code), tmp_path / "workers" / f"w{os.urandom(4).hex()}", isolation, **more)
    talk.process.start()
    try:
        await talk.ready()
        yield talk
    finally:
        talk.process.kill()
        async with asyncio.timeout(PATIENCE_S):
            await talk.process.wait()
