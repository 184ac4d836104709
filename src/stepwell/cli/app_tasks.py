"""`stepwell app run`, `logs`, `list`, `show` and `versions`: what a server has of apps, and calling them."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import click

from stepwell.cli.api import Api, ConnectionLost, given_json, piece, url_option, utf8
from stepwell.cli.output import ago_text, bold, dim, instant_of, print_json, printable, say, table
from stepwell.model.app import read_reference
from stepwell.model.task import TaskStatus

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

PAGE = 100
GONE_S = 30.0
"""How long a server may be gone before nobody waits for it any more."""


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--input", "given", metavar="JSON", help="JSON, @FILE with it, or - for standard input.")
@click.option("--setup", metavar="JSON", help="For the app's setup: JSON, or @FILE with it.")
@click.option("--function", metavar="NAME", help="Another function than the one that is meant when none is named.")
@click.option("--session", metavar="ID", help="The session to call in; `new` begins one.")
@click.option("--no-wait", is_flag=True, help="Print the id of the task, and leave it to the server.")
@url_option
@json_option
def run(
    reference: str, given: str | None, setup: str | None, function: str | None, session: str | None, no_wait: bool,
    url: str, key: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Call the app REF (namespace/name[@version][:function]) and print its output. Exit 1 if it fails.

    \b
    stepwell app run acme/summary --input '{"text": "Rain is coming."}'
    """
    body: dict[str, Any] = {"app": utf8(reference, "REF"), "input": given_json(given, "--input") if given else {}}
    if setup is not None:
        body["setup"] = given_json(setup, "--setup")
    if function is not None:
        body["function"] = utf8(function, "--function")
    if session is not None:
        body["session"] = utf8(session, "--session")
    api = Api(url, key)
    task: dict[str, Any] = api.post("/apps/run", body)["data"]
    if no_wait:
        print_json(task) if as_json else click.echo(task["id"])
        return
    try:
        task = _followed(api, task["id"], quiet=as_json)
    except KeyboardInterrupt:
        say(f"the task goes on: `stepwell app logs {task['id']}`, `stepwell run cancel {task['id']}`")
        raise
    if as_json:
        print_json(task)
    elif task["status"] == TaskStatus.COMPLETED:
        for line in json.dumps(task["output"], indent=2, ensure_ascii=False).split("\n"):
            click.echo(printable(line))
    else:
        first, *more = (task["error"] or f"the task was {task['status_text']}").splitlines()
        say(printable(first), mark="✗", colour="red")
        for line in [*more, f"`stepwell run show {task['id']}` has the trace"]:
            say(printable(line))
    if session is not None and not as_json and task["session_id"]:
        say(f"session {bold(task['session_id'])}")
    sys.exit(0 if task["status"] == TaskStatus.COMPLETED else 1)


def _followed(api: Api, task: str, *, quiet: bool) -> dict[str, Any]:
    """The task once it has ended; what becomes of it until then is told, unless `quiet`."""
    last: str | None = None
    gone: float | None = None
    seen: dict[str, str] = {}
    status = 0

    def on_open() -> None:
        nonlocal gone
        gone = None

    while True:
        why = "it was stopped"
        try:
            for number, event in api.events(f"/tasks/{piece(task, 'ID')}/stream", last, on_open):
                last = number or last
                part = event if "id" in event else event.get("data", {})
                if not quiet:
                    if part.get("status", 0) > status:
                        status = part["status"]
                        say(dim(TaskStatus(status).name.lower().replace("_", " ")), mark="·")
                    _tell_logs(part.get("logs") or [], seen)
                if "id" in event and TaskStatus(event["status"]).final:
                    return dict(event)
        except ConnectionLost as err:
            why = str(err)
        if gone is None:
            gone = time.monotonic()
            if not quiet:
                say(f"the stream ended ({printable(why)}); asking again", mark="○", colour="yellow")
        elif time.monotonic() - gone > GONE_S:
            raise click.ClickException(
                f"no server answers at {api.url} for {GONE_S:.0f} s; the task {task} goes on when it is back"
            )
        time.sleep(0.5)


