"""DBOS: a library, so one process is server and worker; on SQLite, or on PostgreSQL."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.client import Client
from benchmarks.postgres import Database
from benchmarks.processes import Child, free_port
from benchmarks.targets import Target


class Dbos(Target):
    """With the settings that it has by itself.

    Args:
        interpreter: Has the library.
        database: Makes a PostgreSQL database; None for SQLite.
    """

    def __init__(self, name: str, title: str, interpreter: Path, database: Callable[[], Database] | None) -> None:
        durable = "SQLite, rollback journal, synced at every commit" if database is None else "PostgreSQL, synced"
        super().__init__(name, title, http=False, durable=durable)
        self._interpreter = interpreter
        self._make_database = database
        self._database: Database | None = None
        self._port = free_port()
        self._client = Client(self._port)

    async def start_server(self) -> float:
        if self._make_database is not None and self._database is None:
            self._database = self._make_database()
        url = f"sqlite:///{self.folder}/dbos.sqlite" if self._database is None else self._database.url
        begin = time.monotonic()
        command = [str(self._interpreter), "-m", "benchmarks.peers.apps.dbos"]
        environment = {**self.environment(), "PORT": str(self._port), "DATABASE": url}
        process = Child("DBOS", command, self.folder / "server.log", environment)
        self.servers = [process, *(self._database.processes if self._database is not None else ())]
        await self.answers(process, self._port, "POST", "/seq", b"[]")
        return time.monotonic() - begin

    async def start_worker(self) -> None:
        """It is the server."""

    async def trigger(self, kind: str, datas: Sequence[Mapping[str, object]]) -> None:
        status, answer = await self._client.request("POST", f"/{kind}", json.dumps(datas).encode())
        if status != 200:
            raise RuntimeError(f"runs were answered with {status}: {answer[:300]!r}")

    def crash(self) -> None:
        self.servers[0].kill()

    def stop(self) -> None:
        self._client.close()
        self.servers = self.servers[:1]  # the database serves the next target too
        super().stop()
        if self._database is not None:
            self._database.drop()
