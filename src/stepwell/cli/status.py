"""`stepwell status`: what a running server is doing."""

from __future__ import annotations

from typing import Any

import click

from stepwell.cli.api import Api, url_option
from stepwell.cli.output import bold, dim, duration_text, print_json, printable, say


@click.command()
@url_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(url: str, key: str | None, as_json: bool) -> None:
    """What a server is doing.

    Its store, nodes, queues, workers, and what its auditor found; the same is a page at /status. Exit 1 if the server
    does not take part or the auditor found something.
    """
    told = Api(url, key).get("/api/status")
    findings = (told.get("auditor") or {}).get("findings", [])
    good = told["state"] == "ready" and not findings
    if as_json:
        print_json(told)
    else:
        _show(told, findings, good=good)
    raise SystemExit(0 if good else 1)


def _show(told: dict[str, Any], findings: list[str], *, good: bool) -> None:
    store, queue, keep = told["store"], told["queue"], told.get("retention") or {}
    say(
        f"{bold(told['state'])}, version {told['version']} {dim(told['kind'])}, "
        f"up for {duration_text(told['uptime_s'] * 1000)}",
        mark="●",
        colour="green" if good else "red",
    )
    _line("store", f"{store.get('durability')}, schema {store.get('schema', 1)}")
    _line("runs", f"{store.get('live_runs', 0)} under way, {store.get('jobs', 0)} jobs, {store.get('waits', 0)} waits")
    late = f", the oldest for {duration_text(queue['oldest_due_lag_ms'])}" if queue["due"] else ""
    _line("due now", f"{queue['due']} jobs{late}")
    if queue.get("waiting_for_limits"):
        _line("waiting", f"{queue['waiting_for_limits']} calls for a slot of a limit")
    for node in told["nodes"]:
        lease = (
            f"lease until {node['lease_until']}"
            if node["alive"]
            else f"gone, its lease ran out at {node['lease_until']}"
        )
        _line("node", f"{node['name']}, {lease}")
    _line("known", f"services: {told['services']}, functions: {told['functions']}")
    here = " here" if len(told["nodes"]) > 1 else ""
    for line in told["workers"]:
        calls = f"{line['waiting_calls']} calls waiting{here}"
        _line("workers", f"{line['service']}: {line['connected']} connected{here}, {calls}")
    _line("kept", f"ended runs {_age(keep.get('keep_runs_ms'))}, events {_age(keep.get('keep_events_ms'))}")
    if sweep := keep.get("last_sweep"):
        removed = f"{sweep['runs']} runs, {sweep['events']} events, {sweep['texts']} texts"
        _line("removed", f"{removed} at {sweep['began_at']}")
    if backup := store.get("last_backup"):
        _line("backup", f"{backup['place']}, {duration_text(_since(told, backup))} ago")
    audited = told.get("auditor")
    if audited is None:
        _line("auditor", "has not looked yet")
    elif not findings:
        _line("auditor", f"nothing wrong with {audited['runs']} live runs at {audited['checked_at']}")
    for finding in findings:
        say(printable(finding), mark="✗", colour="red")


def _line(name: str, text: str) -> None:
    say(f"{dim(name.ljust(8))}  {printable(text)}")


def _age(milliseconds: int | None) -> str:
    return "for ever" if milliseconds is None else f"for {duration_text(milliseconds)}"


def _since(told: dict[str, Any], backup: dict[str, Any]) -> float:
    from stepwell.cli.output import instant_of

    return max(0, instant_of(told["at"]) - int(backup["at"]))
