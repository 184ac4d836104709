"""`stepwell worker`: run the functions of a module, connected to a server."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import traceback
from pathlib import Path

import click

from stepwell.cli.api import credential, url_option
from stepwell.cli.output import say
from stepwell.cli.target import NOT_LOADED, load_services


@click.command()
@click.argument("target")
@url_option
@click.option(
    "--concurrency", type=click.IntRange(1), envvar="STEPWELL_CONCURRENCY", help="Functions at a time  [default: 100]"
)
@click.option("--child", is_flag=True, hidden=True)
def worker(target: str, url: str, key: str | None, concurrency: int | None, child: bool) -> None:
    """Run the services in TARGET as a worker of a server.

    TARGET is `app.py`, `package.module` or either with `:service`. The worker dials out: it needs no open port.
    It reconnects for ever, also to another node when `--url` has several addresses with commas between. Stop it with
    Ctrl+C, and what it is running is finished or handed back first.
    """
    if child:
        die_with_parent()
        _leave_ctrl_c_to_parent()
    api_key = credential(key) if key else None
    try:
        services = load_services(target)
    except click.ClickException as err:
        if not child:
            raise
        err.show()
        sys.exit(NOT_LOADED)
    except (Exception, SystemExit):
        _show_users_error(target)
        sys.exit(NOT_LOADED if child else 3)
    from stepwell.sdk.errors import WorkerRefused
    from stepwell.sdk.worker import run_worker

    _show_log(child=child)

    if not child:
        say(f"{', '.join(service.id for service in services)} → {url}", mark="●", colour="blue")
    _prefer_uvloop()
    try:
        run_worker(services, url, api_key=api_key, concurrency=concurrency or 0)
    except WorkerRefused as err:
        if not child:
            raise
        say(str(err), mark="✗", colour="red")
        sys.exit(NOT_LOADED)


def _show_log(*, child: bool) -> None:
    """The log on standard error from INFO on, unless the program has set up its own."""
    ours = not logging.getLogger().handlers
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")
    if ours and child:
        for handler in logging.getLogger().handlers:
            handler.addFilter(_is_not_told_by_dev)
    for noisy in ("httpx2", "httpcore2", "websockets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _is_not_told_by_dev(record: logging.LogRecord) -> bool:
    """Failed attempts are told by `stepwell dev` on the same terminal, with the next try and the traceback."""
    return not (record.name == "stepwell" and record.exc_info and hasattr(record, "attempt"))


def _prefer_uvloop() -> None:
    """The faster event loop, when it is installed (it comes with the server)."""
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def _show_users_error(target: str) -> None:
    """The traceback of the user's own code, without our frames above it."""
    kind, error, trace = sys.exc_info()
    ours = str(Path(__file__).parent)
    while trace is not None and (
        trace.tb_frame.f_code.co_filename.startswith(ours) or "importlib" in trace.tb_frame.f_code.co_filename
    ):
        trace = trace.tb_next
    say(f"{target} could not be loaded:", mark="✗", colour="red")
    click.echo("".join(traceback.format_exception(kind, error, trace)), err=True)


def die_with_parent() -> None:
    """A process started by `stepwell dev` or `start` ends when that process ends, however it ends."""
    parent = os.getppid()
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit(0)


def _leave_ctrl_c_to_parent() -> None:
    """Ctrl+C reaches every process of a terminal; that of `stepwell dev` tells this one, and only once.

    Blocked, not ignored: the worker sets handlers of its own later. Threads that are started from here on inherit it.
    """
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
