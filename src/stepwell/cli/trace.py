"""One run on the terminal: the lines come from the server, the colours from here."""

from __future__ import annotations

import json
from typing import Any

import click

from stepwell.cli.output import dim

_STYLES: dict[str, dict[str, Any]] = {
    "tree": {"dim": True},
    "time": {"dim": True},
    "detail": {"dim": True},
    "heading": {"bold": True},
    "good": {"fg": "green"},
    "bad": {"fg": "red"},
    "busy": {"fg": "blue"},
    "idle": {"fg": "cyan"},
}


def print_run(detail: dict[str, Any], lines: list[list[list[str]]]) -> None:
    """Print the trace, then what went in and what came out."""
    for line in lines:
        click.echo("".join(click.style(text, **_STYLES.get(role, {})) for role, text in line).rstrip())
    click.echo()
    for event in detail.get("events", ()):
        click.echo(f"{dim('event ')} {event['name']} {_short(event.get('data'))}")
    if detail.get("output") is not None:
        click.echo(f"{dim('output')} {_short(detail['output'])}")


def _short(value: Any, limit: int = 400) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters; --json shows all)"
