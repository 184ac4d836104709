"""Child processes of a benchmark, what they and their children cost, and statistics of what was measured."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

STOP_S = 10.0


class Child:
    """A process in a session of its own; its output goes to a log file."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=out, env={**_plain_environment(), **environment}, start_new_session=True
            )
        self._root = psutil.Process(self._process.pid)

    def tree(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return []

    def cpu_s(self) -> float:
        """CPU time of the process and its children so far. The kernel counts in hundredths."""
        return sum(_cpu_s(one) for one in self.tree())

    def own_cpu_s(self) -> float:
        """CPU time of the process alone."""
        return _cpu_s(self._root)

    def rss_bytes(self) -> int:
        total = 0
        for one in self.tree():
            try:
                total += int(one.memory_info().rss)
            except psutil.Error:
                pass
        return total

    def check(self) -> None:
        """Raises `RuntimeError` with the end of its log if the process has ended."""
        code = self._process.poll()
        if code is not None:
            raise RuntimeError(f"{self.name} ended with {code}:\n{self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        """Kill it and its children without a warning; on return they are gone."""
        tree = self.tree()
        for one in tree:
            try:
                one.send_signal(signal.SIGKILL)
            except psutil.Error:
                pass
        psutil.wait_procs(tree, STOP_S)
        self._process.wait(STOP_S)

    def stop(self) -> None:
        tree = self.tree()
        for one in tree:
            try:
                one.terminate()
            except psutil.Error:
                pass
        for one in psutil.wait_procs(tree, STOP_S)[1]:
            one.kill()
        self._process.wait(STOP_S)


class Foreign:
    """What others use of the machine from now on: our own processes are taken off."""

    def __init__(self, ours: Iterable[Child]) -> None:
        self._ours = tuple(ours)
        self.complete = bool(self._ours)
        """Whether it is known which processes are ours."""
        self._at, self._busy_s, self._ours_s = time.monotonic(), busy_s(), self._spent_s()

    def cores(self) -> float:
        took = time.monotonic() - self._at
        return max(0.0, (busy_s() - self._busy_s - self._spent_s() + self._ours_s) / max(took, 1e-3))

    def _spent_s(self) -> float:
        return time.process_time() + sum(one.cpu_s() for one in self._ours)


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _plain_environment() -> dict[str, str]:
    """Ours without settings that would change what is measured."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("STEPWELL_", "INNGEST_"))}


def busy_s() -> float:
    """CPU time that the whole machine has spent."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    twice = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle - twice)


def free_port() -> int:
    """A port that is free now, and that no system hands out by itself until it is taken."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port


def percentile(values: Iterable[float], part: float) -> float:
    """The value below which `part` of them lie; NaN of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else float("nan")


def median(values: Iterable[float]) -> float:
    found = [value for value in values if value == value]
    return statistics.median(found) if found else float("nan")
