"""A table for each workload, a row for each product: medians over the rounds, with their range."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.report import TITLES, Line, cell, failures, head, machine, medians, number, row
from benchmarks.workloads import COMMON

COLUMNS = {
    "seq": {"per_s": "steps/s", "server_cpu_ms": "server CPU ms/step", "worker_cpu_ms": "worker CPU ms/step"},
    "one": {"p50_ms": "p50 ms", "p99_ms": "p99 ms"},
    "first": {"p50_ms": "p50 ms", "p99_ms": "p99 ms"},
    "fan": {"p50_ms": "p50 ms", "p99_ms": "p99 ms"},
    "burst": {"accepted_per_s": "accepted/s", "per_s": "ended/s", "server_cpu_ms": "server CPU ms/run"},
}
MEASURE = {"seq": "per_s", "one": "p50_ms", "first": "p50_ms", "fan": "p50_ms", "burst": "per_s"}
"""What the last column compares."""


def show(lines: Sequence[Line], beside: str) -> str:
    """All tables of a record, as Markdown; each row also as a multiple of the target named `beside`."""
    text = machine(lines)
    targets = {line["target"]: line for line in lines if "target" in line}
    text += ["", *head(["", "what it is", "when it has acknowledged something"])]
    text += [row([name, line["title"], line["durable"]]) for name, line in targets.items()]
    for workload in COMMON:
        found = {
            name: [line["figures"] for line in lines if _is(line, name, workload) and "figures" in line]
            for name in targets
        }
        if not any(found.values()):
            continue
        columns, measure = COLUMNS[workload], MEASURE[workload]
        last = [f"{columns[measure]}, times {beside}'s"] if found.get(beside) else []
        text += ["", f"## {TITLES[workload]}", "", *head(["", *columns.values(), *last])]
        for name, rounds in found.items():
            if not rounds:
                continue
            cells = [cell(rounds, column) for column in columns]
            if last:
                cells.append(number(medians(rounds)[measure] / medians(found[beside])[measure]))
            text.append(row([name, *cells]))
    return "\n".join([*text, *failures(lines)])


def _is(line: Line, target: str, workload: str) -> bool:
    return line.get("target") == target and line["workload"] == workload
