"""How small things are written everywhere in this protocol."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import overload

from stepwell.model.ids import Instant

_SHORT = 8


@overload
def instant(at: Instant) -> str: ...
@overload
def instant(at: None) -> None: ...
def instant(at: Instant | None) -> str | None:
    """RFC 3339 with milliseconds, in UTC."""
    if at is None:
        return None
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def short_id(id: str) -> str:
    """The end of an id, for people to recognise it by; never what something is found by."""
    return id[-_SHORT:].lower()
