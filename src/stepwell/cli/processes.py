"""`stepwell start --processes N`: one parent that keeps N servers running on one port and one database.

    parent: keeps the port bound and does not listen ──starts, one after the other──▶ N children, each a whole server
                                                     ◀──"ready" on its stdout, or its end──

The children share the port with SO_REUSEPORT, so the kernel spreads connections over them. One that dies is started
again after a pause; the others have its work when its lease runs out, or at once if it could still leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from stepwell.cli.output import bold, dim, say, tell
from stepwell.model.errors import ConfigurationError

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Sequence

    from stepwell.server import ServerSettings

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
SOUND_S = 60.0
"""A child that lived so long died of something new: the next one comes soon."""
READY = b"ready\n"
_LONGEST_PLACE = 64  # the path of a Unix socket has room for some 100 characters
_KILL_AFTER_S = 10.0  # beyond the time that a server may take to drain


class Processes:
    """The children.

    Args:
        settings: Of each of them.
        count: How many.
        command: Starts one; the port and `--child`, its place among the others, are added.
    """

    def __init__(self, settings: ServerSettings, count: int, command: Sequence[str]) -> None:
        self._settings = settings
        self._count = count
        self._command = list(command)
        self._children: set[Process] = set()
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """Until SIGTERM or SIGINT, or until the first child cannot start. The exit status."""
        from stepwell.server.listening import reserve

        settings = self._settings
        settings.check()
        if settings.db is None:
            raise ConfigurationError(
                f"--processes {self._count} needs a database that several processes can use: --db postgresql://... "
                "A data folder with SQLite is for one process"
            )
        sockets = reserve(settings.host, settings.port)
        port = sockets[0].getsockname()[1]
        self._command += ["--port", str(port), "--child"]
        usual = len(tempfile.gettempdir()) <= _LONGEST_PLACE
        self._places = Path(tempfile.mkdtemp(prefix="stepwell-", dir=None if usual else "/tmp"))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        try:
            first = await self._start(0)
            if not await self._is_ready(first):
                return await first.wait()
            keepers = [asyncio.create_task(self._keep(0, first))]
            keepers += [asyncio.create_task(self._keep(number, None)) for number in range(1, self._count)]
            self._tell(port)
            await self._stopping.wait()
            if not settings.log_json:
                say("stopping: what is in flight may still finish", mark="■")
            await self._end(keepers)
            return 0
        finally:
            for one in sockets:
                one.close()
            for child in self._children:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
            shutil.rmtree(self._places, ignore_errors=True)

    def _tell(self, port: int) -> None:
        from stepwell.api.gate import is_loopback
        from stepwell.store.postgres.database import Address

        if self._settings.log_json:
            return
        say(f"{bold('Stepwell')} {version('stepwell')} {dim('start')}", mark="◆", colour="magenta")
        host = "localhost" if is_loopback(self._settings.host) else self._settings.host
        place = f"{self._count} processes, state in {Address(self._settings.db or '')}"
        say(f"http://{f'[{host}]' if ':' in host else host}:{port}   {dim(place)}", mark="→")

    def _stop(self) -> None:
        if self._stopping.is_set():  # asked a second time
            for child in self._children:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
        self._stopping.set()

    async def _start(self, number: int) -> Process:
        child = await asyncio.create_subprocess_exec(*self._command, str(self._places / str(number)), stdout=PIPE)
        self._children.add(child)
        return child

    async def _is_ready(self, child: Process) -> bool:
        """Wait for a child to say so; False if it ends before."""
        assert child.stdout is not None
        return await child.stdout.readline() == READY

    async def _keep(self, number: int, child: Process | None) -> None:
        """Keep one place filled until we stop."""
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            begun = time.monotonic()
            if child is None:
                child = await self._start(number)
                if self._stopping.is_set():
                    with contextlib.suppress(ProcessLookupError):
                        child.terminate()
            code = await child.wait()
            self._children.discard(child)
            child = None
            if self._stopping.is_set():
                return
            if time.monotonic() - begun > SOUND_S:
                pause_s = FIRST_PAUSE_S
            ended = f"a server process ended ({_how(code)}), again in {pause_s:g} s"
            tell(ended, as_json=self._settings.log_json, mark="✗", colour="red")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _end(self, keepers: Sequence[asyncio.Task[None]]) -> None:
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
        await asyncio.wait(keepers, timeout=self._settings.drain_limit_s + _KILL_AFTER_S)
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        await asyncio.gather(*keepers)


def _how(code: int) -> str:
    return f"exit status {code}" if code >= 0 else signal.Signals(-code).name


def own_command() -> list[str]:
    """What this process was started with, for a child."""
    return [sys.executable, "-m", "stepwell.cli", *sys.argv[1:]]
