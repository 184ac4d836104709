"""An event: something that happened, as a sender told it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from stepwell.model.ids import EventKey, Instant
from stepwell.model.payload import Payload, canonical, decode

if TYPE_CHECKING:
    from collections.abc import Mapping

DEV_ENV = "00000000-0000-4000-b000-000000000000"
DEV_ACCOUNT = "00000000-0000-4000-a000-000000000000"

INVOKED = "inngest/function.invoked"
FINISHED = "inngest/function.finished"
FAILED = "inngest/function.failed"
CANCELLED = "inngest/function.cancelled"
TICK = "inngest/scheduled.timer"

MAX_NAME_BYTES = 512


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One received event.

    `body` is the whole event as functions see it, canonical: `{"data", "id", "name", "ts", "user"}` and `v` when
    given. `internal_id` is what the API answers; senders with a seed may make two events share it. `key` is unique.
    """

    key: EventKey
    internal_id: str
    id: str
    name: str
    ts: Instant
    received_at: Instant
    body: Payload
    env: str = DEV_ENV
    source: str = "api"


def event_body(
    *,
    name: str,
    id: str,
    ts: Instant,
    data: Mapping[str, Any],
    user: Mapping[str, Any] | None = None,
    v: str | None = None,
) -> bytes:
    """The canonical text of an event as functions see it."""
    body: dict[str, Any] = {"name": name, "id": id, "ts": ts, "data": dict(data), "user": dict(user or {})}
    if v:
        body["v"] = v
    return canonical(body)


def read_body(text: bytes) -> dict[str, Any]:
    """An event body as the expression language sees it."""
    value = decode(text)
    assert isinstance(value, dict)
    return value
