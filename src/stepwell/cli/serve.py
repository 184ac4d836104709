"""`stepwell dev` and `stepwell start`: the server, and in development the worker beside it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stepwell.cli.console import Console
from stepwell.cli.options import check_foreign, fallback_option, keys_from_environment, server_options
from stepwell.cli.output import bold, dim, say
from stepwell.cli.target import watched_folder
from stepwell.model.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stepwell.server import Server, ServerSettings

log = logging.getLogger("stepwell")

GRACE_S = 5.0


@click.command()
@click.argument("target", required=False)
@server_options
@click.option("--signing-key", envvar="STEPWELL_SIGNING_KEY", metavar="KEY", help="Sign calls and ask for this key.")
@fallback_option
@click.option(
    "--event-key",
    "event_keys",
    multiple=True,
    envvar="STEPWELL_EVENT_KEY",
    metavar="KEY",
    help="Accept events only with this key; repeatable.",
)
@click.option("--no-reload", is_flag=True, help="Do not restart the worker when a file changes.")
def dev(target: str | None, no_reload: bool, **options: Any) -> None:
    """Run a server for development, with your code beside it.

    TARGET is that code (`app.py`, `package.module`). No keys, no other program. State is kept in .stepwell/ and
    survives restarts. TARGET runs in a process of its own, which is restarted when a file beside it changes; the
    server and the runs in it go on.
    """
    settings = _settings(options, dev=True)
    _run(lambda: _dev(settings, target, reload=not no_reload))


@click.command()
@server_options
@click.option(
    "--signing-key",
    envvar=["STEPWELL_SIGNING_KEY", "INNGEST_SIGNING_KEY"],
    metavar="KEY",
    help="Hexadecimal, as `openssl rand -hex 32` prints.",
)
@fallback_option
@click.option(
    "--event-key",
    "event_keys",
    multiple=True,
    metavar="KEY",
    help="Accept events only with this key; repeatable  [$STEPWELL_EVENT_KEY]",
)
def start(**options: Any) -> None:
    """Run a server for production. It needs a signing key and at least one event key."""
    options["event_keys"] = keys_from_environment(options["event_keys"], "STEPWELL_EVENT_KEY", "INNGEST_EVENT_KEY")
    settings = _settings(options, dev=False)
    _run(lambda: _start(settings))


def _settings(options: dict[str, Any], *, dev: bool) -> ServerSettings:
    from stepwell.server import ServerSettings

    check_foreign(options)
    interval = options["retry_interval"]
    return ServerSettings(
        dev=dev,
        host=options["host"],
        port=options["port"],
        data=Path(options["data"] or ".stepwell"),
        fresh=options["fresh"],
        service_urls=_split(options["service_urls"]),
        discovery=dev and not options["no_discovery"],
        poll=not options["no_poll"],
        poll_interval_s=options["poll_interval"],
        retry_interval_ms=round(interval * 1000) if interval is not None else None,
        signing_key=options["signing_key"],
        signing_key_fallback=options["signing_key_fallback"],
        allowed_hosts=_split(options["allowed_hosts"]),
        event_keys=_split(options["event_keys"]),
        log_json=options["log_json"],
        unsafe_no_auth=options["unsafe_no_auth"],
    )


def _split(values: tuple[str, ...]) -> tuple[str, ...]:
    """Options given several times, or once with commas as a variable has them."""
    return tuple(piece.strip() for value in values for piece in value.split(",") if piece.strip())


def _run(main: Callable[[], Awaitable[None]]) -> None:
    import uvloop

    async def whole() -> None:
        await main()

    try:
        uvloop.run(whole())
    except KeyboardInterrupt:
        sys.exit(130)


async def _start(settings: ServerSettings) -> None:
    from stepwell.server import Server, spare_collector

    server = Server(settings)
    await server.start()
    spare_collector()
    stopped = _on_signals()
    _banner(server, settings, "start")
    await stopped.wait()
    say("stopping: what is in flight may still finish", mark="■")
    await server.stop()


async def _dev(settings: ServerSettings, target: str | None, *, reload: bool) -> None:
    from stepwell.server import Server, spare_collector

    if target is not None:
        place = Path(target.partition(":")[0])
        if place.suffix == ".py" and not place.is_file():
            raise ConfigurationError(f"no file {place}")
    server = Server(settings)
    await server.start()
    spare_collector()
    stopped = _on_signals()
    _banner(server, settings, "dev")
    console = Console(server.node.store, as_json=settings.log_json)
    server.site.watch.listener = console.moved
    telling = asyncio.create_task(console.tell(), name="telling of runs")
    child = WorkerProcess(target, server.url, settings.signing_key) if target is not None else None
    try:
        if child is None:
            await stopped.wait()
        else:
            async with asyncio.TaskGroup() as tasks:
                keeper = tasks.create_task(child.keep_running())
                watcher = tasks.create_task(child.restart_on_change(watched_folder(child.target))) if reload else None
                await stopped.wait()
                child.stopping.set()
                for task in (keeper, watcher):
                    if task is not None:
                        task.cancel()
    finally:
        if child is not None:
            await child.stop()
        telling.cancel()
        await server.stop()


def _on_signals() -> asyncio.Event:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stopped.set)
    return stopped


def _banner(server: Server, settings: ServerSettings, command: str) -> None:
    if settings.log_json:
        return
    say(f"{bold('Stepwell')} {version('stepwell')} {dim(command)}", mark="◆", colour="magenta")
    say(f"{server.url}   {dim(f'state in {settings.data}')}", mark="→")


class WorkerProcess:
    """The user's code in a process of its own: `stepwell worker TARGET`, kept running and restarted on a change."""

    def __init__(self, target: str, url: str, key: str | None) -> None:
        self.target = target
        self.stopping = asyncio.Event()
        self._url = url
        self._key = key
        self._process: asyncio.subprocess.Process | None = None
        self._changed = asyncio.Event()

    async def keep_running(self) -> None:
        """Start the worker again whenever it has ended: at once after a change, else with a pause that grows."""
        pause = 0.5
        while not self.stopping.is_set():
            self._changed.clear()
            process = await self._start()
            code = await process.wait()
            if self.stopping.is_set() or self._changed.is_set():
                pause = 0.5
                continue
            if code == 0:
                say("the worker ended; change a file to start it again", mark="■", colour="yellow")
                await self._changed.wait()
                continue
            broken = code in (1, 2, 3)  # the target cannot be loaded: only a change can help
            say(
                f"the worker {'waits for a change' if broken else f'died (exit {code}), again in {pause:g} s'}",
                mark="✗",
                colour="red",
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), None if broken else pause)
            pause = min(pause * 2, 10.0)

    async def restart_on_change(self, folder: Path) -> None:
        """Restart the worker when Python files in the folder change."""
        from watchfiles import PythonFilter, awatch

        async for changes in awatch(folder, watch_filter=PythonFilter(), step=50):
            names = sorted({Path(path).name for _, path in changes})
            say(f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''} changed: new worker", mark="↻", colour="blue")
            self._changed.set()
            await self.stop()

    async def stop(self) -> None:
        """End the worker: it may hand back what it runs, then it is killed."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), GRACE_S)
            except TimeoutError:
                process.kill()
                await process.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        arguments = ["-m", "stepwell.cli", "worker", self.target, "--child", "--url", self._url]
        if self._key:
            arguments += ["--key", self._key]
        self._process = await asyncio.create_subprocess_exec(sys.executable, *arguments)
        return self._process
