"""Hints between servers: what was committed, told to all at most every 10 ms, by NOTIFY on a connection of its own.

A hint only makes things sooner. What does not fit into a notification is told as `missed`, and so is every time at
which the listening connection was gone. Whoever gets none finds everything by looking. A server that is alone tells
nothing; one that comes says so, and is heard of by its lease at the latest.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import msgspec

from stepwell.store.base import Hint
from stepwell.store.postgres.database import CONNECT_S, FIRST_PAUSE_S, LONGEST_PAUSE_S, shut

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell.store.postgres.database import Address, Connection, Database

CHANNEL = "stepwell"
EVERY_S = 0.010
LONGEST_BYTES = 7_900
"""A notification may have 8,000."""
CHECK_S = 10.0

log = logging.getLogger(__name__)


class _Told(msgspec.Struct, array_like=True):
    origin: str
    runs: list[str] = []
    routes: list[str | None] = []
    services: bool = False
    missed: bool = False


_NOTHING = Hint()
_decode = msgspec.json.Decoder(_Told).decode


class Teller:
    """Gathers what this server committed and tells it."""

    def __init__(self, database: Database, origin: str) -> None:
        self.told = 0
        self.alone = False
        """No other server is known; until a node lives here nobody has looked."""
        self._database = database
        self._origin = origin
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._runs: dict[str, None] = {}
        self._routes: dict[str | None, None] = {}
        self._services = False
        self._came = False
        self._task: asyncio.Task[None] | None = None

    def moved(self, run: str) -> None:
        self._runs[run] = None

    def due(self, route: str | None) -> None:
        self._routes[route] = None

    def services(self) -> None:
        self._services = True

    def soon(self) -> None:
        """To be called when something was gathered."""
        if self.alone:
            self._runs, self._routes, self._services = {}, {}, False
        elif self._task is None and (self._runs or self._routes or self._services):
            self._task = self._loop.create_task(self._tell())

    def here(self) -> None:
        """Tell that there is somebody who listens."""
        self._came = True
        if self._task is None:
            self._task = self._loop.create_task(self._tell())

    async def _tell(self) -> None:
        while self._runs or self._routes or self._services or self._came:
            text = self._text()
            try:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._database.connect()
                await self._database.alone(self._connection, "execute", _NOTIFY, CHANNEL, text, timeout_s=CONNECT_S)
                self.told += 1
            except Exception as err:
                log.debug("a hint could not be sent: %s", err)
                if self._connection is not None:
                    self._connection.terminate()
                    self._connection = None
                await asyncio.sleep(LONGEST_PAUSE_S)
            await asyncio.sleep(EVERY_S)
        self._task = None

    def _text(self) -> str:
        hint = _Told(self._origin, list(self._runs), list(self._routes), self._services)
        self._runs, self._routes, self._services, self._came = {}, {}, False, False
        text = msgspec.json.encode(hint)
        if len(text) > LONGEST_BYTES:
            text = msgspec.json.encode(_Told(self._origin, missed=True))
        return text.decode()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._connection is not None:
            await shut(self._connection)


_NOTIFY = "SELECT pg_notify($1, $2)"


class Listener:
    """Hears what other servers tell; connects again whenever the connection is lost. `came` is called before."""

    def __init__(self, address: Address, origin: str, heard: Callable[[Hint], None], came: Callable[[], None]) -> None:
        self.connected = asyncio.Event()
        self._address = address
        self._origin = origin
        self._heard = heard
        self._came = came
        self._task = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        pause = FIRST_PAUSE_S
        missed = False
        while True:
            try:
                connection: Connection = await asyncpg.connect(
                    self._address.dsn,
                    timeout=CONNECT_S,
                    statement_cache_size=0,
                    server_settings={"application_name": "stepwell listener"},
                )
            except Exception as err:
                log.debug("cannot listen: %s", err)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                missed = True
                continue
            try:
                gone = asyncio.Event()
                connection.add_termination_listener(lambda _, gone=gone: gone.set())
                await connection.add_listener(CHANNEL, self._on_notification)
                self.connected.set()
                pause = FIRST_PAUSE_S
                if missed:
                    self._heard(Hint(missed=True))
                await self._watch(connection, gone)
            except Exception as err:
                log.debug("no longer listening: %s", err)
            finally:
                self.connected.clear()
                connection.terminate()
            missed = True

    async def _watch(self, connection: Connection, gone: asyncio.Event) -> None:
        """Return when the connection is lost; a question now and then notices the one that is silently cut."""
        while not gone.is_set():
            try:
                await asyncio.wait_for(gone.wait(), CHECK_S)
            except TimeoutError:
                await connection.execute("SELECT 1", timeout=CONNECT_S)

    def _on_notification(self, connection: Any, pid: int, channel: str, text: str) -> None:
        try:
            told = _decode(text)
        except (msgspec.DecodeError, ValueError):  # of a release to come
            self._heard(Hint(missed=True))
            return
        if told.origin != self._origin:
            self._came()
            hint = Hint(tuple(told.runs), tuple(told.routes), told.services, told.missed)  # type: ignore[arg-type]
            if hint != _NOTHING:
                self._heard(hint)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def origin() -> str:
    """A name for this life of a store, by which it knows its own hints."""
    return uuid4().hex
