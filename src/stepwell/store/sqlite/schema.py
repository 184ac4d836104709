"""The tables' version: numbered SQL files, applied in order, each whole or not at all.

`meta` has the range that makes a database usable: `schema` is the number of the last file applied, `usable_from` the
lowest number a program must know to work with it. A program refuses a database whose `usable_from` is above what it
knows; a newer database that only gained something stays usable for one release back.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from stepwell.store import migrations as numbered
from stepwell.store.migrations import Migration, read_migration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Migration", "meta", "migrate", "migrations", "read_migration", "statements"]


def migrations() -> list[Migration]:
    """Those that came with this program."""
    return numbered.migrations("sqlite")


def migrate(
    connection: sqlite3.Connection,
    known: Sequence[Migration],
    point: Callable[[str], None] = lambda name: None,
) -> int:
    """Bring the database to the last of `known`. Returns the number it had.

    Raises:
        ConfigurationError: It was written by a newer program that this one cannot work beside.
    """
    latest = known[-1].number
    before = meta(connection, "schema")
    if before < latest:
        connection.execute("BEGIN IMMEDIATE")
        try:
            before = meta(connection, "schema")  # another program may have been faster
            connection.execute("CREATE TABLE IF NOT EXISTS meta (key TEXT NOT NULL PRIMARY KEY, value) WITHOUT ROWID")
            for migration in known:
                if migration.number > before:
                    for statement in statements(migration.text):
                        point(f"migration {migration.number}: {statement.split('(')[0].strip()}")
                        connection.execute(statement)
                    _set_meta(connection, "schema", migration.number)
                    _set_meta(connection, "usable_from", migration.usable_from)
            point("migration: commit")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    numbered.check_usable(meta(connection, "schema"), meta(connection, "usable_from"), latest)
    return before


def statements(text: str) -> Iterator[str]:
    """The statements of a script, without comment lines."""
    pending = ""
    for line in text.splitlines():
        if line.lstrip().startswith("--") or not (pending or line.strip()):
            continue
        pending += line + "\n"
        if sqlite3.complete_statement(pending):
            yield pending.strip()
            pending = ""
    assert not pending.strip(), f"unfinished statement: {pending}"


def meta(connection: sqlite3.Connection, key: str) -> int:
    """A number that the database keeps about itself, 0 if it has none."""
    try:
        row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    except sqlite3.OperationalError as err:
        if "no such table" in str(err):
            return 0
        raise
    return int(row[0]) if row else 0


def _set_meta(connection: sqlite3.Connection, key: str, value: int) -> None:
    connection.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value)
    )
