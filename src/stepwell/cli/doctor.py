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

_SERVER = ("uvicorn", "httptools", "starlette", "aiohttp", "google-re2", "graphql-core", "watchfiles")

_db_option = click.option(
    "--db", envvar=["STEPWELL_DB", "INNGEST_POSTGRES_URI"], metavar="URL", help="PostgreSQL database of the state."
)


@click.command()
@click.option(
    "--data", default=".stepwell", envvar="STEPWELL_DATA", type=click.Path(file_okay=False), help="Folder of the state."
)
@_db_option
@click.option("--port", default=8288, envvar="STEPWELL_PORT", help="Port to try.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(data: str, db: str | None, port: int, as_json: bool) -> None:
    """Check this machine and the stored state. Exit 1 if something is wrong."""
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
    if not data.exists():
        yield "state", True, f"{data} does not exist yet; the first start makes it"
        return
    try:
        status = asyncio.run(_open_store(data))
    except StepwellError as err:
        yield "state", err.code == "STORE_LOCKED", str(err)
        return
    yield "durability", True, str(status.get("durability"))
    runs, jobs, waits = (status.get(name, 0) for name in ("live_runs", "jobs", "waits"))
    yield "state", True, f"{data}: {runs} runs under way, {jobs} jobs, {waits} waits, schema {status.get('schema')}"


def _database(url: str) -> Iterator[tuple[str, bool, str]]:
    try:
        status = asyncio.run(_open_database(url))
    except StepwellError as err:
        yield "state", False, str(err)
        return
    weak = status["warnings"]
    yield "durability", not weak, "; ".join([str(status["durability"]), *weak])
    yield "postgresql", True, f"{status['postgresql']} (15 or newer is needed)"
    runs, jobs, waits = (status.get(name, 0) for name in ("live_runs", "jobs", "waits"))
    detail = f"{runs} runs under way, {jobs} jobs, {waits} waits, schema {status.get('schema')}"
    yield "state", True, f"{status['database']}: {detail}"


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
