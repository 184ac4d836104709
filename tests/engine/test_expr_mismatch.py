"""Which expressions look like a mistake when they do not match, and what reads the same in another type."""

from typing import Any

import pytest

from stepwell.engine import expr
from stepwell.engine.match import mismatch, reads

VARIABLES: dict[str, Any] = {
    "event": {"data": {"id": 7, "name": "Ada", "tags": ["a", "b"], "nothing": None}},
    "async": {"data": {"id": 7, "text": "7", "amount": 5, "tags": ["a"], "ok": False}},
}


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("async.data.text < 1", "failed", "cannot order a text and a number"),
        ("1 / 0 == 1", "failed", "zero"),
        ("async.data.missing", "failed", "gave missing or null"),
        ("async.data.missing && true", "failed", "gave missing or null"),
        ("async.data.missing == 5", "missing", "the condition is false: async.data.missing is missing or null"),
        ("async.data.id == event.data.missing", "missing", "event.data.missing is missing or null"),
        ("async.data.missing > 5", "missing", "async.data.missing is"),
        ("async.data.missing in ['a']", "missing", "async.data.missing is"),
        ("'a' in async.data.missing", "missing", "async.data.missing is"),
        ("async.data.missing.contains('a')", "missing", "async.data.missing is"),
        ("async.data.id == 7 && async.data.missing == 5", "missing", "condition 2 of 2 is false"),
        ("async.data.gone == 1 || async.data.missing == 5", "missing", "async.data.gone is"),
        ("async.data.id == '7'", "unlike", "async.data.id is a number, the right side is a text, and unlike types"),
        ("async.data.text == event.data.id", "unlike", "async.data.text is a text, event.data.id is a number"),
        ("async.data.id in ['7', '8']", "unlike", "async.data.id is a number, and there is none in the list"),
    ],
)
def test_a_likely_mistake_has_a_kind_and_a_reason(text: str, kind: str, words: str) -> None:
    found = mismatch(text, VARIABLES, 0)
    assert found is not None
    assert found.kind == kind
    assert words in found.reason


@pytest.mark.parametrize(
    "text",
    [
        "async.data.id == 7",
        "async.data.id == 8",
        "async.data.id != 7",
        "async.data.amount > 5",
        "async.data.missing != null",
        "async.data.id == null",
        "has(async.data.missing)",
        "!(async.data.amount == 5)",
        "async.data.ok",
        "async.data.id in [8, '7']",
        "async.data.id in []",
        "'z' in async.data.tags",
        "async.data.text.contains('z')",
        "async.data.missing == 5 || async.data.id == 8",
        "async.data.id == 8 && async.data.missing == 5",
        "async.data.tags.exists(tag, tag == 5)",
        " || ".join(f"async.data.missing == {number}" for number in range(30)),
    ],
)
def test_what_is_ordinarily_false_or_true_has_none(text: str) -> None:
    assert mismatch(text, VARIABLES, 0) is None


def test_a_text_that_is_no_expression_says_so_and_reads_nothing() -> None:
    found = mismatch("async.data.id = 7", VARIABLES, 0)
    assert found is not None
    assert found.kind is expr.MismatchKind.FAILED
    assert not reads("event = 7", "event")


def test_only_a_variable_counts_as_read() -> None:
    assert reads("async.data.id == event.data.id", "event")
    assert not reads("async.data.event == 'event'", "event")


@pytest.mark.parametrize(
    ("one", "other"), [(7, "7"), (-7, "-7"), (1.5, "1.5"), (7.0, "7"), (True, "true"), (False, "false"), ("7.0", 7)]
)
def test_what_reads_the_same_in_another_type_has_a_lookalike_key(one: object, other: object) -> None:
    for a, b in ((one, other), (other, one)) if one != "7.0" and one != 7.0 else ((one, other),):
        assert expr.lookalike_keys({"x": a}, "x") == (expr.equality_key({"x": b}, "x"),)
        assert expr.equality_key({"x": a}, "x") != expr.equality_key({"x": b}, "x")


@pytest.mark.parametrize(
    "value",
    [None, "Ada", "", "1e5", "7 up", "9" * 5000, [7], {"a": 7}, float("nan"), float("inf"), 2**64, 10**5000],
    ids=lambda value: type(value).__name__,
)
def test_what_reads_like_nothing_else_has_none(value: object) -> None:
    assert expr.lookalike_keys({"x": value}, "x") == ()
