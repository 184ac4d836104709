"""`stepwell doctor` and `stepwell migrate`: is everything as it should be?"""

from __future__ import annotations

import asyncio
import platform
import socket
import sqlite3
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stepwell.cli.output import print_json, say
from stepwell.model.errors import StepwellError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell.store.migrations import Seen

_SERVER = ("uvicorn", "httptools", "starlette", "aiohttp", "google-re2", "graphql-core", "watchfiles")

_db_option = click.option(
    "--db", envvar=["STEPWELL_DB", "INNGEST_POSTGRES_URI"], metavar="URL", help="PostgreSQL database of the state."
)


@click.command()
@click.option(
    "--data", default=".stepwell", envvar="STEPWELL_DATA", type=click.Path(file_okay=False), help="Folder of the state."
)
@_db_option
@click.option("--port", type=click.IntRange(1, 65535), default=8288, envvar="STEPWELL_PORT", help="Port to try.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(data: str, db: str | None, port: int, as_json: bool) -> None:
    """Check this machine and the stored state. Exit 1 if something is wrong.

    Nothing is made or changed, and a server that is running is not disturbed.
    """
    state = _store(Path(data)) if db is None else _database(db)
    findings = [*_python(), *_packages(), *_sqlite(), *_port(port), *state]
    if as_json:
        print_json([{"check": name, "ok": ok, "detail": detail} for name, ok, detail in findings])
    else:
        width = max(len(name) for name, _, _ in findings)
        for name, ok, detail in findings:
            say(f"{name.ljust(width)}  {detail}", mark="✓" if ok else "✗", colour="green" if ok else "red")
    sys.exit(0 if all(ok for _, ok, _ in findings) else 1)


@click.command()
@click.option(
    "--data", default=".stepwell", envvar="STEPWELL_DATA", type=click.Path(file_okay=False), help="Folder of the state."
)
@_db_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def migrate(data: str, db: str | None, as_json: bool) -> None:
    """Bring the stored state to the form of this version.

    `dev` and `start` do it by themselves.
    """
    status = asyncio.run(_open_store(Path(data)) if db is None else _open_database(db))
    place = data if db is None else str(status["database"])
    if as_json:
        print_json({"data" if db is None else "database": place, "schema": status.get("schema")})
        return
    say(f"{place} has schema {status.get('schema')}", mark="✓", colour="green")


def _python() -> Iterator[tuple[str, bool, str]]:
    yield "python", sys.version_info >= (3, 11), f"{platform.python_version()} (3.11 or newer is needed)"


def _packages() -> Iterator[tuple[str, bool, str]]:
    missing = []
    for name in _SERVER:
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    detail = "missing: " + ", ".join(missing) + ' (pip install "stepwell[server]")' if missing else "all installed"
    yield "server packages", not missing, detail


def _sqlite() -> Iterator[tuple[str, bool, str]]:
    yield "sqlite", sqlite3.sqlite_version_info >= (3, 40), f"{sqlite3.sqlite_version} (3.40 or newer is needed)"


def _port(port: int) -> Iterator[tuple[str, bool, str]]:
    with socket.socket() as probe:
        probe.settimeout(1)
        taken = probe.connect_ex(("127.0.0.1", port)) == 0
    yield "port", True, f"{port} is {'in use, perhaps by a running server' if taken else 'free'}"


def _store(data: Path) -> Iterator[tuple[str, bool, str]]:
    from stepwell.store.sqlite.directory import DirectoryLock
    from stepwell.store.sqlite.look import look

    if not data.exists():
        yield "state", True, f"{data} does not exist yet; the first start makes it"
        return
    try:
        seen = look(data)
    except StepwellError as err:
        yield "state", False, str(err)
        return
    holder = DirectoryLock(data).holder()
    used = "" if holder is None else f"; in use by a running server{f' (process {holder})' if holder else ''}"
    yield "state", True, f"{data}: {_told(seen)}{used}"


def _database(url: str) -> Iterator[tuple[str, bool, str]]:
    try:
        from stepwell.store.postgres.look import look

        seen = asyncio.run(look(url))
    except ModuleNotFoundError as err:
        yield "state", False, f'it takes {err.name!r} to look into a database: pip install "stepwell[postgres]"'
        return
    except StepwellError as err:
        yield "state", False, str(err)
        return
    yield "durability", not seen.warnings, "; ".join([seen.durability, *seen.warnings])
    yield "postgresql", True, f"{seen.server_version} (15 or newer is needed)"
    yield "state", True, f"{seen.name}: {_told(seen.tables)}"


def _told(seen: Seen) -> str:
    if not seen.schema:
        return "nothing is stored yet; the first start makes the tables"
    if seen.schema < seen.latest:
        return f"schema {seen.schema}; the next start (or `stepwell migrate`) brings it to schema {seen.latest}"
    runs, jobs, waits = (seen.counts[name] for name in ("live_runs", "jobs", "waits"))
    return f"{runs} runs under way, {jobs} jobs, {waits} waits, schema {seen.schema}"


async def _open_database(url: str) -> dict[str, Any]:
    from stepwell.server.server import postgres_store

    store = postgres_store(url)
    await store.open()
    try:
        return await store.status()
    finally:
        await store.close()


async def _open_store(data: Path) -> dict[str, Any]:
    from stepwell.store.sqlite import SqliteStore

    store = SqliteStore(data)
    await store.open()
    try:
        return await store.status()
    finally:
        await store.close()
