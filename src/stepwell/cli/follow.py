"""Watching runs from the terminal until they end."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from stepwell.cli.output import bold, dim, duration_text, instant_of, print_json, say, status_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell.cli.api import Api

MATCH_S = 3.0
"""How long to wait for the first run of an event; matching begins before the sender has its answer."""


def follow_runs(api: Api, event_id: str, *, as_json: bool) -> bool:
    """Follow every run that an event started. True if each of them completed."""
    run_ids = _runs_of(api, event_id)
    if not run_ids:
        say("no function is started by this event; `stepwell runs` lists what ran", mark="○", colour="yellow")
        return True
    outcomes = [_follow(api, run_id, as_json=as_json) for run_id in run_ids]
    return all(outcome == "COMPLETED" for outcome in outcomes)


def _runs_of(api: Api, event_id: str) -> list[str]:
    deadline = time.monotonic() + MATCH_S
    while True:
        found = [run["run_id"] for run in api.get(f"/v1/events/{event_id}/runs")["data"]]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def _follow(api: Api, run_id: str, *, as_json: bool) -> str:
    begun: dict[str, int] = {}
    for change in _changes(api, run_id):
        if not as_json and change.get("type") == "step":
            at = instant_of(change["at"])
            took = dim(duration_text(at - begun[change["step"]])) if change["step"] in begun else ""
            begun.setdefault(change["step"], at)
            say(f"  {change['name'] or '(unnamed)':<24} {status_text(change['status'])} {took}")
    detail: dict[str, Any] = api.get(f"/api/runs/{run_id}")
    if as_json:
        print_json(detail)
    else:
        _print_end(detail)
    return str(detail["status"])


def _changes(api: Api, run_id: str) -> Iterator[dict[str, Any]]:
    with api.stream(f"/api/runs/{run_id}/follow") as response:
        for line in response.iter_lines():
            if line.startswith("data:"):
                yield json.loads(line[5:])


def _print_end(detail: dict[str, Any]) -> None:
    took = duration_text(instant_of(detail["ended_at"]) - instant_of(detail["created_at"]))
    say(f"{bold(detail['function'])} {status_text(detail['status'])} {dim(took)}   {dim(detail['id'])}")
    if detail["status"] == "COMPLETED":
        click.echo(json.dumps(detail.get("output"), indent=2, ensure_ascii=False))
    elif error := detail.get("error"):
        say(f"{error.get('name', 'Error')}: {error.get('message', '')}", mark="✗", colour="red")
