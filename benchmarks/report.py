"""Tables of medians, and what each figure is beside the least that the machine allows for it.

The floor of a figure is made of limits measured in the same rounds; `times` says how many floors it is:

    seq       server CPU: one message or request, and its share of a grouped commit
    one       one synced commit and one round trip
    first     two synced commits, the event's request and one round trip
    fan       three synced commits, and the messages or requests of all steps at their full rate
    parked    a grouped commit for each of event, run, step and sleep
    events    the rate of grouped rows; for single events the rate of requests
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.processes import median
from benchmarks.workloads import TITLES, WIDTH, Figures

COLUMNS = {
    "per_s": "per second",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "server_cpu_ms": "server CPU ms",
    "worker_cpu_ms": "worker CPU ms",
    "server_kib": "server KiB",
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


def medians(rounds: Iterable[Figures]) -> Figures:
    found = list(rounds)
    names = dict.fromkeys(name for one in found for name in one)
    return {name: median([one[name] for one in found if name in one]) for name in names}


def floor(workload: str, limits: dict[str, Figures], *, http: bool) -> tuple[str, float]:
    """The column that is compared, and the least it could be (the most, for a rate)."""
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
        case "parked":
            return "per_s", limits["commit grouped"]["per_s"] / 4
        case "batches":
            return "per_s", limits["commit grouped"]["per_s"]
        case "singles":
            return "per_s", limits["request loaded"]["per_s"]
        case _:
            raise AssertionError(workload)


def show(result: dict[str, Any]) -> str:
    """All tables of a result, as Markdown."""
    limits = {name: medians(one[name] for one in result["limits"]) for name in LIMIT_TITLES}
    others = f"{median(result['foreign_cores']):.1f} of {result['cores']} cores used by others"
    lines = [
        f"{result['machine']}; {result['at']}; rounds: {result['rounds']}; {others}",
        "",
        "## The machine",
        "",
        *_head(["limit", *LIMIT_COLUMNS.values()]),
    ]
    for name, title in LIMIT_TITLES.items():
        rounds = [one[name] for one in result["limits"]]
        lines.append(_row([title, *(_cell(rounds, column) for column in LIMIT_COLUMNS)]))
    for target in result["targets"]:
        lines += ["", f"## {target['title']}", "", *_head(["workload", *COLUMNS.values(), "floor", "times"])]
        for workload, rounds in target["figures"].items():
            column, least = floor(workload, limits, http=target["http"])
            got = medians(rounds)[column]
            times = least / got if column == "per_s" else got / least
            cells = [_cell(rounds, name) for name in COLUMNS]
            unit = {"per_s": "/s", "p50_ms": " ms", "server_cpu_ms": " ms CPU"}[column]
            lines.append(_row([TITLES[workload], *cells, f"{_number(least)}{unit}", f"{times:.1f}"]))
    return "\n".join(lines)


def _head(names: list[str]) -> list[str]:
    return [_row(names), _row(["---"] * len(names))]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(rounds: list[Figures], name: str) -> str:
    """The median, and from where to where when there is more than one."""
    values = [one[name] for one in rounds if name in one]
    if not values:
        return ""
    middle = _number(median(values))
    return middle if len(values) == 1 else f"{middle} ({_number(min(values))}–{_number(max(values))})"


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"
