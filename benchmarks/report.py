"""Tables of medians, and what each figure is beside the least that the machine allows for it.

The floor of a figure is made of limits measured in the same rounds; `times` says how many floors it is:

    seq       server CPU: one message or request, and its share of a grouped commit
    one       one synced commit and one round trip
    first     two synced commits, the event's request and one round trip
    fan       three synced commits, and the messages or requests of all steps at their full rate
    burst     a grouped commit for each of event, run, step and end
    parked    a grouped commit for each of event, run, step and sleep
    events    the rate of grouped rows; for single events the rate of requests

What has no floor is shown as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from benchmarks.lifetimes import LIFETIMES
from benchmarks.processes import median
from benchmarks.rounds import SHORT
from benchmarks.workloads import WIDTH, Figures

Line: TypeAlias = Mapping[str, Any]

COLUMNS = {
    "per_s": "per second",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "server_cpu_ms": "server CPU ms",
    "worker_cpu_ms": "worker CPU ms",
}
LIMIT_COLUMNS = {
    "per_s": "per second",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "server_cpu_ms": "uvicorn CPU ms",
    "client_cpu_ms": "client CPU ms",
}
LIMIT_TITLES = {
    "fsync": "append 1 KiB and sync",
    "commit": "SQLite: a step's rows, synced",
    "commit grouped": "SQLite: 100 of them per commit, each",
    "request": "HTTP request, one at a time",
    "request loaded": "HTTP request, 64 at a time",
    "message": "websocket round trip, one at a time",
    "message loaded": "websocket round trip, 64 at a time",
}
TITLES = {name: one.title for name, one in SHORT.items()} | {name: one.title for name, one in LIFETIMES.items()}


def medians(rounds: Iterable[Figures]) -> Figures:
    found = list(rounds)
    names = dict.fromkeys(name for one in found for name in one)
    return {name: median(one[name] for one in found if name in one) for name in names}


def floor(workload: str, limits: Mapping[str, Figures], *, http: bool) -> tuple[str, float] | None:
    """The column that is compared, and the least it could be (the most, for a rate). None if it has no floor."""
    commit = limits["commit"]["p50_ms"]
    alone, loaded = ("request", "request loaded") if http else ("message", "message loaded")
    trip = limits[alone]["p50_ms"]
    match workload:
        case "seq":
            side = "client_cpu_ms" if http else "server_cpu_ms"  # of the two ends, the one that our server is
            return "server_cpu_ms", limits[loaded][side] + limits["commit grouped"]["client_cpu_ms"]
        case "one":
            return "p50_ms", commit + trip
        case "first":
            return "p50_ms", 2 * commit + limits["request"]["p50_ms"] + trip
        case "fan":
            return "p50_ms", 3 * commit + WIDTH / limits[loaded]["per_s"] * 1e3
        case "parked" | "burst":
            return "per_s", limits["commit grouped"]["per_s"] / 4
        case "batches":
            return "per_s", limits["commit grouped"]["per_s"]
        case "singles":
            return "per_s", limits["request loaded"]["per_s"]
        case _:
            return None


def show(lines: Sequence[Line]) -> str:
    """All tables of a record, as Markdown."""
    text = machine(lines)
    middle = {name: medians(line["limits"][name] for line in lines if "limits" in line) for name in LIMIT_TITLES}
    measured = [line for line in lines if line.get("workload", "start") != "start"]
    for key in dict.fromkeys(_key(line) for line in measured):
        text += ["", *_target([line for line in measured if _key(line) == key], middle)]
    return "\n".join([*text, *failures(lines)])


def machine(lines: Sequence[Line]) -> list[str]:
    """Where and when it was measured, and what the machine allowed meanwhile."""
    limits = [line["limits"] for line in lines if "limits" in line]
    heads = [line for line in lines if "machine" in line]
    others = [line["foreign_cores"] for line in lines if "foreign_cores" in line]
    facts = [heads[-1]["machine"], heads[-1]["at"], f"rounds: {len(limits)}"]
    if others:
        facts.append(f"{median(others):.1f} of {heads[-1]['cores']} cores used by others")
    text = ["; ".join(facts), "", "## The machine", "", *head(["limit", *LIMIT_COLUMNS.values()])]
    for name, title in LIMIT_TITLES.items():
        text.append(row([title, *(cell([one[name] for one in limits], column) for column in LIMIT_COLUMNS)]))
    return text


def failures(lines: Sequence[Line]) -> list[str]:
    """What could not be measured."""
    failed = [line for line in lines if "error" in line]
    if not failed:
        return []
    said = [f"- {line['target']}, {line['workload']}, round {line['round']}: {line['error']}" for line in failed]
    return ["", "## What went wrong", "", *said]


def _key(line: Line) -> tuple[str, str, int]:
    return line["target"], line["store"], line["nodes"]


def _target(lines: Sequence[Line], limits: Mapping[str, Figures]) -> list[str]:
    """The tables of one target: what has columns in common, then everything else."""
    about = lines[0]
    where = "" if (about["store"], about["nodes"]) == ("sqlite", 1) else f"; {about['store']}, nodes: {about['nodes']}"
    table, rest = head(["workload", *COLUMNS.values(), "floor", "times"]), head(["figure", "value"])
    rows, empty = len(table), len(rest)
    for workload in dict.fromkeys(line["workload"] for line in lines):
        rounds = [line["figures"] for line in lines if line["workload"] == workload and "figures" in line]
        if not rounds:
            continue
        least = floor(workload, limits, http=about["http"])
        if least is not None:
            table.append(row([TITLES[workload], *(cell(rounds, name) for name in COLUMNS), *_times(rounds, *least)]))
        for name in medians(rounds):
            if least is None or name not in COLUMNS:
                rest.append(row([f"{TITLES[workload]}: {name}", cell(rounds, name)]))
    text = [f"## {about['title']}{where}"]
    if len(table) > rows:
        text += ["", *table]
    if len(rest) > empty:
        text += ["", *rest]
    return text


def _times(rounds: Sequence[Figures], column: str, least: float) -> list[str]:
    got = medians(rounds)[column]
    unit = {"per_s": "/s", "p50_ms": " ms", "server_cpu_ms": " ms CPU"}[column]
    return [f"{number(least)}{unit}", f"{least / got if column == 'per_s' else got / least:.1f}"]


def head(names: Sequence[str]) -> list[str]:
    return [row(names), row(["---"] * len(names))]


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def cell(rounds: Sequence[Figures], name: str) -> str:
    """The median, and from where to where when there is more than one."""
    values = [one[name] for one in rounds if name in one]
    if not values:
        return ""
    middle = number(median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))}–{number(max(values))})"


def number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"
