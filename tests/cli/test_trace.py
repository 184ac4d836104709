"""`stepwell run show` on a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.cli.trace import clipped, print_run


def failing(status: str, *errors: dict[str, Any] | None) -> dict[str, Any]:
    attempts: list[dict[str, Any]] = [
        {"name": "Attempt", "status": "FAILED", "error": one, "children": []} for one in errors
    ]
    return {"name": "charge", "status": status, "error": None, "children": attempts}


def with_stack(text: str) -> dict[str, Any]:
    return {"name": "E", "message": "m", "stack": text}


def test_the_traceback_of_the_run_and_of_open_steps_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    steps = [
        failing("FAILED", with_stack("first"), with_stack("same")),
        failing("RUNNING", with_stack("other\n  line\x1b[2J"), None),
        failing("COMPLETED", with_stack("long forgotten")),
    ]
    print_run({"function": "shop", "error": with_stack("same"), "trace": {"children": steps}}, [])
    assert capsys.readouterr().out.splitlines() == [
        *("", "shop failed", "  same"),
        *("", "charge failed", "  other", "    line [2J"),
        "",
    ]


def test_lines_are_not_cut_when_they_go_to_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    print_run({}, [[["name", "a\x1bb" * 100], ["plain", "   "]]])
    assert capsys.readouterr().out == "a b" * 100 + "\n\n"


def test_a_line_is_cut_to_the_width_of_the_terminal() -> None:
    pieces = [("tree", "└─ "), ("name", "charge   "), ("bad", "ValueError")]
    assert clipped(pieces, 22) == pieces
    assert clipped(pieces, 15) == [("tree", "└─ "), ("name", "charge   "), ("bad", "Va"), ("detail", "…")]
    assert clipped(pieces, 12) == [("tree", "└─ "), ("name", "charge"), ("bad", ""), ("detail", "…")]
