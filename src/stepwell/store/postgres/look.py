"""A database seen from outside: nothing in it is made or changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stepwell.store.migrations import Seen, check_usable, migrations
from stepwell.store.postgres import reads
from stepwell.store.postgres.database import PATIENCE_S, Address, Connections, Database
from stepwell.store.postgres.schema import versions

if TYPE_CHECKING:
    from collections.abc import Mapping


class SeenDatabase(NamedTuple):
    """What `look` finds."""

    name: str
    server_version: str
    durability: str
    warnings: list[str]
    tables: Seen


async def look(url: str) -> SeenDatabase:
    """What is in the database.

    Raises:
        ConfigurationError: A server could not work with it: it does not answer, is too old or a standby, or was written
            by a newer program.
        StoreUnavailable: It went away meanwhile.
    """
    database = Database(Address(url), PATIENCE_S)
    latest = migrations("postgres")[-1].number
    connection = await database.probe()
    try:
        schema, needed = await versions(connection)
    finally:
        connection.terminate()
    check_usable(schema, needed, latest)
    counts: dict[str, object] = {}
    if schema >= latest:
        connections = Connections(database, 1, hot=False)
        try:
            counts = await reads.counts(connections)
        finally:
            await connections.close()
    durability, warnings = durability_of(database.settings)
    version = database.settings["server_version"]
    return SeenDatabase(str(database.address), version, durability, warnings, Seen(schema, latest, counts))


def durability_of(settings: Mapping[str, object]) -> tuple[str, list[str]]:
    """What the settings promise, and what they do not."""
    durability = f"PostgreSQL, synchronous_commit={settings['synchronous_commit']}"
    weak = []
    for name in ("fsync", "full_page_writes"):
        durability += f", {name}={settings[name]}"
        if settings[name] == "off":
            weak.append(f"{name} is off: acknowledged work can be lost when its machine stops")
    return durability, weak
