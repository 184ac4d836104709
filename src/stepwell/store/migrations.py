"""Numbered SQL files, the same way for every database: which there are, and what programs must know to use them."""

from __future__ import annotations

import re
from importlib import resources
from typing import NamedTuple

_HEADER = re.compile(r"-- usable from: (\d+)\s*$", re.MULTILINE)


class Migration(NamedTuple):
    number: int
    usable_from: int
    text: str


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


def too_new(schema: int, needed: int, known: int) -> str:
    """What to say about a database that this program cannot work with."""
    return (
        f"the database was written by a newer Stepwell (schema {schema}, for programs that know {needed} or later); "
        f"this one knows {known}. Install the newer version again, or restore a backup made before the upgrade."
    )
