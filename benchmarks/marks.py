"""Time marks: a function under test writes down when it got where, and the driver reads along.

A mark is one unbuffered append of a short line, so it costs the same two microseconds for everybody under test. The
clock is `time.monotonic_ns`, which all processes of a Linux machine share. Served functions also write down how many
bytes each request had.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

VARIABLE = "STEPWELL_BENCH_MARKS"
"""Names the file, in the environment of what is under test."""

_RECEIVED = "-"
"""Stands where a run's key would."""

_file: int | None = None


def mark(key: str, name: str) -> None:
    """Called by functions under test: run `key` has reached `name`."""
    global _file
    if _file is None:
        _file = os.open(os.environ[VARIABLE], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.write(_file, f"{time.monotonic_ns()} {key} {name}\n".encode())


def received(size_bytes: int) -> None:
    """Called by what serves functions: a request with a body of this size came in."""
    mark(_RECEIVED, str(size_bytes))


class Marks:
    """Called by the driver: all marks so far. A step that ran twice counts once, at its first time."""

    def __init__(self, file: Path) -> None:
        file.touch()
        self._file = file.open("rb")
        self._rest = b""
        self.of: dict[str, dict[str, float]] = {}
        """Run -> name -> seconds on the monotonic clock."""
        self.received_bytes = 0
        """Bodies of the requests that reached the functions."""

    def read(self) -> list[tuple[str, str]]:
        """The new marks, each once: (run, name)."""
        lines = (self._rest + self._file.read()).split(b"\n")
        self._rest = lines.pop()
        found = []
        for line in lines:
            at, key, name = line.decode().split(" ")
            if key == _RECEIVED:
                self.received_bytes += int(name)
                continue
            run = self.of.setdefault(key, {})
            if name not in run:
                run[name] = int(at) / 1e9
                found.append((key, name))
        return found

    async def wait(self, key: str, name: str, *, limit_s: float = 60.0, pause_s: float = 0.001) -> float:
        """When run `key` reached `name`. Raises `TimeoutError`."""
        until = time.monotonic() + limit_s
        while True:
            self.read()
            at = self.of.get(key, {}).get(name)
            if at is not None:
                return at
            if time.monotonic() > until:
                raise TimeoutError(f"run {key} did not reach {name!r} within {limit_s:g} s")
            await asyncio.sleep(pause_s)

    def forget(self) -> None:
        """Drop what is known, between measurements."""
        self.read()
        self.of.clear()
        self.received_bytes = 0

    def close(self) -> None:
        self._file.close()
