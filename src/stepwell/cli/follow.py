"""Watching runs from the terminal until they end, also over a restart of the server."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import click

from stepwell.cli.api import ConnectionLost
from stepwell.cli.output import bold, dim, duration_text, error_text, instant_of, plan_text, printable, say, status_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell.cli.api import Api

MATCH_S = 3.0
"""How long to wait for the first run of an event; matching begins before the sender has its answer."""
BEGIN_S = 3.0
"""How long nothing may begin before somebody looks for workers."""
GONE_S = 30.0
"""How long a server may be gone before nobody waits for it any more."""
PAUSE_S = 0.5


def follow_runs(api: Api, event_id: str, *, quiet: bool = False) -> list[dict[str, Any]]:
    """Follow every run that an event started, and return them once they have ended. `quiet` tells nothing of them."""
    run_ids = _runs_of(api, event_id)
    if not run_ids and not quiet:
        say(
            "no function is started by this event (it may have ended waits or cancelled runs); "
            "`stepwell runs` lists what ran",
            mark="○",
            colour="yellow",
        )
    return [follow_run(api, run_id, quiet=quiet) for run_id in run_ids]


def _runs_of(api: Api, event_id: str) -> list[str]:
    deadline = time.monotonic() + MATCH_S
    while True:
        found = [run["run_id"] for run in api.get(f"/v1/events/{event_id}/runs")["data"]]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def follow_run(api: Api, run_id: str, *, quiet: bool) -> dict[str, Any]:
    """Follow one run, and return it once it has ended. `quiet` tells nothing of it."""
    begun: dict[str, int] = {}
    spoken = Spoken()
    look = threading.Timer(BEGIN_S, _tell_waiting, (api, run_id))
    look.daemon = True
    if not quiet:
        look.start()
    try:
        for change in _changes(api, run_id, pieces=not quiet):
            if quiet:
                continue
            kind = change.get("type")
            if kind == "delta":
                spoken.say(change)
                continue
            spoken.end_line()
            if kind == "step":
                _tell_step(api, run_id, change, begun)
            elif kind == "call":
                _tell_call(api, run_id, change)
            elif kind == "reset":
                of = f" of {printable(change['name'])}" if change["name"] else ""
                say(f"what was said{of} is void: {printable(change['reason'])}", mark="○", colour="yellow")
            elif kind == "gap":
                say(f"{change['missed']} pieces of an answer were not kept so long", mark="○", colour="yellow")
    finally:
        spoken.end_line()
        look.cancel()
    detail: dict[str, Any] = api.get(f"/api/runs/{run_id}")
    if not quiet:
        _print_end(detail)
    return detail


class Spoken:
    """What models say, on a line that is still open; several at a time take turns."""

    def __init__(self) -> None:
        self._speaker: str | None = None

    def say(self, delta: dict[str, Any]) -> None:
        if delta["kind"] != "text" or not delta["text"]:
            return
        if self._speaker != delta["step"]:
            self.end_line()
            self._speaker = delta["step"]
            click.echo(f"  {printable(delta['name']) or '(unnamed)':<24} ", nl=False, err=True)
        lines = [printable(line) for line in delta["text"].split("\n")]
        click.echo(f"\n  {'':<24} ".join(lines), nl=False, err=True)

    def end_line(self) -> None:
        if self._speaker is not None:
            self._speaker = None
            click.echo("", err=True)


def _changes(api: Api, run_id: str, *, pieces: bool) -> Iterator[dict[str, Any]]:
    """What happens to a run, from its beginning to its end, over as many connections as it takes."""
    path = f"/api/runs/{run_id}/{'stream' if pieces else 'follow'}"
    last: str | None = None
    gone: float | None = None  # since when

    def on_open() -> None:
        nonlocal gone
        if gone is not None:
            say("the server is back", mark="●", colour="green")
        gone = None

    while True:
        try:
            for number, change in api.events(path, last, on_open):
                last = number
                yield change
                if change.get("type") == "end":
                    return
            why = "it was stopped"
        except ConnectionLost as err:
            why = str(err)
        if gone is None:
            gone = time.monotonic()
            say(f"the server is gone ({printable(why)}); waiting for it", mark="○", colour="yellow")
        elif time.monotonic() - gone > GONE_S:
            raise click.ClickException(
                f"no server answers at {api.url} for {GONE_S:.0f} s; the run {run_id} goes on when it is back"
            )
        time.sleep(PAUSE_S)


def _tell_waiting(api: Api, run_id: str) -> None:
    """Say why a run has not begun, if it is because nobody is connected who could do it."""
    try:
        run = api.get(f"/api/runs/{run_id}")
        if run["started_at"] is not None or run["ended_at"] is not None:
            return
        lines = {line["service"]: line for line in api.get("/api/status")["workers"]}
    except click.ClickException:
        return  # whoever follows is told soon enough that the server is gone
    line = lines.get(run["service"])
    if line is not None and (line["waiting_calls"] or not line["connected"]):
        workers = line["connected"] or "no"
        say(
            f"nothing has begun: {workers} worker{'' if workers == 1 else 's'} of the service "
            f"{printable(run['service'])} connected, calls waiting: {line['waiting_calls']}",
            mark="○",
            colour="yellow",
        )


def _tell_step(api: Api, run_id: str, change: dict[str, Any], begun: dict[str, int]) -> None:
    at = instant_of(change["at"])
    took = f" {dim(duration_text(at - begun[change['step']]))}" if change["step"] in begun else ""
    begun.setdefault(change["step"], at)
    more = ""
    if change["status"] == "RETRYING":
        error = _last_error(api.get(f"/api/runs/{run_id}"), change["step"])
        more = f" {_next_try(instant_of(change['until']) - at)}{error}"
    if change.get("origin"):
        more = f" {dim('kept from the record')}"
    say(f"  {printable(change['name']) or '(unnamed)':<24} {status_text(change['status'])}{took}{more}")


def _tell_call(api: Api, run_id: str, change: dict[str, Any]) -> None:
    """A call of the function failed: told when another follows, since else the end of the run tells it."""
    detail = api.get(f"/api/runs/{run_id}")
    later = [one["scheduled_at"] for one in detail["requests"] if one["attempt"] and not one["started_at"]]
    if later and change["outcome"] == "failed":
        pause = instant_of(later[-1]) - instant_of(change["at"])
        say(f"  {'(function)':<24} {status_text('RETRYING')} {_next_try(pause)}{_last_error(detail, None)}")


def _next_try(pause_ms: int) -> str:
    return f"next try in {plan_text(pause_ms)}" if pause_ms > 0 else "trying again"


def _last_error(detail: dict[str, Any], step: str | None) -> str:
    """The error of the last failed attempt of a step, or of the function itself."""
    spans = [span for span in detail["trace"]["children"] if span["step"] == step]
    errors = [one["error"] for span in spans for one in (span, *span["children"]) if one["error"] is not None]
    return f": {error_text(errors[-1])}" if errors else ""


def _print_end(detail: dict[str, Any]) -> None:
    took = duration_text(instant_of(detail["ended_at"]) - instant_of(detail["created_at"]))
    say(f"{bold(detail['function'])} {status_text(detail['status'])} {dim(took)}   {dim(detail['id'])}")
    if detail["status"] == "COMPLETED":
        for line in json.dumps(detail.get("output"), indent=2, ensure_ascii=False).splitlines():
            click.echo(printable(line))
    elif error := detail.get("error"):
        say(error_text(error), mark="✗", colour="red")
