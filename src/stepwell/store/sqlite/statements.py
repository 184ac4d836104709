"""The writing connection, with a named point before and after each statement.

A test gives a callable to stop at or to die at: `before drop jobs`, `after commit`. The names come from the calls
themselves, so the list of points is what a workload passes, and a new statement is on it by itself.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from stepwell.store.batch import Row

CHUNK_ROWS = 256

Point: TypeAlias = "Callable[[str], None]"


def no_point(name: str) -> None:
    pass


class Statements:
    """The connection and its points. `many` writes a table's rows with as few calls as possible.

    Every call of SQLite lets go of the interpreter's lock, and beside a busy event loop each costs a wait to get it
    back. So rows go in by up to 256 at a time: one statement for each power of two, prepared once.
    """

    def __init__(self, connection: sqlite3.Connection, point: Point | None = None) -> None:
        self.connection = connection
        self.point = point or no_point
        self._watched = point is not None
        self._texts: dict[tuple[str, int], str] = {}

    def one(self, name: str, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        if not self._watched:
            return self.connection.execute(sql, values)
        self.point(f"before {name}")
        cursor = self.connection.execute(sql, values)
        self.point(f"after {name}")
        return cursor

    def many(self, name: str, sql: str, rows: Sequence[Row]) -> None:
        """Run `sql` for all rows; where it says `$rows` they are put, as `(?, ?), (?, ?)` and so on."""
        done, left = 0, len(rows)
        while left:
            count = min(CHUNK_ROWS, 1 << left.bit_length() - 1)
            text = self._texts.get((sql, count))
            if text is None:
                row = f"({', '.join('?' * len(rows[0]))})"
                text = self._texts[sql, count] = sql.replace("$rows", ", ".join([row] * count))
            chunk = rows if count == len(rows) else rows[done : done + count]
            self.one(name, text, tuple(chain.from_iterable(chunk)))
            done += count
            left -= count
