"""Two runs side by side on the terminal."""

from __future__ import annotations

import json
import shutil
import textwrap
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from stepwell.cli.output import bold, dim, duration_text, error_text, printable, status_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_WIDEST = 160
_NARROWEST = 60
_NAMES = 16  # letters for what a line is about
_MOST_LINES = 12
"""Of one text; `--json` has all of it."""

_Row = tuple[str, str, str]


def print_comparison(compared: dict[str, Any]) -> None:
    """Print both runs, then each step of which something differs; what differs is in bold."""
    width = max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size().columns))
    column = (width - _NAMES - 4) // 2
    old, new = compared["old"], compared["new"]
    click.echo(bold(printable(compared["function"])))
    _print_rows(_of_runs(old, new), column)
    same = []
    for step in compared["steps"]:
        if step["same"]:
            same.append(step["name"])
            continue
        click.echo()
        kind = (step["old"] or step["new"])["kind"].removeprefix("step.")
        click.echo(f"{bold(printable(step['name']))}  {dim(kind)}")
        _print_rows(_of_steps(step["old"], step["new"]), column)
    if same:
        click.echo()
        click.echo(dim(f"the same in both: {printable(', '.join(same))}"))


def _of_runs(old: dict[str, Any], new: dict[str, Any]) -> Iterator[_Row]:
    yield "run", old["id"], new["id"]
    yield from _measures(old, new)
    yield "output", _text(old["output"]), _text(new["output"])
    yield "error", _error(old), _error(new)


def _of_steps(old: dict[str, Any] | None, new: dict[str, Any] | None) -> Iterator[_Row]:
    before, after = old or {}, new or {}
    yield "", "" if old else "(not reached)", "" if new else "(not reached)"
    yield "", _origin(before), _origin(after)
    yield from _measures(before, after)
    yield "attempts", _more_than_one(before), _more_than_one(after)
    yield "first token", _length(before, "first_token_ms"), _length(after, "first_token_ms")
    yield "model", before.get("model") or "", after.get("model") or ""
    for name in dict.fromkeys([*before.get("parameters", {}), *after.get("parameters", {})]):
        one, other = (_text(side.get("parameters", {}).get(name)) for side in (before, after))
        yield name, one, other
    asked, asks = before.get("prompt") or [], after.get("prompt") or []
    for place in range(max(len(asked), len(asks))):
        said, says = (side[place] if place < len(side) else {} for side in (asked, asks))
        yield (said or says)["role"], said.get("text", ""), says.get("text", "")
    for name in ("answer", "input", "output"):
        yield name, _text(before.get(name)), _text(after.get(name))
    yield "error", _error(before), _error(after)


def _measures(old: dict[str, Any], new: dict[str, Any]) -> Iterator[_Row]:
    before, after = (status_text(side["status"]) if side else "" for side in (old, new))
    yield "status", before, after
    yield "took", _length(old, "duration_ms"), _length(new, "duration_ms")
    yield "tokens", _tokens(old), _tokens(new)
    yield "cost", _cost(old), _cost(new)


def _print_rows(rows: Iterable[_Row], column: int) -> None:
    for name, old, new in rows:
        if not old and not new:
            continue
        differs = click.unstyle(old) != click.unstyle(new) and name != "run"
        left, right = _wrapped(old, column), _wrapped(new, column)
        for line in range(max(len(left), len(right))):
            one = left[line] if line < len(left) else ""
            other = right[line] if line < len(right) else ""
            gap = " " * (column - len(click.unstyle(one)))
            head = dim(f"{printable(name)[:_NAMES]:<{_NAMES}}") if line == 0 else " " * _NAMES
            click.echo(f"{head}  {one}{gap}  {bold(other) if differs else other}".rstrip())


def _wrapped(text: str, width: int) -> list[str]:
    if len(click.unstyle(text)) <= width and "\n" not in text:
        return [text]
    lines = [
        line
        for part in text.splitlines() or [""]
        for line in textwrap.wrap(printable(part), width, replace_whitespace=False) or [""]
    ]
    return lines if len(lines) <= _MOST_LINES else [*lines[: _MOST_LINES - 1], "… (--json has more)"]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _error(side: dict[str, Any]) -> str:
    return error_text(side["error"]) if side.get("error") is not None else ""


def _origin(side: dict[str, Any]) -> str:
    if side.get("origin"):
        return "kept from the record"
    return "edited input" if side.get("edited") else ""


def _more_than_one(side: dict[str, Any]) -> str:
    return str(side["attempts"]) if (side.get("attempts") or 0) > 1 else ""


def _length(side: dict[str, Any], name: str) -> str:
    return duration_text(side[name]) if side.get(name) is not None else ""


def _tokens(side: dict[str, Any]) -> str:
    if side.get("input_tokens") is None or side.get("output_tokens") is None:
        return ""
    return f"{side['input_tokens']} → {side['output_tokens']}"


def _cost(side: dict[str, Any]) -> str:
    return f"${Decimal(side['cost_usd']):f}" if side.get("cost_usd") is not None else ""
