"""The scalars of the schema: ids, times, and JSON in two forms.

`Bytes` is JSON text in a string (trap 49); `Map` and `Unknown` are JSON itself.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from graphql import GraphQLError, GraphQLScalarType, GraphQLSchema

from stepwell.model.duration import parse_time
from stepwell.model.ids import ulid_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell.model.ids import Instant

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def time_text(at: Instant) -> str:
    """RFC 3339 with milliseconds."""
    moment = _EPOCH + timedelta(milliseconds=at)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{at % 1000:03}Z"


def attach(schema: GraphQLSchema) -> None:
    """Give the scalars of a schema their meaning."""
    parsers: dict[str, Callable[[Any], Any]] = {
        "ULID": _ulid, "UUID": _uuid, "Time": _time, "Bytes": _bytes, "Map": _map, "Unknown": _same,
    }  # fmt: skip
    for name, parser in parsers.items():
        scalar = schema.type_map[name]
        assert isinstance(scalar, GraphQLScalarType)
        # The older names are still asked for literals inside a query.
        scalar.coerce_input_value = parser
        scalar.parse_value = parser  # type: ignore[method-assign, assignment]
        if name == "Time":
            scalar.coerce_output_value = _written_time


def _written_time(value: Any) -> str:
    assert isinstance(value, int), "times are milliseconds here"
    return time_text(value)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise GraphQLError(f"{what} is text, not {value!r:.60}")
    return value


def _ulid(value: Any) -> str:
    text = _text(value, "a ULID").upper()
    try:
        ulid_time(text)
    except ValueError as err:
        raise GraphQLError(str(err)) from None
    return text


def _uuid(value: Any) -> str:
    try:
        return str(UUID(_text(value, "a UUID")))
    except ValueError:
        raise GraphQLError(f"{value!r:.60} is not a UUID") from None


def _time(value: Any) -> Instant:
    moment = parse_time(_text(value, "a time"))
    if moment is None:
        raise GraphQLError(f"{value!r:.60} is not a time such as 2026-03-04T12:00:00Z")
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _bytes(value: Any) -> str:
    return _text(value, "a value of type Bytes")


def _map(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise GraphQLError(f"a map is a JSON object, not {value!r:.60}")
    return value


def _same(value: Any) -> Any:
    return value
