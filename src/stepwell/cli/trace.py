"""One run on the terminal: the lines come from the server, the colours from here."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

import click

from stepwell.cli.output import bold, dim, printable, stack_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    """Print the trace, the tracebacks of what failed, then what went in and what came out.

    A terminal gets lines that fit, all but the heading, which has the whole error message; a file gets everything.
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    heading = True
    for line in lines:
        heading = heading and bool(line)
        pieces = clipped([(role, printable(text)) for role, text in line], None if heading else width)
        click.echo("".join(click.style(text, **_STYLES.get(role, {})) for role, text in pieces if text))
    for title, stack in _failures(detail):
        click.echo()
        click.echo(bold(title))
        for text in stack:
            click.echo(dim(f"  {text}"))
    click.echo()
    for event in detail.get("events", ()):
        click.echo(f"{dim('event ')} {printable(event['name'])} {_short(event.get('data'))}")
    if detail.get("output") is not None:
        click.echo(f"{dim('output')} {_short(detail['output'])}")


def clipped(pieces: list[tuple[str, str]], width: int | None) -> list[tuple[str, str]]:
    """The pieces of a line, cut to `width` letters with `…` at the cut, without spaces at the end."""
    text = "".join(text for _, text in pieces).rstrip()
    room = len(text)
    cut = width is not None and room > width
    if width is not None and cut:
        room = len(text[: max(0, width - 1)].rstrip())
    found = []
    for role, part in pieces:
        found.append((role, part[:room]))
        room -= len(part[:room])
    return [*found, ("detail", "…")] if cut else found


def _failures(detail: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """What failed and its traceback: the run, then steps whose traceback is not the run's."""
    seen = []
    own = [(f"{detail.get('function', 'Run')} failed", detail.get("error"))]
    for title, error in [*own, *_step_errors(detail.get("trace") or {})]:
        stack = stack_lines(error)
        if stack and stack not in seen:
            seen.append(stack)
            yield title, stack


def _step_errors(span: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The last error of each step that has not completed."""
    for child in span.get("children", ()):
        if child["status"] == "COMPLETED":
            continue
        errors = [one["error"] for one in (*child["children"], child) if one.get("error") is not None]
        if errors:
            yield f"{printable(child['name'])} failed", errors[-1]


def _short(value: Any, limit: int = 400) -> str:
    text = printable(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters; --json shows all)"
