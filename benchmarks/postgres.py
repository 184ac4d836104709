"""PostgreSQL for benchmarks: one that runs already, or one that is started for the time of a measurement.

A started one keeps PostgreSQL's own defaults, so `fsync` and `synchronous_commit` are on; only its connections,
buffers and size of log are set. It needs `initdb` and `postgres`, and no root: as root it runs as user `postgres`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from benchmarks.processes import Child, free_port

READY_S = 30.0
SETTINGS = {"max_connections": "200", "shared_buffers": "256MB", "max_wal_size": "4GB", "listen_addresses": "127.0.0.1"}
_USER = "postgres"


@dataclass(frozen=True, slots=True)
class Database:
    """One database, empty at first.

    Args:
        url: With user and name.
        processes: The server it is in, if we started it: its CPU and memory count.
    """

    url: str
    processes: tuple[Child, ...]
    _server: Postgres

    def drop(self) -> None:
        self._server.run(f'DROP DATABASE IF EXISTS "{urlsplit(self.url).path[1:]}" WITH (FORCE)')


class Postgres:
    """A server that databases are made in.

    Args:
        url: Any database of it that may be connected to.
        child: The server's process, if we started it.
    """

    def __init__(self, url: str, child: Child | None = None) -> None:
        self._url = url
        self._child = child
        self._serial = 0

    def database(self) -> Database:
        self._serial += 1
        name = f"stepwell_bench_{os.getpid()}_{self._serial}"
        self.run(f'CREATE DATABASE "{name}"')
        parts = urlsplit(self._url)
        processes = () if self._child is None else (self._child,)
        return Database(urlunsplit(parts._replace(path=f"/{name}")), processes, self)

    def run(self, statement: str) -> None:
        """Raises `CalledProcessError`."""
        command = [str(_program("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", self._url, "-c", statement]
        subprocess.run(command, check=True, capture_output=True, text=True)


@contextlib.contextmanager
def postgres(where: str, folder: Path) -> Iterator[Postgres]:
    """The server at the address `where`, or with `where` "postgres" one that lives in `folder` and ends with us."""
    if where != "postgres":
        yield Postgres(where)
        return
    port = free_port()
    folder.mkdir(parents=True)
    data = folder / "data"
    other: list[str] = []
    if os.geteuid() == 0:
        folder.parent.chmod(0o711)  # the temporary folder of this measurement; user postgres has to get through
        shutil.chown(folder, _USER)
        other = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--init-groups", "--"]
    initialise = [*other, str(_program("initdb")), "-D", str(data), "-U", _USER, "-A", "trust", "-E", "UTF8"]
    subprocess.run(initialise, check=True, capture_output=True, text=True, cwd=folder)
    settings = {**SETTINGS, "port": str(port), "unix_socket_directories": str(folder)}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    command = [*other, str(_program("postgres")), "-D", str(data), *options]
    child = Child("PostgreSQL", command, folder.with_suffix(".log"), {})
    try:
        found = Postgres(f"postgresql://{_USER}@127.0.0.1:{port}/postgres", child)
        until = time.monotonic() + READY_S
        while True:
            child.check()
            try:
                found.run("SELECT 1")
                break
            except subprocess.CalledProcessError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
        yield found
    finally:
        child.stop()


def version() -> str:
    """As the server's program says it."""
    command = [str(_program("postgres")), "--version"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _program(name: str) -> Path:
    on_path = shutil.which(name)
    places = [Path(on_path)] if on_path else []
    places += sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)  # where Debian keeps them
    if not places:
        raise FileNotFoundError(f"PostgreSQL's {name} is neither on PATH nor in /usr/lib/postgresql; install it")
    return places[0]
