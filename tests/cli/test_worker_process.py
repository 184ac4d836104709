"""The worker beside `stepwell dev`: kept running, renewed on a change, ended with it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from stepwell.cli import serve
from stepwell.cli.serve import WorkerProcess
from stepwell.cli.target import NOT_LOADED

BUSY = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: print("asked", file=open(sys.argv[1], "a")))
print("started", file=open(sys.argv[1], "a"))
end = time.monotonic() + {busy_s}
while time.monotonic() < end:
    time.sleep(0.01)
print("finished", file=open(sys.argv[1], "a"))
"""
EXITS = """
import os, sys
print("started", file=open(sys.argv[1], "a"))
os._exit({code})
"""


class Child(WorkerProcess):
    """A worker that is any program; `said` is what its processes wrote."""

    def __init__(self, folder: Path, program: str) -> None:
        super().__init__("app.py", "http://localhost", None)
        self.program = program
        self._said = folder / "said"
        self._said.touch()
        self.keeper = asyncio.create_task(self.keep_running())

    @property
    def said(self) -> list[str]:
        return self._said.read_text().split()

    def _command(self) -> list[str]:
        return [sys.executable, "-S", "-E", "-c", self.program, str(self._said)]

    async def until(self, what: Callable[[list[str]], bool]) -> None:
        async with asyncio.timeout(10):
            while not what(self.said):  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.01)


Start = Callable[[str], Child]


@pytest.fixture
async def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    monkeypatch.setattr(serve, "GRACE_S", 0.2)
    children: list[Child] = []

    def begin(program: str) -> Child:
        children.append(Child(tmp_path, program))
        return children[-1]

    yield begin
    for child in children:
        child.stopping.set()
        child.keeper.cancel()
        await child.stop()


async def test_a_step_that_ends_its_process_does_not_end_the_worker_for_good(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    child = start(EXITS.format(code=3))
    await child.until(lambda said: len(said) >= 2)
    assert "the worker died (exit 3), again in 0.5 s" in capsys.readouterr().err


async def test_what_cannot_be_loaded_waits_for_a_change(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    child = start(EXITS.format(code=NOT_LOADED))
    await child.until(lambda said: len(said) == 1)
    await asyncio.sleep(0.8)
    assert child.said == ["started"]
    assert "the worker waits for a change" in capsys.readouterr().err
    child.renew()
    await child.until(lambda said: len(said) == 2)


async def test_after_a_change_the_old_worker_finishes_beside_the_new_one(start: Start) -> None:
    child = start(BUSY.format(busy_s=0.8))
    await child.until(lambda said: said == ["started"])
    child.program = BUSY.format(busy_s=60)
    child.renew()
    await child.until(lambda said: said.count("started") == 2)
    assert "finished" not in child.said
    await child.until(lambda said: "finished" in said)
    assert child.said.count("asked") == 1


async def test_an_old_worker_is_killed_in_the_end(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "RELOAD_GRACE_S", 0.1)
    child = start(BUSY.format(busy_s=60))
    await child.until(lambda said: said == ["started"])
    child.renew()
    await child.until(lambda said: said.count("started") == 2)
    async with asyncio.timeout(5):
        while child._leaving:  # noqa: ASYNC110 - no more than a look
            await asyncio.sleep(0.01)
    assert "an old worker was killed" in capsys.readouterr().err


async def test_to_stop_ends_old_and_new_and_asks_each_once(start: Start) -> None:
    child = start(BUSY.format(busy_s=60))
    await child.until(lambda said: said == ["started"])
    child.renew()
    await child.until(lambda said: said.count("started") == 2)
    child.stopping.set()
    child.keeper.cancel()
    begun = time.monotonic()
    await child.stop()
    assert time.monotonic() - begun < 5
    assert child.said.count("asked") == 2
    assert child._leaving == {}


@pytest.mark.parametrize(
    "code", ["raise ValueError('x')", "raise SystemExit(3)", "x = 1", "def"], ids=["raises", "exits", "empty", "syntax"]
)
async def test_a_child_says_that_it_cannot_be_loaded(code: str, tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(code + "\n")
    child = WorkerProcess(str(app), "http://localhost:1", None)
    process = await asyncio.create_subprocess_exec(*child._command(), stderr=asyncio.subprocess.PIPE)
    assert await process.wait() == NOT_LOADED
