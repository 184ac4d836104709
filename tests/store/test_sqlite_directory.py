"""The data directory: whose it is, what it lies on, which program it was written by."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from stepwell.model.errors import ConfigurationError
from stepwell.model.payload import blob_of
from stepwell.store.base import Transition
from stepwell.store.sqlite import SqliteStore
from stepwell.store.sqlite.directory import check_file_system
from stepwell.store.sqlite.schema import migrate, migrations, read_migration, statements
from tests.store.cases import run_id, started, store_all

ROOT = Path(__file__).parents[2]


async def test_a_second_server_is_refused_and_told_what_to_do(tmp_path: Path) -> None:
    first, second = SqliteStore(tmp_path), SqliteStore(tmp_path)
    await first.open()
    with pytest.raises(ConfigurationError, match=rf"{tmp_path} \(process {os.getpid()}\).*--data"):
        await second.open()
    await store_all(first, Transition(run=started(1)))
    await first.close()
    await second.open()
    assert await second.run_row(run_id(1)) is not None
    await second.close()


def test_a_lock_file_left_by_a_killed_server_does_no_harm(tmp_path: Path) -> None:
    """Neither the file nor a pid in it that is in use again, here that of this very process."""
    program = (
        "import asyncio, sys\n"
        "from stepwell.store.sqlite import SqliteStore\n"
        "async def main():\n"
        f"    store = SqliteStore({str(tmp_path)!r}); await store.open(); print('open', flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        with pytest.raises(ConfigurationError, match=f"process {child.pid}"):
            open_and_close(tmp_path)
        os.kill(child.pid, signal.SIGKILL)
    (tmp_path / "lock").write_text(f"{os.getpid()}\n")
    open_and_close(tmp_path)


def open_and_close(directory: Path) -> None:
    store = SqliteStore(directory)
    store._open().close()
    store._lock.drop()


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
def test_a_network_file_system_is_refused(tmp_path: Path, kind: str) -> None:
    mounts = (
        f"22 1 0:20 / / rw - ext4 /dev/sda1 rw\n30 22 0:40 / {tmp_path} rw,relatime shared:1 - {kind} server:/x rw\n"
    )
    with pytest.raises(ConfigurationError, match=rf"network file system \({kind}\).*local disk"):
        check_file_system(tmp_path / "data", mounts)


def test_the_innermost_mount_decides(tmp_path: Path) -> None:
    mounts = (
        "22 1 0:20 / / rw - nfs server:/ rw\n"
        f"30 22 0:40 / {tmp_path} rw shared:1 - nfs server:/x rw\n"
        f"31 30 0:41 / {tmp_path} rw shared:1 master:2 - xfs /dev/sdb rw\n"
        f"32 30 0:42 / {tmp_path}x rw - nfs server:/y rw\n"
    )
    assert check_file_system(tmp_path / "data", mounts) == "xfs"
    assert check_file_system(tmp_path, "") == "unknown"
    assert check_file_system(tmp_path) != "unknown" or sys.platform != "linux"


@pytest.mark.parametrize("level", ["OFF", "NORMAL", "normal"])
def test_a_weaker_durability_is_refused(tmp_path: Path, level: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"synchronous={level}.*FULL"):
        SqliteStore(tmp_path, synchronous=level)


async def test_the_mode_is_what_the_connection_has(tmp_path: Path) -> None:
    full, store = SqliteStore(tmp_path), SqliteStore(tmp_path, synchronous="extra")
    for connection, number in ((full._connect_writer(), 2), (store._connect_writer(), 3)):
        assert connection.execute("PRAGMA synchronous").fetchone() == (number,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.close()
    await store.open()
    assert (await store.status())["durability"] == "write-ahead log, synchronous=EXTRA"
    await store.close()


async def test_a_database_of_a_newer_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.open()
    await store.close()
    with sqlite3.connect(store.file) as connection:
        connection.execute("UPDATE meta SET value = 99 WHERE key = 'schema'")
        connection.execute("UPDATE meta SET value = 98 WHERE key = 'usable_from'")
    connection.close()
    with pytest.raises(ConfigurationError, match=r"newer Stepwell \(schema 99.*know 98"):
        await SqliteStore(tmp_path).open()
    with pytest.raises(ConfigurationError, match="newer"):
        await SqliteStore(tmp_path).open()  # and it did not keep the lock


async def test_a_newer_database_that_only_gained_something_is_used(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.open()
    await store.close()
    with sqlite3.connect(store.file) as connection:
        connection.execute("UPDATE meta SET value = 99 WHERE key = 'schema'")
    connection.close()
    await store.open()
    await store.close()


async def test_something_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "stepwell.db").write_bytes(b"not a database, " * 1000)
    with pytest.raises(ConfigurationError, match=r"stepwell\.db cannot be opened: file is not a database"):
        await SqliteStore(tmp_path).open()


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot make the data directory"):
        await SqliteStore(tmp_path / "file" / "data").open()


def test_migrations_are_applied_in_order_and_once(tmp_path: Path) -> None:
    first = read_migration(
        1, "-- usable from: 1\nCREATE TABLE a (x);\n-- a comment; with a semicolon\nINSERT INTO a\nVALUES (1);"
    )
    second = read_migration(2, "-- usable from: 1\nALTER TABLE a ADD COLUMN y;\nUPDATE a SET y = x + 1;")
    connection = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    assert migrate(connection, [first]) == 0
    assert migrate(connection, [first]) == 1
    assert migrate(connection, [first, second]) == 1
    assert migrate(connection, [first, second]) == 2
    assert connection.execute("SELECT x, y FROM a").fetchall() == [(1, 2)]
    assert migrate(connection, [first]) == 2  # the release before still works beside it
    connection.close()


def test_a_migration_that_fails_leaves_nothing(tmp_path: Path) -> None:
    broken = read_migration(1, "-- usable from: 1\nCREATE TABLE a (x);\nINSERT INTO nowhere VALUES (1);")
    connection = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        migrate(connection, [broken])
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    connection.close()


def test_the_migrations_that_are_shipped_can_be_read() -> None:
    shipped = migrations()
    assert shipped[0].number == 1
    assert all(sqlite3.complete_statement(text) for migration in shipped for text in statements(migration.text))


async def test_a_large_text_is_a_file_and_stray_pieces_are_removed(tmp_path: Path) -> None:
    text = bytes(300_000)
    blob = blob_of(text)
    store = SqliteStore(tmp_path)
    await store.open()
    await store_all(store, Transition(blobs=((blob, text),)))
    await store.close()
    file = tmp_path / "blobs" / blob.hash[:2] / blob.hash[2:]
    assert file.read_bytes() == text
    piece = file.with_name("half.tmp")
    piece.write_bytes(b"half")
    await store.open()
    assert not piece.exists()
    assert await store.read_blobs([blob]) == [text]
    await store.close()
