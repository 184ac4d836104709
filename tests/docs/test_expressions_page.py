"""The page on expressions says what is true: each example is evaluated, and no function is left out."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from stepwell.engine import expr
from stepwell.engine.expr.functions import FUNCTIONS

PAGE = (Path(__file__).parents[2] / "docs" / "expressions.md").read_text(encoding="utf-8")
NOON_MS = 1_772_625_600_000
EVENT: dict[str, Any] = json.loads(re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1])  # type: ignore[index]
VARIABLES: dict[str, Any] = {"event": EVENT, "async": {"data": {"orderId": 7.0}}}

ROWS = re.findall(r"^\| `(.+?)` \| (`.+?`|error) \|", PAGE, re.MULTILINE)
KINDS = re.findall(r"^\| `(failed|missing|unlike)` \| `(.+?)` \|", PAGE, re.MULTILINE)
BLOCKS = re.findall(r"^```text( refused)?\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
EXAMPLES = [(text, gives) for text, gives in ROWS if text not in {"failed", "missing", "unlike"}]
CONDITIONS = [line for refused, block in BLOCKS if not refused for line in block.splitlines()]
REFUSED = [line for refused, block in BLOCKS if refused for line in block.splitlines()]


def test_the_page_is_read_as_it_is_meant() -> None:
    assert len(EXAMPLES) > 80
    assert len(KINDS) == 4
    assert len(CONDITIONS) == 4
    assert len(REFUSED) == 3
    assert EVENT["ts"] == NOON_MS


@pytest.mark.parametrize(("text", "gives"), EXAMPLES)
def test_an_example_gives_what_the_page_says(text: str, gives: str) -> None:
    program = expr.compile(text)
    if gives == "error":
        with pytest.raises(expr.EvaluationError):
            program.evaluate(VARIABLES, NOON_MS)
        return
    found, told = program.evaluate(VARIABLES, NOON_MS), json.loads(gives.strip("`"))
    assert found == told
    assert isinstance(found, bool) == isinstance(told, bool)


@pytest.mark.parametrize("text", CONDITIONS)
def test_a_condition_holds(text: str) -> None:
    assert expr.compile(text).matches(VARIABLES, NOON_MS)


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(expr.ExpressionError):
        expr.compile(text)


@pytest.mark.parametrize(("kind", "text"), KINDS)
def test_a_mismatch_is_of_the_kind_the_page_says(kind: str, text: str) -> None:
    found = expr.compile(text).mismatch(VARIABLES, NOON_MS)
    assert found is not None
    assert found.kind == kind


@pytest.mark.parametrize("text", ["event.data.amount > 500", "event.data.missing != null"])
def test_an_ordinary_false_is_not_mentioned(text: str) -> None:
    assert f"`{text}`" in PAGE
    assert not expr.compile(text).matches(VARIABLES, NOON_MS)
    assert expr.compile(text).mismatch(VARIABLES, NOON_MS) is None


def test_every_function_has_an_example() -> None:
    written = "\n".join(text for text, _ in EXAMPLES)
    assert [name for name in FUNCTIONS if f"{name}(" not in written] == []


@pytest.mark.parametrize(
    "limit", [expr.MAX_TEXT_LENGTH, expr.MAX_DEPTH, expr.MAX_LOOPS, expr.MAX_COST, expr.MAX_RESULT_LENGTH,
              expr.MAX_PATTERN_LENGTH]
)  # fmt: skip
def test_a_limit_is_named(limit: int) -> None:
    limits = PAGE[PAGE.index("## Limits") : PAGE.index("## When it does not match")]
    assert re.search(rf"(?<![\d,]){limit:,}(?![\d,])", limits)
