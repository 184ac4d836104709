"""Killed at every statement, and at any moment: what was acknowledged is there, nothing is there by half."""

from __future__ import annotations

import ast
import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stepwell.store.sqlite import SqliteStore
from tests.store.workload import check

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "stepwell" / "store" / "sqlite"


class Children:
    """Runs the workload in children of a small process, which forks faster than Python starts."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.store.workload"]
        self._parent = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def start(self, directory: Path, point: str, nth: int = 1) -> None:
        assert self._parent.stdin is not None
        self._parent.stdin.write(f"{directory}\t{point}\t{nth}\n")

    def code(self) -> int:
        assert self._parent.stdout is not None
        return int(self._parent.stdout.readline())

    def close(self) -> None:
        self._parent.communicate()


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    started = Children()
    yield started
    started.close()


def lines_of(directory: Path) -> list[str]:
    return directory.with_name(f"{directory.name}.out").read_text().splitlines()


def points_of(directory: Path) -> dict[str, int]:
    return {name: int(count) for name, _, count in (line.partition("\t") for line in lines_of(directory)) if count}


def reopen_and_check(directory: Path) -> None:
    async def reopened() -> None:
        store = SqliteStore(directory)
        await store.open()
        try:
            await check(store, {line for line in lines_of(directory) if "\t" not in line})
        finally:
            await store.close()

    asyncio.run(reopened())


def test_the_workload_passes_every_statement_that_writes(tmp_path: Path, children: Children) -> None:
    """A statement that it does not pass would not be killed at."""
    children.start(tmp_path / "data", "list")
    assert children.code() == 0
    passed = points_of(tmp_path / "data")
    named = {
        str(call.args[0].value)
        for file in ("writer.py", "changes.py", "removal.py", "slots.py")
        for call in ast.walk(ast.parse((SOURCE / file).read_text()))
        if isinstance(call, ast.Call)
        and (call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", ""))
        in ("one", "many")
        and isinstance(call.args[0], ast.Constant)
    }
    assert len(named) > 20
    assert {f"{when} {name}" for name in named for when in ("before", "after")} <= passed.keys()
    reopen_and_check(tmp_path / "data")


@pytest.mark.slow
def test_a_kill_at_any_point_loses_nothing_that_was_acknowledged(tmp_path: Path, children: Children) -> None:
    children.start(tmp_path / "list", "list")
    assert children.code() == 0
    counts = points_of(tmp_path / "list")
    # The first and a middle pass of each. A busy machine groups differently, so the middle one may not come.
    kills = sorted({(name, nth) for name, count in counts.items() for nth in (1, count // 2 + 1)})
    directories = [tmp_path / str(i) for i in range(len(kills))]
    for directory, (name, nth) in zip(directories, kills, strict=True):
        children.start(directory, name, nth)
    died = 0
    for directory in directories:
        code = children.code()
        assert code in (0, -signal.SIGKILL)
        died += code != 0
        reopen_and_check(directory)
    assert died >= len(counts)


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.0, 0.003, 0.008, 0.015, 0.03])
def test_a_kill_at_any_moment_loses_nothing_that_was_acknowledged(tmp_path: Path, delay_s: float) -> None:
    """From outside, so also in the middle of a statement, of a sync, of a checkpoint."""
    told = tmp_path / "data.out"
    program = (
        f"import asyncio; from tests.store.workload import main; asyncio.run(main({str(tmp_path / 'data')!r}, '-', 0))"
    )
    with told.open("wb") as out:
        child = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=out)
    while not told.stat().st_size and child.poll() is None:
        time.sleep(0.001)
    time.sleep(delay_s)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    reopen_and_check(tmp_path / "data")
