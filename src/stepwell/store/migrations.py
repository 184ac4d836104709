"""Numbered SQL files, the same way for every database: which there are, and what programs must know to use them."""

from __future__ import annotations

import re
from importlib import resources
from typing import NamedTuple

from stepwell.model.errors import ConfigurationError

_HEADER = re.compile(r"-- usable from: (\d+)\s*$", re.MULTILINE)


class Migration(NamedTuple):
    number: int
    usable_from: int
    text: str


class Seen(NamedTuple):
    """What was found by looking at a database that was left as it is."""

    schema: int
    """The number of the last file applied; 0 for a place without tables."""
    latest: int
    """The number of the last file that this program knows."""
    counts: dict[str, object]
    """Runs under way and the like, and settings; empty unless this program knows the tables as they are."""


def migrations(dialect: str) -> list[Migration]:
    """Those that came with this program, in order. `dialect` is a folder of `store/sql`."""
    found = []
    for file in (resources.files("stepwell.store") / "sql" / dialect).iterdir():
        if re.match(r"\d{4}_\w+\.sql$", file.name):
            found.append(read_migration(int(file.name[:4]), file.read_text(encoding="utf-8")))
    found.sort()
    assert [migration.number for migration in found] == list(range(1, len(found) + 1))
    return found


def read_migration(number: int, text: str) -> Migration:
    header = _HEADER.search(text)
    assert header is not None, f"migration {number} does not say which programs can use its result"
    return Migration(number, int(header[1]), text)


def check_usable(schema: int, needed: int, known: int) -> None:
    """Raise `ConfigurationError` for a database that only programs which know `needed` or later can work with."""
    if needed > known:
        raise ConfigurationError(
            f"the database was written by a newer Stepwell (schema {schema}, for programs that know {needed} or "
            f"later); this one knows {known}. Install the newer version again, or restore a backup made before the "
            "upgrade."
        )
