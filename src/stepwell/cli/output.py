"""What the commands print: few lines, aligned, coloured only for a person's terminal."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

STATUS_COLOURS = {
    "COMPLETED": "green",
    "RUNNING": "blue",
    "QUEUED": "cyan",
    "SCHEDULED": "cyan",
    "SLEEPING": "cyan",
    "WAITING": "cyan",
    "INVOKING": "cyan",
    "RETRYING": "yellow",
    "FAILED": "red",
    "CANCELLED": "yellow",
}
STATUS_MARKS = {"COMPLETED": "✓", "RUNNING": "●", "QUEUED": "○", "RETRYING": "↻", "FAILED": "✗", "CANCELLED": "⊘"}


def say(text: str = "", *, mark: str = " ", colour: str | None = None) -> None:
    """One line for a person, on standard error so that output can be piped."""
    head = click.style(mark, fg=colour, bold=True) if mark.strip() else mark
    click.echo(f" {head} {text}", err=True)


def tell(text: str, *, as_json: bool, mark: str = " ", colour: str | None = None) -> None:
    """A line about the life of a server: `say`, or a line of the log where that is JSON."""
    if as_json:
        logging.getLogger("stepwell").info(click.unstyle(text))
    else:
        say(text, mark=mark, colour=colour)


def dim(text: str) -> str:
    return click.style(text, dim=True)


def bold(text: str) -> str:
    return click.style(text, bold=True)


def status_text(status: str) -> str:
    """A run's status with its mark, in its colour."""
    return click.style(f"{STATUS_MARKS.get(status, '·')} {status.lower()}", fg=STATUS_COLOURS.get(status))


def printable(text: str) -> str:
    """One line that a terminal only shows: control characters, which could move its cursor, become spaces."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def error_text(error: Any) -> str:
    """An error object in one line: `ValueError: bad row`."""
    if not isinstance(error, dict):
        return printable(error if isinstance(error, str) else json.dumps(error, ensure_ascii=False))
    parts = [str(error[name]) for name in ("name", "message") if error.get(name)]
    return printable(": ".join(parts)).strip() or "an error without a message"


def stack_lines(error: Any) -> list[str]:
    """The traceback in an error object, if the worker sent one."""
    stack = error.get("stack") if isinstance(error, dict) else None
    return [printable(line.expandtabs()).rstrip() for line in stack.splitlines()] if isinstance(stack, str) else []


def print_json(value: Any) -> None:
    """For scripts: one JSON document on standard output."""
    click.echo(json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False))


def table(rows: Iterable[Mapping[str, str]], columns: Sequence[str]) -> None:
    """Aligned columns, as wide as their content. Widths count what is seen, not colour codes."""
    lines = [{name: row.get(name, "") for name in columns} for row in rows]
    widths = {name: max([len(name), *(len(click.unstyle(line[name])) for line in lines)]) for name in columns}
    click.echo(dim("  ".join(name.upper().ljust(widths[name]) for name in columns).rstrip()))
    for line in lines:
        cells = (line[name] + " " * (widths[name] - len(click.unstyle(line[name]))) for name in columns)
        click.echo("  ".join(cells).rstrip())


def duration_text(milliseconds: float) -> str:
    """A span of time in two units at most: `340 ms`, `2.1 s`, `3 m 20 s`, `2 d 4 h`."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    for size, unit, smaller_size, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if seconds >= size:
            rest = int(seconds % size // smaller_size)
            return f"{int(seconds // size)} {unit}" + (f" {rest} {smaller}" if rest else "")
    raise AssertionError("unreachable")


def plan_text(milliseconds: float) -> str:
    """A pause that is planned: `15 s`, where a measurement would be `15.0 s`."""
    return f"{round(milliseconds / 1000)} s" if 1000 <= milliseconds < 59_500 else duration_text(milliseconds)


def ago_text(at_ms: int) -> str:
    """How long ago a moment was."""
    return f"{duration_text(max(0, time.time() * 1000 - at_ms))} ago"


def instant_of(text: str) -> int:
    """Milliseconds since 1970 of an RFC 3339 time."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)
