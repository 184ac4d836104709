"""`python -m benchmarks`: measure in rounds, show tables, write JSON lines.

python -m benchmarks --quick
python -m benchmarks --only websocket,seq,one --rounds 5 --json result.jsonl
python -m benchmarks --only websocket,asleep100k,drain100k --rounds 1
python -m benchmarks --db postgres --nodes 2
python -m benchmarks --show result.jsonl
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import uvloop

from benchmarks.lifetimes import LIFETIMES
from benchmarks.postgres import postgres
from benchmarks.report import show
from benchmarks.rounds import SHORT, Record, measure
from benchmarks.targets import Setup, targets


def main() -> None:
    names = [one.name for one in targets(Setup())]
    every = (*SHORT, *LIFETIMES)
    known = [*names, *every]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round of everything that is not long")
    parser.add_argument("--rounds", type=int, help="default 3, or 1 with --quick")
    parser.add_argument("--only", default="", help=f"of {', '.join(known)}; separated by commas")
    parser.add_argument("--db", help='address of a PostgreSQL, or "postgres" to start one; default SQLite')
    parser.add_argument("--nodes", type=int, default=1, help="servers on one PostgreSQL; default 1")
    parser.add_argument("--json", type=Path, help="append every figure to this file, a line each")
    parser.add_argument("--show", type=Path, help="show the tables of such a file and measure nothing")
    parser.add_argument("--folder", type=Path, help="where data is kept meanwhile; decides which disk is measured")
    parser.add_argument("--keep", action="store_true", help="keep that data and the logs")
    options = parser.parse_args()
    if options.show is not None:
        print(show(Record.read(options.show)))
        return
    only = [word for word in options.only.split(",") if word]
    if unknown := set(only) - set(known):
        parser.error(f"--only knows no {', '.join(sorted(unknown))}")
    if options.nodes > 1 and options.db is None:
        parser.error("--nodes needs --db: nodes share one PostgreSQL")
    long = {name for name, one in LIFETIMES.items() if one.long}
    wanted = [name for name in every if name in only]
    workloads = wanted or [name for name in every if name not in long]
    if options.quick and not wanted:
        workloads = [name for name in workloads if name in LIFETIMES or not SHORT[name].long]

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is stopped in any case
    folder = Path(tempfile.mkdtemp(prefix="stepwell-bench-", dir=options.folder))
    record = Record(options.json)
    try:
        with contextlib.ExitStack() as stack:
            setup = Setup()
            if options.db is not None:
                server = stack.enter_context(postgres(options.db, folder / "postgres"))
                setup = Setup(server.database, options.nodes)

            chosen = [name for name in names if name in only] or names
            rounds = options.rounds or (1 if options.quick else 3)
            uvloop.run(measure(setup, chosen, workloads, rounds, quick=options.quick, folder=folder, record=record))
    finally:
        if options.keep:
            print(f"kept {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(show(record.lines))
    if any("error" in line for line in record.lines):
        sys.exit(1)


if __name__ == "__main__":
    main()
