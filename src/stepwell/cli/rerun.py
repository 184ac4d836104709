"""`stepwell rerun`: an ended run once more, perhaps with another prompt."""

from __future__ import annotations

import json
import sys
import uuid
from typing import Any

import click

from stepwell.cli.api import Api, given_json, piece, url_option, utf8
from stepwell.cli.compare import print_comparison
from stepwell.cli.follow import follow_run
from stepwell.cli.output import bold, dim, print_json, printable, say


@click.command()
@click.argument("run_id", metavar="ID")
@url_option
@click.option(
    "--from",
    "from_step",
    metavar="STEP",
    help="Keep the results before this step: its name, `name:1` for the second use of that name, or its id.",
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="PATH=VALUE",
    help="Change a part of the step's input (without --from, of the event's data); VALUE is JSON or text; repeatable.",
)
@click.option(
    "--input",
    "given",
    metavar="JSON",
    help="The whole new input instead: JSON, @FILE with it, or - for standard input.",
)
@click.option("--follow", "-f", is_flag=True, help="Stay until the new run has ended; exit 1 if it fails.")
@click.option("--compare", is_flag=True, help="Then show both runs side by side; follows it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rerun(
    run_id: str,
    url: str,
    key: str | None,
    from_step: str | None,
    changes: tuple[str, ...],
    given: str | None,
    follow: bool,
    compare: bool,
    as_json: bool,
) -> None:
    """Make the ended run ID again: all of it, or from a step on.

    What comes before the step is kept from the record and not done again.

    \b
    stepwell rerun ID --from draft --set model=gpt-4o-mini --set messages.0.content="Be brief." --compare
    """
    body: dict[str, Any] = {}
    if from_step is not None:
        body["from_step"] = utf8(from_step, "--from")
    if given is not None:
        body["input"] = given_json(given, "--input")
    if changes:
        body["set"] = dict(map(_change, changes))
    api = Api(url, key)
    # The key makes one run of this command, even if its request has to be sent twice.
    named = {"Idempotency-Key": str(uuid.uuid4())}
    made = api.post(f"/v1/runs/{piece(run_id, 'ID')}/rerun", body, **named)["data"]
    if not as_json:
        kept = "1 result" if made["kept"] == 1 else f"{made['kept']} results"
        since = f" from {printable(made['from_step'])!r} on, {kept} kept" if made["from_step"] else ""
        say(f"{bold(made['run_id'])} {dim(f'makes {run_id} again{since}')}", mark="↻", colour="green")
    detail = follow_run(api, made["run_id"], quiet=as_json) if follow or compare else None
    compared = api.get(f"/api/runs/{piece(run_id, 'ID')}/compare/{made['run_id']}") if compare else None
    if as_json:
        print_json({**made, "run": detail, "comparison": compared} if detail is not None else made)
    elif compared is not None:
        print_comparison(compared)
    sys.exit(0 if detail is None or detail["status"] == "COMPLETED" else 1)


def _change(text: str) -> tuple[str, Any]:
    path, separator, value = utf8(text, "--set").partition("=")
    if not separator or not path:
        raise click.UsageError(f"--set {printable(text)!r} must be PATH=VALUE, such as model=gpt-4o-mini")
    try:
        return path, json.loads(value)
    except (ValueError, RecursionError):
        return path, value
