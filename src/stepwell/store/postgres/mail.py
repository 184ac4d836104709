"""Mail between servers on PostgreSQL: NOTIFY on a connection of its own, which listens as well.

What is told while the last texts are on their way travels together with the next. A notification holds 8,000 bytes, so
longer texts go in parts; the database keeps the order of what one connection says.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg

from stepwell.store.postgres.database import CONNECT_S, FIRST_PAUSE_S, LONGEST_PAUSE_S, Address

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell.store.postgres.database import Connection

ALL = "stepwell_mail"
PART_BYTES = 7_800
"""A notification may have 8,000."""
AT_ONCE = 64
WAITING = 10_000
"""Parts that wait for the connection at most; those beyond are lost."""
CHECK_S = 10.0

_NOTIFY = "SELECT count(pg_notify(one.channel, one.text)) FROM unnest($1::text[], $2::text[]) AS one(channel, text)"

log = logging.getLogger(__name__)


class PostgresMail:
    """Implements `stepwell.store.mail.Mail`.

    Args:
        url: Of the database, not through a pooler that gives each transaction another session.
    """

    def __init__(self, url: str) -> None:
        self.address = uuid4().hex
        self.heard: Callable[[str], None] | None = None
        self.back: Callable[[], None] | None = None
        self.connected = asyncio.Event()
        self._database = Address(url)
        self._serial = 0
        self._out: list[tuple[str, str]] = []
        self._more = asyncio.Event()
        self._parts: dict[str, list[str]] = {}  # of texts that are not complete, by their sender and number
        self._task = asyncio.get_running_loop().create_task(self._go_on(), name="mail")

    def tell(self, to: str | None, text: str) -> None:
        self._serial += 1
        pieces = [text[at : at + PART_BYTES] for at in range(0, len(text), PART_BYTES)]
        if not self.connected.is_set() or len(self._out) + len(pieces) > WAITING:
            return
        channel = ALL if to is None else _channel(to)
        head = f"{self.address} {self._serial}"
        self._out += [(channel, f"{head} {number} {len(pieces)} {piece}") for number, piece in enumerate(pieces)]
        self._more.set()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _go_on(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            connection: Connection | None = None
            try:
                connection = await asyncpg.connect(
                    self._database.dsn,
                    timeout=CONNECT_S,
                    statement_cache_size=0,
                    server_settings={"application_name": "stepwell mail"},
                )
                await connection.add_listener(ALL, self._on_notification)
                await connection.add_listener(_channel(self.address), self._on_notification)
                pause = FIRST_PAUSE_S
                self.connected.set()
                if self.back is not None:
                    self.back()
                await self._send(connection)
            except Exception as err:
                log.debug("no mail: %s", err)
            finally:
                self.connected.clear()
                self._out.clear()
                self._parts.clear()
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _send(self, connection: Connection) -> None:
        """Send what is told for as long as the connection lasts."""
        while True:
            if not self._out:
                self._more.clear()
                try:
                    await asyncio.wait_for(self._more.wait(), CHECK_S)
                except TimeoutError:  # perhaps the connection was silently cut
                    await connection.execute("SELECT 1", timeout=CONNECT_S)
                    continue
            sent, self._out = self._out[:AT_ONCE], self._out[AT_ONCE:]
            channels, texts = [one[0] for one in sent], [one[1] for one in sent]
            await connection.execute(_NOTIFY, channels, texts, timeout=CONNECT_S)

    def _on_notification(self, connection: Any, pid: int, channel: str, text: str) -> None:
        try:
            sender, serial, number, count, piece = text.split(" ", 4)
            place, parts = int(number), int(count)
        except ValueError:  # of a release to come
            return
        if sender == self.address or self.heard is None:
            return
        if parts == 1:
            self.heard(piece)
            return
        key = f"{sender} {serial}"
        before = self._parts.pop(key, [])
        if len(before) != place:
            return
        before.append(piece)
        if len(before) == parts:
            self.heard("".join(before))
        else:
            self._parts[key] = before


def _channel(address: str) -> str:
    return f"stepwell_mail_{address}"
