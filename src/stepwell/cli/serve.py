"""`stepwell dev` and `stepwell start`: the server, and in development the worker beside it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stepwell.cli.console import Console
from stepwell.cli.options import (
    check_foreign,
    fallback_option,
    keys_from_environment,
    keys_not_taken,
    server_options,
)
from stepwell.cli.output import bold, dim, say, tell
from stepwell.cli.processes import READY, Processes, own_command
from stepwell.cli.target import NOT_LOADED, watched_folder
from stepwell.cli.worker import die_with_parent
from stepwell.model.errors import ConfigurationError

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Awaitable, Callable

    from stepwell.server import Server, ServerSettings

log = logging.getLogger("stepwell")

GRACE_S = 5.0
"""How long workers may finish what they run when `dev` is stopped; the server has their runs done again."""
RELOAD_GRACE_S = 60.0
"""How long an old worker may finish its steps beside the new one; as long as a draining worker takes at most."""


@click.command()
@click.argument("target", required=False)
@server_options
@click.option("--signing-key", envvar="STEPWELL_SIGNING_KEY", metavar="KEY", help="Sign calls and ask for this key.")
@fallback_option("STEPWELL_SIGNING_KEY_FALLBACK")
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
@fallback_option("STEPWELL_SIGNING_KEY_FALLBACK", "INNGEST_SIGNING_KEY_FALLBACK")
@click.option(
    "--event-key",
    "event_keys",
    multiple=True,
    metavar="KEY",
    help="Accept events only with this key; repeatable  [$STEPWELL_EVENT_KEY]",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    envvar="STEPWELL_PROCESSES",
    metavar="N",
    help="Server processes that share the port and the database; with --db only.",
)
@click.option("--child", type=click.Path(path_type=Path), hidden=True)
def start(processes: int, child: Path | None, **options: Any) -> None:
    """Run a server for production. It needs a signing key and at least one event key."""
    options["event_keys"] = keys_from_environment(options["event_keys"], "STEPWELL_EVENT_KEY", "INNGEST_EVENT_KEY")
    settings = _settings(options, dev=False, quiet=child is not None)
    if child is not None:
        die_with_parent()
        _run(lambda: _start_child(replace(settings, beside_others=True), child))
    elif processes > 1:
        sys.exit(asyncio.run(Processes(settings, processes, own_command()).run()))
    else:
        _run(lambda: _start(settings))


def _settings(options: dict[str, Any], *, dev: bool, quiet: bool = False) -> ServerSettings:
    """The settings that options and variables come to; `quiet` says nothing of those that do nothing."""
    from stepwell.apps.settings import AppSettings
    from stepwell.gateway.gateway import GatewaySettings
    from stepwell.node.retention import Keep
    from stepwell.server import ServerSettings, logs

    log_json = options["log_json"]
    if log_json:
        logs.set_up(as_json=True)
    notes = check_foreign(options) + (keys_not_taken(os.environ) if dev else [])
    for note in () if quiet else notes:
        tell(dim(note), as_json=log_json)
    given = click.get_current_context().get_parameter_source("data")
    if options["db"] and given is click.core.ParameterSource.COMMANDLINE:  # a container image may set STEPWELL_DATA
        raise ConfigurationError(
            "--data names a folder for the state and --db (or STEPWELL_DB) a database; give only one of them"
        )
    interval = options["retry_interval"]
    return ServerSettings(
        dev=dev,
        host=options["host"],
        port=options["port"],
        data=Path(options["data"] or ".stepwell"),
        lease_ms=options["lease_ms"],
        db=options["db"],
        db_listen=options["db_listen"],
        fresh=options["fresh"],
        service_urls=_split(options["service_urls"]),
        discovery=dev and not options["no_discovery"],
        poll=not options["no_poll"],
        poll_interval_s=options["poll_interval"],
        retry_interval_ms=round(interval * 1000) if interval is not None else None,
        signing_key=options["signing_key"],
        signing_key_fallback=options["signing_key_fallback"],
        allowed_hosts=_split(options["allowed_hosts"]),
        allowed_origins=_split(options["allowed_origins"]),
        event_keys=_split(options["event_keys"]),
        keep=Keep(options["keep_runs"], options["keep_events"], options["keep_runs_at_most"], options["keep_files"]),
        files=options["files"],
        public_url=options["public_url"],
        apps=AppSettings(
            isolation=options["app_isolation"],
            read_paths=tuple(one.absolute() for one in options["app_read"]),
            workers=options["app_workers"],
            wait_for_resources=options["app_wait_for_resources"],
        ),
        map_apps=dict(_pair(one) for one in _split(options["map_apps"])),
        gpu_second_usd=options["app_gpu_price"],
        app_secrets=_app_secrets(_split(options["app_secrets"])),
        gateway=GatewaySettings(allow_addresses=_split(options["allow_addresses"])),
        secret_key=os.environ.get("STEPWELL_SECRET_KEY") or None,
        secret_key_fallback=os.environ.get("STEPWELL_SECRET_KEY_FALLBACK") or None,
        secret_key_file=Path(options["secret_key_file"]) if options["secret_key_file"] else None,
        seal_credentials=options["seal_credentials"],
        redact=_split(options["redact"]),
        log_json=log_json,
        unsafe_no_auth=options["unsafe_no_auth"],
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, app = text.partition("=")
    if not equals:
        raise ConfigurationError(f"--map-app {text}: write NAME=APP, such as infsh/claude=acme/assistant")
    return name.strip(), app.strip()


def _app_secrets(names: tuple[str, ...]) -> dict[str, str]:
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise ConfigurationError(
            f"--app-secret {missing[0]}: this server has no variable of that name, so apps cannot get it; set it in "
            "the environment that the server is started in"
        )
    return {name: os.environ[name] for name in names}


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

    stopped = _on_signals()  # from now on: who has begun to take part must leave in order
    server = Server(settings)
    await server.start()
    spare_collector()
    _banner(server, settings, "start")
    await stopped.wait()
    if not settings.log_json:  # else the server's own line is seen
        say("stopping: what is in flight may still finish", mark="■")
    await server.stop()


async def _start_child(settings: ServerSettings, place: Path) -> None:
    """One of several, for `Processes`."""
    from stepwell.api.metrics import Figures
    from stepwell.server import Server, spare_collector
    from stepwell.server.neighbours import Neighbours

    stopped = _on_signals()  # from now on: who has begun to take part must leave in order
    server = Server(settings)
    await server.start()
    spare_collector()
    async with Neighbours(place, Figures(server.site).text) as neighbours:
        server.site.neighbours = neighbours
        sys.stdout.buffer.write(READY)
        sys.stdout.flush()
        await stopped.wait()
        await server.stop()


async def _dev(settings: ServerSettings, target: str | None, *, reload: bool) -> None:
    from stepwell.server import Server, spare_collector

    if target is not None:
        place = Path(target.partition(":")[0])
        if place.suffix == ".py" and not place.is_file():
            raise ConfigurationError(f"no file {place}")
    stopped = _on_signals()  # from now on: who has begun to take part must leave in order
    server = Server(settings)
    await server.start()
    spare_collector()
    _banner(server, settings, "dev")
    console = Console(server.node.store, as_json=settings.log_json)
    server.site.watch.listener = console.moved
    telling = asyncio.create_task(console.tell(), name="telling of runs")
    child: WorkerProcess | None = None
    if target is not None:
        child = WorkerProcess(target, server.url, settings.signing_key, log_json=settings.log_json)
    try:
        if child is None:
            await stopped.wait()
        else:
            async with asyncio.TaskGroup() as tasks:
                keeper = tasks.create_task(child.keep_running())
                watcher = tasks.create_task(child.renew_on_change(watched_folder(child.target))) if reload else None
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
    say(f"{server.url}   {dim(f'state in {server.place}')}", mark="→")


class WorkerProcess:
    """The user's code in processes of their own: `stepwell worker TARGET`, kept running and renewed on a change.

    change ──▶ a new worker at once, which takes all new calls
           └─▶ the old one finishes the steps it runs, for `RELOAD_GRACE_S` at most
    """

    def __init__(self, target: str, url: str, key: str | None, *, log_json: bool = False) -> None:
        self.target = target
        self._tell = partial(tell, as_json=log_json)
        self.stopping = asyncio.Event()
        self._url = url
        self._key = key
        self._changed = asyncio.Event()
        self._current: Process | None = None
        self._leaving: dict[Process, asyncio.Task[None]] = {}

    async def keep_running(self) -> None:
        """Start a worker again whenever it has ended or a file has changed; after a crash with a pause that grows."""
        pause = 0.5
        while not self.stopping.is_set():
            self._changed.clear()
            process = await self._start()
            code = await self._ended_or_changed(process)
            if code is None:
                self._retire(process)
                pause = 0.5
                continue
            if self.stopping.is_set():
                return
            broken = code == NOT_LOADED  # only a change can help
            if code == 0:
                self._tell("the worker ended; change a file to start it again", mark="■", colour="yellow")
            elif broken:
                self._tell("the worker waits for a change", mark="✗", colour="red")
            else:
                self._tell(f"the worker died ({_exit_text(code)}), again in {pause:g} s", mark="✗", colour="red")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), None if broken or code == 0 else pause)
            pause = 0.5 if self._changed.is_set() else min(pause * 2, 10.0)

    async def renew_on_change(self, folder: Path) -> None:
        """Begin a new worker when Python files in the folder change."""
        from watchfiles import PythonFilter, awatch

        async for changes in awatch(folder, watch_filter=PythonFilter(), step=50):
            names = sorted({Path(path).name for _, path in changes})
            self._tell(
                f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''} changed: new worker", mark="↻", colour="blue"
            )
            self.renew()

    def renew(self) -> None:
        """Begin a new worker; the one there is finishes what it runs."""
        self._changed.set()

    async def stop(self) -> None:
        """End all workers: they may finish or hand back what they run for `GRACE_S`, then they are killed."""
        asked = list(self._leaving)  # not again: a second signal would end them at once
        for task in self._leaving.values():
            task.cancel()
        await asyncio.gather(*self._leaving.values(), return_exceptions=True)
        if self._current is not None:
            _ask_to_end(self._current)
            asked.append(self._current)
        await asyncio.gather(*(_end(process, GRACE_S) for process in asked))

    async def _start(self) -> Process:
        # What seals credentials is the server's, and no business of the code beside it.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STEPWELL_SECRET_KEY")}
        self._current = await asyncio.create_subprocess_exec(*self._command(), env=environment)
        return self._current

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "stepwell.cli", "worker", self.target, "--child", "--url", self._url]
        return [*command, "--key", self._key] if self._key else command

    async def _ended_or_changed(self, process: Process) -> int | None:
        """The exit code; None if a file changed first."""
        ended = asyncio.create_task(process.wait())
        changed = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait((ended, changed), return_when=asyncio.FIRST_COMPLETED)
            return ended.result() if ended.done() else None
        finally:
            ended.cancel()
            changed.cancel()

    def _retire(self, process: Process) -> None:
        _ask_to_end(process)
        self._current = None
        task = asyncio.create_task(self._see_off(process))
        self._leaving[process] = task
        task.add_done_callback(lambda _: self._leaving.pop(process, None))

    async def _see_off(self, process: Process) -> None:
        if not await _end(process, RELOAD_GRACE_S):
            self._tell(f"an old worker was killed: its steps took over {RELOAD_GRACE_S:g} s", mark="✗", colour="yellow")


def _ask_to_end(process: Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()


async def _end(process: Process, grace_s: float) -> bool:
    """Wait for a process that was asked to end, then kill it. Whether it ended by itself."""
    try:
        await asyncio.wait_for(process.wait(), grace_s)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        return False
    return True


def _exit_text(code: int) -> str:
    """`exit 3`, or the signal that ended it."""
    if code >= 0:
        return f"exit {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
