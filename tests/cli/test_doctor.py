"""`stepwell doctor` tells what is there, and leaves it as it was."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from stepwell.cli import cli
from stepwell.server import Server, ServerSettings
from stepwell.store.migrations import migrations
from stepwell.store.sqlite import SqliteStore
from tests.postgres import asked, shared_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA_1 = Path(__file__).parents[1] / "upgrade" / "schema_1.sql"
LATEST = migrations("sqlite")[-1].number


def examined(*words: str) -> tuple[int, dict[str, tuple[bool, str]]]:
    done = CliRunner().invoke(cli, ["doctor", "--port", "1", "--json", *words])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return done.exit_code, {one["check"]: (one["ok"], one["detail"]) for one in found}


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_a_folder_that_is_missing_is_not_made(tmp_path: Path) -> None:
    code, found = examined("--data", str(tmp_path / "data"))
    assert (code, found["state"]) == (0, (True, f"{tmp_path / 'data'} does not exist yet; the first start makes it"))
    assert contents(tmp_path) == {}


def test_an_empty_folder_stays_empty(tmp_path: Path) -> None:
    code, found = examined("--data", str(tmp_path))
    assert code == 0
    assert "nothing is stored yet" in found["state"][1]
    assert contents(tmp_path) == {}


def test_state_of_an_older_version_is_not_brought_to_this_one(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "stepwell.db")) as database:
        database.executescript(SCHEMA_1.read_text(encoding="utf-8"))
    before = contents(tmp_path)
    code, found = examined("--data", str(tmp_path))
    assert code == 0
    assert "schema 1;" in found["state"][1]
    assert f"brings it to schema {LATEST}" in found["state"][1]
    assert contents(tmp_path) == before


async def test_state_of_this_version_is_counted_and_left_as_it_was(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.open()
    await store.close()
    before = contents(tmp_path)
    code, found = await asyncio.to_thread(examined, "--data", str(tmp_path))
    assert (code, found["state"]) == (
        0,
        (True, f"{tmp_path}: 0 runs under way, 0 jobs, 0 waits, schema {LATEST}"),
    )
    assert contents(tmp_path) == before


async def test_what_a_killed_server_left_is_read_and_left_for_the_next(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data")
    await store.open()
    left = tmp_path / "left"
    await asyncio.to_thread(shutil.copytree, tmp_path / "data", left)
    await store.close()
    before = contents(left)
    assert before[str(left / "stepwell.db-wal")]  # where everything is
    code, found = await asyncio.to_thread(examined, "--data", str(left))
    assert code == 0
    assert found["state"][1].endswith(f"schema {LATEST}")
    after = contents(left)
    assert after.keys() == before.keys()
    assert {path for path in after if after[path] != before[path]} <= {str(left / "stepwell.db-shm")}  # only an index


def test_state_of_a_newer_version_is_something_wrong(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "stepwell.db")) as database:
        database.executescript(SCHEMA_1.read_text(encoding="utf-8"))
        database.execute("UPDATE meta SET value = 1000")
        database.commit()
    code, found = examined("--data", str(tmp_path))
    assert code == 1
    assert "written by a newer Stepwell" in found["state"][1]


def test_what_is_no_database_is_something_wrong(tmp_path: Path) -> None:
    (tmp_path / "stepwell.db").write_bytes(b"not a database" * 1000)
    code, found = examined("--data", str(tmp_path))
    assert code == 1
    assert "cannot be read" in found["state"][1]


async def test_a_running_server_is_fine(tmp_path: Path) -> None:
    server = Server(ServerSettings(port=0, data=tmp_path, discovery=False, manage_logging=False))
    await server.start()
    try:
        code, found = await asyncio.to_thread(examined, "--data", str(tmp_path))
    finally:
        await server.stop()
    assert (code, found["state"][0]) == (0, True)
    assert "in use by a running server (process " in found["state"][1]
    assert "Stop it" not in found["state"][1]
    again = (await asyncio.to_thread(examined, "--data", str(tmp_path)))[1]["state"][1]
    assert "in use" not in again


@pytest.fixture
def empty_url() -> Iterator[str]:
    cluster = shared_cluster()
    url = cluster.database(empty=True)
    yield url
    cluster.drop(url)


async def test_a_database_is_left_as_it_is(empty_url: str) -> None:
    code, found = await asyncio.to_thread(examined, "--db", empty_url)
    assert "nothing is stored yet" in found["state"][1]
    assert code == 1  # this one does not sync
    assert "fsync is off" in found["durability"][1]
    assert tuple(await asked(empty_url, "SELECT count(*) FROM pg_namespace WHERE nspname = 'stepwell'")) == (0,)


async def test_a_database_with_tables_is_counted(postgres_url: str) -> None:
    latest = migrations("postgres")[-1].number
    _, found = await asyncio.to_thread(examined, "--db", postgres_url)
    assert found["state"][1].endswith(f": 0 runs under way, 0 jobs, 0 waits, schema {latest}")
    await asked(postgres_url, f"UPDATE stepwell.meta SET schema = {latest - 1} RETURNING 1")
    try:
        _, found = await asyncio.to_thread(examined, "--db", postgres_url)
        assert f"schema {latest - 1}; the next start (or `stepwell migrate`)" in found["state"][1]
        assert tuple(await asked(postgres_url, "SELECT schema FROM stepwell.meta")) == (latest - 1,)
    finally:
        await asked(postgres_url, f"UPDATE stepwell.meta SET schema = {latest} RETURNING 1")
