"""`python -m benchmarks.peers.litserve`: a task of one warm worker, beside LitServe, which keeps nothing.

python -m benchmarks.peers.litserve --rounds 3 --seconds 5

Both are asked for a function that gives back what it gets, in one process of its own, by the same client over the same
kept connections. A task of Stepwell is durable before the function is called, queued, listed and can be cancelled; a
request to LitServe is none of that. So this is what durability costs. All processes but the worker are the server.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import uvloop

from benchmarks.client import Client
from benchmarks.peers import install
from benchmarks.processes import Child, free_port
from benchmarks.report import cell, head, row
from benchmarks.rounds import say
from benchmarks.targets import Setup, Target, targets
from benchmarks.tasks import APP, asked, deploy, run
from benchmarks.workloads import SENDERS, Figures

COLUMNS = {"per_s": "per second", "p50_ms": "p50 ms", "p99_ms": "p99 ms", "cpu_ms": "CPU ms, all processes"}


class LitServe(Target):
    """With the settings that it has by itself, and one worker."""

    def __init__(self, interpreter: Path) -> None:
        super().__init__("litserve", "LitServe 0.2, one worker", http=True, durable="nothing is kept")
        self._interpreter = interpreter
        self.port = free_port()

    async def start(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        command = [str(self._interpreter), "-m", "benchmarks.peers.apps.litserve", str(self.port)]
        self.servers = [Child("LitServe", command, folder / "server.log", self.environment())]
        await self.answers(self.servers[0], self.port, "GET", "/health")


async def predict(client: Client) -> None:
    status, answer = await client.request("POST", "/predict", b'{"n": 1}')
    if status != 200 or json.loads(answer) != {"n": 1}:
        raise RuntimeError(f"a prediction was answered with {status}: {answer[:300]!r}")


async def task(client: Client) -> None:
    await run(client, "bench/task", {"n": 1})


async def measure(rounds: int, seconds: float, folder: Path) -> dict[tuple[str, int], list[Figures]]:
    found: dict[tuple[str, int], list[Figures]] = {}
    interpreter = install.litserve()
    for number in range(rounds):
        for name in ("stepwell", "litserve"):
            say(f"round {number + 1} of {rounds}: {name}")
            own = next(one for one in targets(Setup()) if one.name == "websocket")
            target: Target = own if name == "stepwell" else LitServe(interpreter)
            call = task if name == "stepwell" else predict
            try:
                await target.start(folder / f"{name}{number}")
                if name == "stepwell":
                    await deploy(own, APP)
                port = target.port  # type: ignore[attr-defined]
                for clients in (1, SENDERS):
                    figures = await asked(port, call, clients, seconds, target)
                    figures["cpu_ms"] = figures["server_cpu_ms"] + figures["worker_cpu_ms"]
                    found.setdefault((name, clients), []).append(figures)
            finally:
                target.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.litserve")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each number of clients")
    parser.add_argument("--folder", type=Path, help="where data is kept meanwhile; decides which disk is measured")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="stepwell-bench-", dir=options.folder))
    try:
        found = uvloop.run(measure(options.rounds, options.seconds, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(head(["", "clients", *COLUMNS.values()])))
    for (name, clients), rounds in found.items():
        print(row([name, str(clients), *(cell(rounds, column) for column in COLUMNS)]))


if __name__ == "__main__":
    main()
