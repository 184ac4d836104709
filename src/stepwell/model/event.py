"""An event: something that happened, as a sender told it."""

from __future__ import annotations

from datetime import UTC, datetime
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


def tick_data(cron: str, occurrence: Instant, at: Instant) -> dict[str, str]:
    """The data of the event of an occurrence of a schedule that starts a function `at` some time."""
    return {"cron": cron, "scheduledAt": occurrence_text(occurrence), "fireAt": occurrence_text(at)}


def occurrence_text(at: Instant) -> str:
    """RFC 3339 in UTC, with milliseconds only where there are any: the id of the event of an occurrence."""
    moment = datetime.fromtimestamp(at / 1000, UTC)
    return moment.isoformat(timespec="milliseconds" if at % 1000 else "seconds").replace("+00:00", "Z")


def schedule_in(body: Payload) -> str | None:
    """The schedule that an event of the clock is an occurrence of, as its function registered it."""
    data = read_body(body).get("data") if isinstance(body, bytes) else None
    cron = data.get("cron") if isinstance(data, dict) else None
    return cron if isinstance(cron, str) else None


def read_body(text: bytes) -> dict[str, Any]:
    """An event body as the expression language sees it."""
    value = decode(text)
    assert isinstance(value, dict)
    return value
