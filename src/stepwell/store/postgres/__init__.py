"""The shared store: a PostgreSQL database, for any number of servers at a time.

Start with `store.py`, which is the interface of `stepwell.store.base`; `writer.py` commits transitions in groups,
`reads.py` is what is asked, `database.py` how to reach it: connections, which errors mean "again", for how long.
`hints.py` tells the other servers what was committed. `schema.py` applies the numbered files of `store/sql/postgres`,
which also hold the functions that write.
"""

from stepwell.store.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
