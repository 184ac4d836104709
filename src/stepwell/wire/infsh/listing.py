"""Lists: what part of a collection somebody asks for, and the page they get.

    {"cursor", "limit", "direction", "search": {term, exact},
     "filters": [{field, operator, value}], "sort": [{field, dir}]}
    {"items", "next_cursor", "prev_cursor", "has_next", "has_previous", "items_per_page"}

A cursor is the key of an item: a page begins after it, or, with `direction: prev`, ends before it. Everything in the
request may be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec

from stepwell.model.errors import InvalidInput
from stepwell.wire.infsh.request import read_body

DEFAULT_LIMIT = 50
MOST = 100


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """A text that an item has somewhere, or is, whatever the case of its letters."""

    term: str = ""
    exact: bool = False

    def holds(self, *texts: str) -> bool:
        term = self.term.strip().lower()
        if self.exact:
            return not term or term in (text.lower() for text in texts)
        return any(term in text.lower() for text in texts)


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """A condition on one field."""

    field: str
    operator: str = "eq"
    value: Any = None

    def holds(self, found: Any) -> bool:
        """Whether it holds for the value of an item. Values of other kinds than expected fit nothing."""
        return _OPERATORS[self.operator](found, self.value)


class Sort(msgspec.Struct, frozen=True, kw_only=True):
    field: str
    dir: str = "asc"


class _Body(msgspec.Struct, kw_only=True):
    cursor: str | None = None
    limit: int | None = None
    direction: str | None = None
    search: Search | None = None
    filters: list[Filter] | None = None
    sort: list[Sort] | None = None


class ListRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants to see. `backward`: the items before the cursor."""

    cursor: str = ""
    limit: int = DEFAULT_LIMIT
    backward: bool = False
    search: Search = Search()
    filters: tuple[Filter, ...] = ()
    sort: tuple[Sort, ...] = ()

    def holds(self, item: Mapping[str, Any]) -> bool:
        """Whether all filters hold for the fields of an item."""
        return all(one.holds(item.get(one.field)) for one in self.filters)

    def descending(self, field: str) -> bool:
        """Whether the last ones by that field come first, which they do when nothing is said."""
        for one in self.sort:
            if one.field == field:
                return one.dir == "desc"
        return True


def read_list(text: bytes, fields: Collection[str], sorts: Collection[str] = ()) -> ListRequest:
    """Read a request for a list.

    Args:
        fields: Those that filters may name.
        sorts: Those that items may be sorted by.

    Raises:
        InvalidInput: A member cannot be read, or names a field that is none of these.
    """
    body = read_body(text, _Body)
    if body.direction not in (None, "", "next", "prev"):
        raise InvalidInput(f"direction is next or prev, not {body.direction[:40]!r}", field="direction")
    for one in body.filters or ():
        if one.field not in fields:
            raise _unknown("filters", one.field, fields)
        if one.operator not in _OPERATORS:
            raise InvalidInput(
                f"operator {one.operator[:40]!r} is not one of {', '.join(_OPERATORS)}", field="filters.operator"
            )
    for sort in body.sort or ():
        if sort.field not in sorts:
            raise _unknown("sort", sort.field, sorts)
        if sort.dir not in ("asc", "desc"):
            raise InvalidInput(f"dir is asc or desc, not {sort.dir[:40]!r}", field="sort.dir")
    return ListRequest(
        cursor=body.cursor or "",
        limit=max(1, min(body.limit if body.limit is not None else DEFAULT_LIMIT, MOST)),
        backward=body.direction == "prev",
        search=body.search or Search(),
        filters=tuple(body.filters or ()),
        sort=tuple(body.sort or ()),
    )


def _unknown(what: str, field: str, known: Collection[str]) -> InvalidInput:
    return InvalidInput(
        f"{what} may name {', '.join(sorted(known)) or 'no field'} here, not {field[:60]!r}", field=f"{what}.field"
    )


def page(
    items: Sequence[object], *, limit: int = DEFAULT_LIMIT, following: str = "", preceding: str = ""
) -> dict[str, Any]:
    """A page. `following` and `preceding` are cursors; empty: there is nothing there."""
    return {
        "items": items,
        "next_cursor": following,
        "prev_cursor": preceding,
        "has_next": bool(following),
        "has_previous": bool(preceding),
        "items_per_page": limit,
    }


def page_of(wanted: ListRequest, items: Sequence[tuple[str, object]]) -> dict[str, Any]:
    """The page that somebody wants of a whole collection that is at hand: items with their keys, in order."""
    keys = [key for key, _ in items]
    start = 0
    if wanted.cursor:
        if wanted.cursor not in keys:
            raise InvalidInput("cursor is not one of this list, or its item is gone; begin without one", field="cursor")
        at = keys.index(wanted.cursor)
        start = max(0, at - wanted.limit) if wanted.backward else at + 1
        end = at if wanted.backward else start + wanted.limit
    else:
        end = wanted.limit
    shown = items[start:end]
    return page(
        [item for _, item in shown],
        limit=wanted.limit,
        following=shown[-1][0] if shown and end < len(items) else "",
        preceding=shown[0][0] if shown and start > 0 else "",
    )


def _same_kind(found: Any, wanted: Any) -> bool:
    numbers = (int, float)
    return (isinstance(found, numbers) and isinstance(wanted, numbers)) or (
        isinstance(found, str) and isinstance(wanted, str)
    )


def _like(found: Any, wanted: Any) -> bool:
    if not (isinstance(found, str) and isinstance(wanted, str)):
        return False
    text, pattern = found.lower(), wanted.lower()
    begins, ends = pattern.startswith("%"), pattern.endswith("%")
    inner = pattern.strip("%")
    if begins and ends:
        return inner in text
    if begins:
        return text.endswith(inner)
    return text.startswith(inner) if ends else text == inner


def _contains(found: Any, wanted: Any) -> bool:
    if isinstance(found, str):
        return isinstance(wanted, str) and wanted.lower() in found.lower()
    return isinstance(found, list) and wanted in found


def _empty(found: Any) -> bool:
    return found is None or found in ("", [], {})


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda found, wanted: bool(found == wanted),
    "neq": lambda found, wanted: bool(found != wanted),
    "in": lambda found, wanted: isinstance(wanted, list) and found in wanted,
    "not_in": lambda found, wanted: isinstance(wanted, list) and found not in wanted,
    "gt": lambda found, wanted: _same_kind(found, wanted) and found > wanted,
    "gte": lambda found, wanted: _same_kind(found, wanted) and found >= wanted,
    "lt": lambda found, wanted: _same_kind(found, wanted) and found < wanted,
    "lte": lambda found, wanted: _same_kind(found, wanted) and found <= wanted,
    "like": _like,
    "ilike": _like,
    "contains": _contains,
    "not_contains": lambda found, wanted: not _contains(found, wanted),
    "is_null": lambda found, _: found is None,
    "is_not_null": lambda found, _: found is not None,
    "is_empty": lambda found, _: _empty(found),
    "is_not_empty": lambda found, _: not _empty(found),
}
