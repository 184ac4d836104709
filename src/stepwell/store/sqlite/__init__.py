"""The embedded store: one directory with an SQLite database in it, for one server at a time.

Start with `store.py`, which is the interface of `stepwell.store.base`; `writer.py` is the one thread that writes,
`reads.py` what the readers ask, `directory.py` everything about the directory that is not the database: the lock, the
kind of file system, large texts as files. `schema.py` applies the numbered files of `store/sql/sqlite`.
"""

from stepwell.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
