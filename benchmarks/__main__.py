"""`python -m benchmarks`: measure in rounds, show tables, write JSON.

python -m benchmarks --quick
python -m benchmarks --only websocket,seq,one --rounds 5 --json result.json
python -m benchmarks --show result.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.limits import Limits
from benchmarks.processes import busy_s
from benchmarks.report import show
from benchmarks.targets import Target, targets
from benchmarks.workloads import QUICK, WORKLOADS, Size


async def measure(
    chosen: list[Target],
    workloads: list[str],
    rounds: int,
    *,
    quick: bool,
    folder: Path,
    save: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Everything, in rounds: in each the limits once, then each workload once for every target in turn."""
    size = QUICK if quick else Size()
    limits = Limits(folder / "limits")
    result: dict[str, Any] = {
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "cores": os.cpu_count(),
        "at": time.strftime("%Y-%m-%d %H:%M"),
        "rounds": 0,
        "foreign_cores": [],
        "limits": [],
        "targets": [
            {"name": one.name, "title": one.title, "http": one.http, "figures": {name: [] for name in workloads}}
            for one in chosen
        ],
    }
    try:
        await limits.start()
        for target in chosen:
            _say(f"starting {target.name}")
            await target.start(folder / target.name)
        for number in range(rounds):
            begin, ours, busy = time.monotonic(), _ours_s(limits, chosen), busy_s()
            _say(f"round {number + 1} of {rounds}: limits")
            result["limits"].append(await limits.measure(0.3 if quick else 1.0))
            for workload in workloads:
                for target, row in zip(chosen, result["targets"], strict=True):
                    _say(f"round {number + 1} of {rounds}: {workload} {target.name}")
                    row["figures"][workload].append(await WORKLOADS[workload](target, size))
            took = time.monotonic() - begin
            result["rounds"] = number + 1
            result["foreign_cores"].append(max(0.0, (busy_s() - busy - _ours_s(limits, chosen) + ours) / took))
            save(result)  # a later round may be interrupted
    finally:
        for target in chosen:
            target.stop()
        limits.stop()
        _say("")
    return result


def _ours_s(limits: Limits, chosen: list[Target]) -> float:
    return time.process_time() + limits.cpu_s() + sum(one.server.cpu_s() + one.worker.cpu_s() for one in chosen)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


def main() -> None:
    names = [one.name for one in targets()]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round, under a minute")
    parser.add_argument("--rounds", type=int, help="default 3, or 1 with --quick")
    parser.add_argument("--only", default="", help=f"of {', '.join([*names, *WORKLOADS])}; separated by commas")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--show", type=Path, help="show the tables of such a file and measure nothing")
    parser.add_argument("--folder", type=Path, help="where data is kept meanwhile; decides which disk is measured")
    parser.add_argument("--keep", action="store_true", help="keep that data and the logs")
    options = parser.parse_args()
    if options.show is not None:
        print(show(json.loads(options.show.read_text())))
        return
    only = [word for word in options.only.split(",") if word]
    if unknown := set(only) - {*names, *WORKLOADS}:
        parser.error(f"--only knows no {', '.join(sorted(unknown))}")
    chosen = [one for one in targets() if one.name in only] or targets()
    workloads = [name for name in WORKLOADS if name in only] or list(WORKLOADS)

    def save(result: dict[str, Any]) -> None:
        if options.json is not None:
            options.json.write_text(json.dumps(result, indent=1))

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is stopped in any case
    folder = Path(tempfile.mkdtemp(prefix="stepwell-bench-", dir=options.folder))
    try:
        rounds = options.rounds or (1 if options.quick else 3)
        result = uvloop.run(measure(chosen, workloads, rounds, quick=options.quick, folder=folder, save=save))
    finally:
        if options.keep:
            print(f"kept {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(show(result))


if __name__ == "__main__":
    main()