def _tell_logs(entries: list[dict[str, Any]], seen: dict[str, str]) -> None:
    """The lines that are new: each entry has the whole text."""
    for entry in entries:
        before, text = seen.get(entry["id"], ""), entry["content"]
        seen[entry["id"]] = text
        for line in text.removeprefix(before).splitlines():
            if line.strip():
                say(dim(printable(line)))


@click.command()
@click.argument("task", metavar="TASK")
@url_option
@json_option
def logs(task: str, url: str, key: str | None, as_json: bool) -> None:
    """Print what was logged of the task TASK: while its app was set up, and while it ran."""
    found = Api(url, key).get(f"/tasks/{piece(task, 'TASK')}/logs")["data"]
    if as_json:
        print_json(found)
        return
    for entry in found["logs"]:
        for line in entry["content"].splitlines():
            click.echo(printable(line))


@click.command("list")
@url_option
@json_option
def list_apps(url: str, key: str | None, as_json: bool) -> None:
    """List the apps of a server."""
    found = _all(Api(url, key), "/apps/list")
    if as_json:
        print_json(found)
        return
    rows = [
        {
            "app": f"{one['namespace']}/{one['name']}",
            "version": one["version"]["short_id"],
            "functions": ", ".join(one["version"]["functions"]),
            "updated": ago_text(instant_of(one["updated_at"])),
            "description": printable(one["description"])[:60],
        }
        for one in found
    ]
    table(rows, ("app", "version", "functions", "updated", "description"))


@click.command()
@click.argument("reference", metavar="REF")
@url_option
@json_option
def show(reference: str, url: str, key: str | None, as_json: bool) -> None:
    """Show the app REF: its functions, and what they take."""
    found = _app(Api(url, key), reference)
    if as_json:
        print_json(found)
        return
    version = found["version"]
    name = f"{found['namespace']}/{found['name']}@{version['short_id']}"
    click.echo(f"{bold(name)}  {version['kernel']}  {printable(found['description'])}")
    for function in version["functions"].values():
        click.echo(f"\n{function['name']}  {dim(printable(function['description']))}")
        schema = function["input_schema"] or {}
        for field, about in (schema.get("properties") or {}).items():
            needed = "required" if field in (schema.get("required") or ()) else ""
            said = [str(about.get("type", "")), needed, str(about.get("description", ""))]
            click.echo(printable(f"  {field}  " + "  ".join(one for one in said if one)))


@click.command()
@click.argument("reference", metavar="REF")
@url_option
@json_option
def versions(reference: str, url: str, key: str | None, as_json: bool) -> None:
    """List the versions of the app REF, the newest first."""
    api = Api(url, key)
    app = _app(api, read_reference(utf8(reference, "REF")).app)
    found = _all(api, f"/apps/{piece(app['id'], 'REF')}/versions/list")
    if as_json:
        print_json(found)
        return
    rows = [
        {
            "version": one["short_id"],
            "made": ago_text(instant_of(one["created_at"])),
            "kernel": one["kernel"],
            "": "current" if one["id"] == app["version_id"] else "",
        }
        for one in found
    ]
    table(rows, ("version", "made", "kernel", ""))


@click.command()
@click.argument("reference", metavar="NAMESPACE/NAME")
@url_option
def remove(reference: str, url: str, key: str | None) -> None:
    """Remove an app with all its versions. What was run of it stays."""
    if read_reference(utf8(reference, "NAMESPACE/NAME")).version:
        raise click.UsageError("an app goes with all its versions: name it without `@version`")
    api = Api(url, key)
    found = _app(api, reference)
    api.delete(f"/apps/{piece(found['id'], 'NAMESPACE/NAME')}")
    say(f"{found['namespace']}/{found['name']} is removed", mark="✓", colour="green")


def _app(api: Api, reference: str) -> dict[str, Any]:
    wanted = read_reference(utf8(reference, "REF"))
    version = f"@{wanted.version}" if wanted.version else ""
    path = "/".join(piece(part, "REF") for part in f"{wanted.app}{version}".split("/"))
    found: dict[str, Any] = api.get(f"/apps/{path}")["data"]
    return found


def _all(api: Api, path: str) -> list[dict[str, Any]]:
    """All items of a list, over as many pages as it has."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = api.post(path, {"limit": PAGE, "cursor": cursor})["data"]
        found += page["items"]
        cursor = page["next_cursor"]
        if not cursor:
            return found
