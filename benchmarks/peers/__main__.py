"""`python -m benchmarks.peers`: Stepwell beside Restate and DBOS, in rounds A B C A B C.

python -m benchmarks.peers --quick --only websocket,restate,seq
python -m benchmarks.peers --json peers.jsonl
python -m benchmarks.peers --show peers.jsonl
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import uvloop

from benchmarks.limits import Limits
from benchmarks.peers import install
from benchmarks.peers.dbos import Dbos
from benchmarks.peers.report import show
from benchmarks.peers.restate import Restate, python_worker, typescript_worker
from benchmarks.postgres import Postgres, postgres, version
from benchmarks.rounds import Record, begin, in_turn, say
from benchmarks.targets import Setup, Target, targets
from benchmarks.workloads import COMMON, QUICK, Size, Workload

OURS = ("websocket", "serve", "official")
THEIRS = ("restate", "restate-ts", "dbos", "dbos-pg")
BESIDE = "restate"


def made(wanted: Sequence[str], server: Callable[[], Postgres]) -> dict[str, Callable[[], Target]]:
    """How to make each target anew. Installs what the wanted ones need."""
    found: dict[str, Callable[[], Target]] = {}
    for name in wanted:
        match name:
            case "restate" | "restate-ts":
                modules = install.node()
                if modules is None:
                    say(f"{name} is left out: there is no npm\n")
                    continue
                program = install.restate_server(modules)
                if name == "restate":
                    worker = python_worker(install.python())
                    title = "Restate 1.7, Python SDK 1.3 on Hypercorn"
                    found[name] = functools.partial(Restate, name, title, program, worker, {})
                else:
                    environment = {"NODE_PATH": str(modules)}
                    title = "Restate 1.7, TypeScript SDK 1.17"
                    found[name] = functools.partial(Restate, name, title, program, typescript_worker(), environment)
            case "dbos":
                found[name] = functools.partial(Dbos, name, "DBOS 3.4 on SQLite", install.python(), None)
            case "dbos-pg":
                title = f"DBOS 3.4 on {version()}"
                found[name] = functools.partial(Dbos, name, title, install.python(), server().database)
            case _:
                found[name] = functools.partial(_own, name)
    return found


def _own(name: str) -> Target:
    return next(one for one in targets(Setup()) if one.name == name)


async def measure(
    made: dict[str, Callable[[], Target]],
    workloads: dict[str, Workload],
    rounds: int,
    size: Size,
    folder: Path,
    record: Record,
) -> None:
    limits = Limits(folder / "limits")
    begin(record)
    try:
        await limits.start()
        for number in range(1, rounds + 1):
            say(f"round {number} of {rounds}: limits")
            record.add(limits=await limits.measure(1.0), round=number)
            for make in made.values():
                target = make()
                facts = {"round": number, "durable": target.durable}
                await in_turn(record, [target], workloads, size, folder / str(number), **facts)
    finally:
        limits.stop()
        say("")


def main() -> None:
    known = [*OURS, *THEIRS, *COMMON]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, help="default 3, or 1 with --quick")
    parser.add_argument("--only", default="", help=f"of {', '.join(known)}; separated by commas")
    parser.add_argument("--json", type=Path, help="append every figure to this file, a line each")
    parser.add_argument("--show", type=Path, help="show the tables of such a file and measure nothing")
    parser.add_argument("--folder", type=Path, help="where data is kept meanwhile; decides which disk is measured")
    options = parser.parse_args()
    if options.show is not None:
        print(show(Record.read(options.show), BESIDE))
        return
    only = [word for word in options.only.split(",") if word]
    if unknown := set(only) - set(known):
        parser.error(f"--only knows no {', '.join(sorted(unknown))}")
    wanted = [name for name in (*OURS, *THEIRS) if name in only] or [*OURS, *THEIRS]
    workloads = {name: one for name, one in COMMON.items() if name in only} or COMMON

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is stopped in any case
    folder = Path(tempfile.mkdtemp(prefix="stepwell-bench-", dir=options.folder))
    record = Record(options.json)
    try:
        with contextlib.ExitStack() as stack:

            @functools.cache
            def server() -> Postgres:
                return stack.enter_context(postgres("postgres", folder / "postgres"))

            chosen = made(wanted, server)
            rounds, size = options.rounds or (1 if options.quick else 3), QUICK if options.quick else Size()
            uvloop.run(measure(chosen, workloads, rounds, size, folder, record))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(show(record.lines, BESIDE))
    if any("error" in line for line in record.lines):
        sys.exit(1)


if __name__ == "__main__":
    main()
