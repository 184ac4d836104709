"""Copies that are whole, and a check of everything that finds what is wrong and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from stepwell.cli import cli
from stepwell.model.errors import ConfigurationError
from stepwell.model.event import DEV_ENV
from stepwell.model.job import RunStatus
from stepwell.model.journal import RunCompleted, RunStarted
from stepwell.model.payload import blob_of
from stepwell.server import Server, ServerSettings
from stepwell.store.base import RunQuery, RunWrite, Transition
from stepwell.store.batch import decode_run, encode
from stepwell.store.sqlite import SqliteStore
from stepwell.store.sqlite.backup import back_up
from stepwell.store.sqlite.schema import migrations
from tests.store.cases import a_row, an_event, event_key, run_id, store_all

if TYPE_CHECKING:
    from pathlib import Path

LARGE = b'"' + b"x" * 300_000 + b'"'


def ended(number: int, text: bytes = LARGE) -> Transition:
    """A run whose journal folds to its row; its result is a large text, in a file."""
    blob = blob_of(text)
    first = RunStarted(
        function="shop-order",
        service="shop",
        events=(b"{}",),
        event_keys=(event_key(number),),
        event_name="order/placed",
    )
    row = a_row(
        number,
        2,
        status=RunStatus.COMPLETED,
        created_at=0,
        started_at=None,
        ended_at=5,
        event=event_key(number),
        event_name="order/placed",
        output=blob,
    )
    entries = (first, RunCompleted(at=5, output=blob))
    return Transition(run=RunWrite(row, 0, entries), events=(an_event(number),), blobs=((blob, text),))


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    store = SqliteStore(tmp_path / "data")
    await store.open()
    await store_all(store, *[ended(number, b'"%d' % number + LARGE) for number in range(1, 6)])
    await store.close()
    return tmp_path / "data"


def call(*words: str) -> tuple[int, Any]:
    done = CliRunner().invoke(cli, [*words, "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, json.loads(done.stdout)


async def called(*words: str) -> tuple[int, Any]:
    return await asyncio.to_thread(call, *words)


async def test_a_backup_holds_everything_and_is_sound(data: Path, tmp_path: Path) -> None:
    code, told = await called("backup", str(tmp_path / "copy"), "--data", str(data))
    assert (code, told["runs"], told["files"], told["schema"]) == (0, 5, 5, migrations()[-1].number)
    assert await called("audit", "--data", str(tmp_path / "copy")) == (
        0,
        {"runs": 5, "texts": 5, "skipped": 0, "findings": []},
    )
    copy = SqliteStore(tmp_path / "copy")
    await copy.open()
    assert await copy.read_blobs([blob_of(b'"3' + LARGE)]) == [b'"3' + LARGE]
    assert (await copy.status())["last_backup"] is None
    await copy.close()
    original = SqliteStore(data)
    await original.open()
    noted = (await original.status())["last_backup"]
    assert isinstance(noted, dict)
    assert noted["place"] == str(tmp_path / "copy")
    await original.close()


async def test_a_backup_is_never_written_over_something(data: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigurationError, match="exists already"):
        back_up(data, tmp_path / "there")
    with pytest.raises(ConfigurationError, match="no database"):
        back_up(tmp_path / "nothing", tmp_path / "copy")
    with pytest.raises(ConfigurationError, match="pg_dump --format=custom --schema=stepwell "):
        call("backup", str(tmp_path / "copy"), "--db", "postgresql://localhost/x")
    assert not (tmp_path / "copy").exists()
    assert not (tmp_path / "copy.part").exists()


@pytest.mark.parametrize("damage", ["text is spoilt", "text is missing", "entry is missing", "row says otherwise"])
async def test_the_audit_finds_what_is_wrong(data: Path, damage: str) -> None:
    file = next(path for path in (data / "blobs").rglob("*") if path.is_file())
    if damage == "text is spoilt":
        file.write_bytes(b"y" * file.stat().st_size)
    elif damage == "text is missing":
        with sqlite3.connect(data / "stepwell.db") as database:
            database.execute("DELETE FROM blob WHERE hash = ?", (file.parent.name + file.name,))
        database.close()
    else:
        with sqlite3.connect(data / "stepwell.db") as database:
            if damage == "entry is missing":
                database.execute("DELETE FROM entry WHERE run = ? AND seq = 2", (run_id(2),))
            else:
                (body,) = database.execute("SELECT body FROM run WHERE id = ?", (run_id(2),)).fetchone()
                spoilt = encode(replace(decode_run(body), function="shop-other"))
                database.execute("UPDATE run SET body = ? WHERE id = ?", (spoilt, run_id(2)))
        database.close()
    code, told = await called("audit", "--data", str(data))
    assert code == 1
    assert told["findings"]
    words = "lost or spoilt" if damage.startswith("text") else "its row says"
    assert words in told["findings"][0]
    assert not list(data.parent.glob(".audit-*"))


_BACK_UP = """
import pathlib, sys
from stepwell.store.sqlite.backup import back_up
print(back_up(*map(pathlib.Path, sys.argv[1:])).runs)
"""


async def test_a_backup_of_a_server_under_load_is_sound_and_its_runs_go_on(tmp_path: Path) -> None:
    """While runs with large texts come, end and are removed."""
    store = SqliteStore(tmp_path / "data", orphan_age_s=0)
    await store.open()
    over = False
    count = 0
    more = asyncio.Semaphore(0)

    async def work() -> None:
        nonlocal count
        while not over:
            count += 1
            await store_all(store, ended(count, b'"%d' % count + os.urandom(10).hex().encode() + LARGE))
            more.release()
            if count > 20:
                await store.remove_runs([run_id(count - 20)], count)
                await store.tidy(1 << 60, count - 400)
                await asyncio.sleep(0.001)

    working = asyncio.create_task(work())
    for number in range(3):
        for _ in range(25):
            await more.acquire()
        places = [str(tmp_path / name) for name in ("data", str(number))]
        command = [sys.executable, "-c", _BACK_UP, *places]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) >= 19
    over = True
    await working
    await store.close()
    for number in range(3):
        code, told = await called("audit", "--data", str(tmp_path / str(number)))
        assert (code, told["findings"]) == (0, [])


async def test_a_server_goes_on_from_a_backup(tmp_path: Path) -> None:
    """The runs under way at the moment of the copy are under way in it, and their calls are made again."""
    server = Server(ServerSettings(port=0, data=tmp_path / "data", discovery=False, manage_logging=False))
    await server.start()
    row = a_row(1, 1, status=RunStatus.QUEUED, created_at=0)
    first = RunStarted(function="shop-order", service="shop", events=(b"{}",))
    await store_all(server.node.store, Transition(run=RunWrite(row, 0, (first,))))
    await asyncio.to_thread(back_up, tmp_path / "data", tmp_path / "copy")
    await server.stop()
    again = Server(ServerSettings(port=0, data=tmp_path / "copy", discovery=False, manage_logging=False))
    await again.start()
    assert [one.id for one in await again.node.store.runs(RunQuery(DEV_ENV))] == [run_id(1)]
    assert again.site.state == "ready"
    await again.stop()
