"""Lists: requests, filters, pages."""

import json
from typing import Any

import pytest

from stepwell.model.errors import InvalidInput
from stepwell.wire.infsh.listing import ListRequest, Search, page_of, read_list

FIELDS = {"status", "name", "count"}


def read(**body: Any) -> ListRequest:
    return read_list(json.dumps(body).encode(), FIELDS, {"created_at"})


def test_nothing_need_be_said() -> None:
    assert read_list(b"", FIELDS) == ListRequest() == read(cursor=None, filters=None)


@pytest.mark.parametrize(
    ("operator", "value", "found", "holds"),
    [
        ("eq", 10, 10, True),
        ("neq", 10, 10, False),
        ("in", [10, 11], 11, True),
        ("not_in", [10, 11], 11, False),
        ("gt", 3, 4, True),
        ("gt", "a", 4, False),
        ("lte", 4, 4, True),
        ("like", "ab%", "ABC", True),
        ("ilike", "%bc", "ABC", True),
        ("like", "b", "abc", False),
        ("contains", "B", "abc", True),
        ("not_contains", "B", "abc", False),
        ("is_null", None, None, True),
        ("is_not_null", None, None, False),
        ("is_empty", None, "", True),
        ("is_not_empty", None, "", False),
    ],
)
def test_operators(operator: str, value: object, found: object, holds: bool) -> None:
    wanted = read(filters=[{"field": "name", "operator": operator, "value": value}])
    assert wanted.holds({"name": found}) is holds


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"filters": [{"field": "secret"}]}, "filters.field"),
        ({"filters": [{"field": "name", "operator": "regex"}]}, "filters.operator"),
        ({"sort": [{"field": "name"}]}, "sort.field"),
        ({"sort": [{"field": "created_at", "dir": "up"}]}, "sort.dir"),
        ({"direction": "left"}, "direction"),
        ({"limit": "many"}, "limit"),
    ],
)
def test_only_listed_fields_and_operators(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(**body)
    assert caught.value.field == field


def test_limits_are_kept_within_bounds() -> None:
    assert [read(limit=one).limit for one in (-1, 0, 7, 1_000_000)] == [1, 1, 7, 100]


def test_the_newest_come_first_unless_somebody_says_otherwise() -> None:
    assert read().descending("created_at")
    assert not read(sort=[{"field": "created_at", "dir": "asc"}]).descending("created_at")


def test_pages_lead_forth_and_back() -> None:
    items = [(str(number), number) for number in range(5)]
    first = page_of(ListRequest(limit=2), items)
    assert (first["items"], first["has_next"], first["has_previous"]) == ([0, 1], True, False)
    second = page_of(ListRequest(limit=2, cursor=first["next_cursor"]), items)
    assert (second["items"], second["has_next"], second["has_previous"]) == ([2, 3], True, True)
    last = page_of(ListRequest(limit=2, cursor=second["next_cursor"]), items)
    assert (last["items"], last["has_next"], last["next_cursor"]) == ([4], False, "")
    back = page_of(ListRequest(limit=2, cursor=last["prev_cursor"], backward=True), items)
    assert (back["items"], back["has_next"], back["has_previous"]) == ([2, 3], True, True)
    with pytest.raises(InvalidInput):
        page_of(ListRequest(cursor="9"), items)


def test_search_ignores_case_and_may_be_exact() -> None:
    assert Search(term="Stitch").holds("acme/stitch")
    assert not Search(term="stitch", exact=True).holds("acme/stitch")
    assert Search(term="ACME/stitch", exact=True).holds("acme/stitch")
    assert Search().holds("anything")
    assert Search(exact=True).holds()
