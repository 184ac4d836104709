"""A data directory seen from outside: nothing in it is made, changed or locked, whether a server uses it or not."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from stepwell.model.errors import ConfigurationError
from stepwell.store.migrations import Seen, check_usable
from stepwell.store.sqlite import reads
from stepwell.store.sqlite.directory import check_file_system
from stepwell.store.sqlite.schema import meta, migrations

if TYPE_CHECKING:
    from pathlib import Path


def look(directory: Path) -> Seen:
    """What is in a directory that is there.

    Raises:
        ConfigurationError: A server could not work in it: the file system, rights, a database that cannot be read or
            was written by a newer program.
    """
    check_file_system(directory)
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigurationError(f"this user may not write to the data directory {directory} (--data)")
    file = directory / "stepwell.db"
    latest = migrations()[-1].number
    if not file.exists():
        return Seen(0, latest, {})
    # Without a write-ahead log nobody works in the database. SQLite would make an empty one all the same, unless it is
    # told that the file does not change.
    alone = not file.with_name(f"{file.name}-wal").exists()
    try:
        with closing(
            sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro{'&immutable=1' if alone else ''}", uri=True)
        ) as database:
            database.execute("PRAGMA busy_timeout = 5000")
            schema = meta(database, "schema")
            check_usable(schema, meta(database, "usable_from"), latest)
            return Seen(schema, latest, reads.counts(database) if schema >= latest else {})
    except sqlite3.Error as err:
        raise ConfigurationError(f"the database {file} cannot be read: {err}") from err
