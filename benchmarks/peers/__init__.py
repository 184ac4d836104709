"""Stepwell beside other durable runtimes: `python -m benchmarks.peers`, or `make bench-peers`.

The same workloads (`benchmarks.workloads.COMMON`), the same marks, the same driver, one process with the functions. In
each round every product is started afresh, measured and stopped before the next one starts. Products are installed by
`install.py` into the user's cache folder, in the versions that it names.

What is compared is not equal in one respect: with DBOS, a library, the process with the functions is also the server.
So all its CPU counts as the server's, and the database's with it when that is PostgreSQL.
"""
