"""The writing connection, with a named point before and after each statement.

A test gives a callable to stop at or to die at: `before drop jobs`, `after commit`. The names come from the calls
themselves, so the list of points is what a workload passes, and a new statement is on it by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

Point: TypeAlias = "Callable[[str], None]"


def no_point(name: str) -> None:
    pass


class Statements:
    def __init__(self, connection: sqlite3.Connection, point: Point | None = None) -> None:
        self.connection = connection
        self.point = point or no_point
        self._watched = point is not None

    def one(self, name: str, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        if not self._watched:
            return self.connection.execute(sql, values)
        self.point(f"before {name}")
        cursor = self.connection.execute(sql, values)
        self.point(f"after {name}")
        return cursor

    def many(self, name: str, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        """The statement once for each row. Returns how many rows it changed."""
        if not rows:
            return 0
        if not self._watched:
            return self.connection.executemany(sql, rows).rowcount
        self.point(f"before {name}")
        cursor = self.connection.executemany(sql, rows)
        self.point(f"after {name}")
        return cursor.rowcount
