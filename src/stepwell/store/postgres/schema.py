"""Brings the schema `stepwell` to the last of the numbered files, in one transaction, by one server at a time.

The lock belongs to the transaction, so nothing has to be given back and a pooler does not mind. Tables that a running
server uses are waited for briefly only: what queues behind a waiting change would stand still with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from stepwell.model.errors import ConfigurationError
from stepwell.store.migrations import check_usable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.store.migrations import Migration
    from stepwell.store.postgres.database import Connection

LOCK_KEY = 0x57E9_3E11
LOCK_TIMEOUT_MS = 2_000


async def migrate(connection: Connection, known: Sequence[Migration]) -> int:
    """Bring the database to the last of `known`. Returns the number it had.

    Raises:
        ConfigurationError: It was written by a newer program that this one cannot work beside, or the user may not
            make tables.
        asyncpg.LockNotAvailableError: A table is in use; try again.
    """
    latest = known[-1].number
    before, _ = await versions(connection)
    if before < latest:
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
                await connection.execute(f"SELECT pg_advisory_xact_lock({LOCK_KEY})")
                before, _ = await versions(connection)  # another program may have been faster
                if not before:
                    await connection.execute(_META)
                for migration in known:
                    if migration.number > before:
                        await connection.execute(migration.text)
                        number, usable_from, _ = migration
                        sql = f"UPDATE stepwell.meta SET schema = {number}, usable_from = {usable_from}"
                        await connection.execute(sql)
        except asyncpg.InsufficientPrivilegeError as err:
            raise ConfigurationError(
                f"the tables cannot be made: {err}. Give the user the right to create in this database "
                "(GRANT CREATE ON DATABASE ...), or run `stepwell migrate` once as a user who has it"
            ) from None
    schema, needed = await versions(connection)
    check_usable(schema, needed, latest)
    return before


_META = """
CREATE SCHEMA IF NOT EXISTS stepwell;
CREATE TABLE stepwell.meta (schema integer NOT NULL, usable_from integer NOT NULL);
INSERT INTO stepwell.meta VALUES (0, 0);
"""


async def versions(connection: Connection) -> tuple[int, int]:
    """The number of the last file applied, and what a program must know at least."""
    async with connection.transaction():
        # Not to_regclass: after waiting for the lock it may remember that there was none.
        if not await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'stepwell'"):
            return 0, 0
        row = await connection.fetchrow("SELECT schema, usable_from FROM stepwell.meta")
        return int(row[0]), int(row[1])
