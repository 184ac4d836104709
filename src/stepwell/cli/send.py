"""`stepwell send`: send one event, and watch what comes of it."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

from stepwell.cli.api import Api, piece, url_option, utf8
from stepwell.cli.follow import follow_runs
from stepwell.cli.output import bold, dim, print_json, say
from stepwell.model.payload import canonical


@click.command()
@click.argument("name")
@click.argument("data", required=False)
@url_option
@click.option("--id", "event_id", help="The sender's id: an event sent twice with one id starts its runs once.")
@click.option(
    "--event-key",
    envvar=["STEPWELL_EVENT_KEY", "INNGEST_EVENT_KEY"],
    default="local",
    help="Needed when the server asks for one.",
)
@click.option("--follow", "-f", is_flag=True, help="Stay until the runs it starts have ended; exit 1 if one fails.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def send(
    name: str,
    data: str | None,
    url: str,
    key: str | None,
    event_id: str | None,
    event_key: str,
    follow: bool,
    as_json: bool,
) -> None:
    """Send the event NAME with DATA.

    DATA is a JSON object; `-` reads it from standard input.

    \b
    stepwell send shop/order.placed '{"id": "o1"}' --follow
    """
    body: dict[str, Any] = {"name": utf8(name, "NAME"), "data": _data(data)}
    if event_id:
        body["id"] = utf8(event_id, "--id")
    api = Api(url, key)
    answer = api.post(f"/e/{piece(event_key, '--event-key')}", body, **{"x-inngest-event-id-seed": _seed()})
    if not as_json:
        say(f"{bold(name)} {dim(answer['ids'][0])}", mark="✓", colour="green")
    runs = follow_runs(api, answer["ids"][0], quiet=as_json) if follow else []
    if as_json:
        print_json({**answer, "runs": runs} if follow else answer)
    sys.exit(0 if all(run["status"] == "COMPLETED" for run in runs) else 1)


def _data(text: str | None) -> Any:
    if text is None:
        return {}
    source = "DATA"
    try:
        if text == "-":
            source = "standard input"
            text = sys.stdin.buffer.read().decode()
        value = json.loads(utf8(text, source), parse_constant=_refuse)
    except RecursionError as err:
        raise click.UsageError(f"{source} is nested too deeply; flatten it") from err
    except ValueError as err:
        raise click.UsageError(f"{source} is not JSON: {err}") from err
    if not isinstance(value, dict):
        raise click.UsageError(f'{source} must be a JSON object like {{"n": 1}}, not {type(value).__name__}')
    from stepwell.sdk.errors import StepResultNotPortable
    from stepwell.sdk.types import GIVEN, refuse_large_integers

    try:
        canonical(value)
        refuse_large_integers(value, source, GIVEN)
    except StepResultNotPortable as err:
        raise click.UsageError(str(err)) from err
    except RecursionError as err:
        raise click.UsageError(f"{source} is nested too deeply; flatten it") from err
    except ValueError as err:
        raise click.UsageError(f"{source} cannot be sent: {err}") from err
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"it has no {constant}; write null, or a text")


def _seed() -> str:
    import base64
    import time

    return f"{time.time_ns() // 1_000_000},{base64.b64encode(os.urandom(10)).decode()}"
