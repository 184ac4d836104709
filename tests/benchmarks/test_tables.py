"""What `python -m benchmarks` records, and the tables that it makes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers.report import show as show_peers
from benchmarks.report import LIMIT_TITLES, show
from benchmarks.rounds import Record
from tests.apps.wheels import repack
from tests.libraries.environments import python_of

ROOT = Path(__file__).parents[2]


def _record(**more: Any) -> Record:
    record = Record()
    record.add(machine="a machine", cores=2, at="2026-11-20 12:00")
    limit = {"per_s": 1000.0, "p50_ms": 0.5, "p99_ms": 1.0, "server_cpu_ms": 0.01, "client_cpu_ms": 0.02}
    record.add(limits=dict.fromkeys(LIMIT_TITLES, limit), round=1)
    for name, scale in (("websocket", 2.0), ("restate", 1.0)):
        about = {"target": name, "title": name, "http": False, "store": "sqlite", "nodes": 1, "durable": "synced"}
        figures = {"per_s": 1000 * scale, "p50_ms": 20.0, "p99_ms": 30.0, "server_cpu_ms": 0.3, "worker_cpu_ms": 0.1}
        record.add(**about, workload="seq", round=1, figures=figures, foreign_cores=0.5, **more)
    return record


def test_a_figure_stands_beside_the_least_that_the_machine_allows() -> None:
    text = show(_record().lines)

    assert "0.5 of 2 cores used by others" in text
    assert "| 100 runs in flight, per step | 2,000 | 20.0 | 30.0 | 0.300 | 0.100 | 0.030 ms CPU | 10.0 |" in text


def test_other_products_are_shown_as_multiples_of_one_of_them() -> None:
    text = show_peers(_record().lines, "restate")

    assert "| websocket | 2,000 | 0.300 | 0.100 | 2.00 |" in text
    assert "| restate | 1,000 | 0.300 | 0.100 | 1.00 |" in text


def test_what_could_not_be_measured_is_said() -> None:
    record = _record()
    record.add(target="serve", title="serve", http=True, workload="one", round=1, store="sqlite", nodes=1, error="lost")

    assert "- serve, one, round 1: lost" in show(record.lines)


def test_a_record_that_was_interrupted_can_be_shown(tmp_path: Path) -> None:
    file = tmp_path / "result.jsonl"
    record = Record(file)
    for line in _record().lines:
        record.add(**line)

    assert Record.read(file) == record.lines
    assert show(Record.read(file)) == show(record.lines)


@pytest.mark.slow
def test_a_short_round_measures_what_is_named(tmp_path: Path) -> None:
    file = tmp_path / "result.jsonl"
    repack(tmp_path / "wheels", python_of("inferencesh"))
    environment = {**os.environ, "UV_OFFLINE": "1", "UV_FIND_LINKS": str(tmp_path / "wheels")}
    only = "websocket,one,ask,first-token,relay,task,idle"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", only, "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    found = {line["workload"]: line["figures"] for line in Record.read(file) if "figures" in line}
    assert found["one"]["p50_ms"] > 0
    assert found["ask"]["p50_ms"] > found["ask"]["direct_p50_ms"] > 0
    assert found["first-token"]["p95_ms"] > 0
    assert found["relay"]["tokens_per_s"] > 1000
    assert found["task"]["clients_32_per_s"] > found["task"]["clients_1_per_s"] / 2 > 5
    assert found["task"]["clients_32_server_cpu_ms"] < 5
    assert 0 < found["task"]["output_p50_ms"] < 1000
    assert 0 < found["task"]["cancel_p50_ms"] < 1000
    assert found["idle"]["rss_mb"] > 10
    assert "one run at a time, step to step" in done.stdout
