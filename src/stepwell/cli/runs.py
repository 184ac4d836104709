"""`stepwell runs` and `stepwell run ...`: what has run, what runs, and how."""

from __future__ import annotations

import sys
from typing import Any

import click

from stepwell.cli.api import Api, piece, url_option, utf8
from stepwell.cli.output import ago_text, dim, duration_text, instant_of, print_json, printable, say, status_text, table


@click.command()
@url_option
@click.option("--function", "-f", help="Only runs of this function (its slug).")
@click.option(
    "--status",
    "-s",
    "statuses",
    multiple=True,
    type=click.Choice(["queued", "running", "completed", "failed", "cancelled"], case_sensitive=False),
    help="Only runs in this state; repeatable.",
)
@click.option("--limit", "-n", type=click.IntRange(1, 100), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def runs(url: str, key: str | None, function: str | None, statuses: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List runs, newest first."""
    if function is not None:
        utf8(function, "--function")
    status = ",".join(status.upper() for status in statuses) or None
    found = Api(url, key).get("/api/runs", function=function, status=status, limit=limit)["runs"]
    if as_json:
        print_json(found)
        return
    if not found:
        say(
            "no runs yet. Send an event:  stepwell send my/event '{}'" if not (function or statuses) else "no such runs"
        )
        return
    table((_line(run) for run in found), ("run", "function", "status", "started", "took", "event"))


def _line(run: dict[str, Any]) -> dict[str, str]:
    created = instant_of(run["created_at"])
    lacks = " and ".join(run.get("waits_for", ()))
    return {
        "run": run["id"],
        "function": run["function"],
        "status": status_text(run["status"]) + (dim(f", waits for {printable(lacks)}") if lacks else ""),
        "started": ago_text(created),
        "took": duration_text(instant_of(run["ended_at"]) - created) if run["ended_at"] else "",
        "event": dim(printable(run.get("schedule") or run.get("event_name") or "")),
    }


@click.group()
def run() -> None:
    """Look at one run, follow, compare or cancel it."""


@run.command()
@click.argument("run_id", metavar="ID")
@url_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(run_id: str, url: str, key: str | None, as_json: bool) -> None:
    """Show the run ID as a tree of its steps.

    With attempts and times, the tracebacks of what failed, its input and its result.
    """
    from stepwell.cli.trace import print_run

    api = Api(url, key)
    path = f"/api/runs/{piece(run_id, 'ID')}"
    detail = api.get(path, redacted="true")
    if as_json:
        print_json(detail)
    else:
        print_run(detail, api.get(f"{path}/lines")["lines"])


@run.command()
@click.argument("run_id", metavar="ID")
@url_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def follow(run_id: str, url: str, key: str | None, as_json: bool) -> None:
    """Follow the run ID until it has ended.

    From its beginning, with what models say while they say it. The exit status is 1 if it does not complete.
    """
    from stepwell.cli.follow import follow_run

    detail = follow_run(Api(url, key), piece(run_id, "ID"), quiet=as_json)
    if as_json:
        print_json(detail)
    sys.exit(0 if detail["status"] == "COMPLETED" else 1)


@run.command()
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@url_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff(old: str, new: str, url: str, key: str | None, as_json: bool) -> None:
    """Show two runs of a function side by side.

    Prompts, answers, models, tokens, costs and times of each step of which something differs.
    """
    from stepwell.cli.compare import print_comparison

    compared = Api(url, key).get(f"/api/runs/{piece(old, 'OLD')}/compare/{piece(new, 'NEW')}")
    if as_json:
        print_json(compared)
    else:
        print_comparison(compared)


@run.command()
@click.argument("run_id", metavar="ID")
@url_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def cancel(run_id: str, url: str, key: str | None, as_json: bool) -> None:
    """Cancel the run ID."""
    answer = Api(url, key).post(f"/api/runs/{piece(run_id, 'ID')}/cancel", {})
    if as_json:
        print_json(answer)
        return
    if answer.get("cancelling"):
        say(f"cancelling {run_id}: its call was told to end", mark="⊘", colour="yellow")
    else:
        say(f"cancelled {run_id}", mark="⊘", colour="yellow")
