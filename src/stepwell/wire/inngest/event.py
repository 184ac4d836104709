"""Events: what senders post, and the events that the server itself makes of runs.

A request holds one event or many. They are taken in order; the first bad one stops the request, and what came
before it stays accepted (trap 10), so the answer may carry ids and an error. Every event gets an internal ULID:
from the sender's seed if there is one, so that a repeated request names the same ids, else the server's own.

Fields that this server does not know are kept, since functions may, and reported with the request.

The events that tell of a run's end are made where runs are (`stepwell.node.endings`).

Protocol: sections 2.1 to 2.4, 2.9 and 5.5 of the Inngest wire protocol.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stepwell.model.errors import InvalidInput, TooLarge
from stepwell.model.event import DEV_ENV, INVOKED, MAX_NAME_BYTES, Event
from stepwell.model.ids import EventKey, Instant, ulid
from stepwell.model.payload import NULL, first_rounded, roundings
from stepwell.wire.inngest.text import EMPTY_OBJECT, compose, read, shortened, size, write

SEED_HEADER = "x-inngest-event-id-seed"
MAX_EVENTS = 5_000
MAX_ID_BYTES = 1024
MAX_EVENT_BYTES = 3 * 1024 * 1024
"""Of one event, canonical. Above the nominal 512 KiB, since official SDKs send events of 1 MB (section 2.1)."""
MAX_META_BYTES = 32 * 1024
MAX_SESSIONS = 5
MAX_SESSION_KEY_BYTES = 128
MAX_SESSION_ID_BYTES = 512
"""Of the sessions that an event belongs to (section 2.6)."""
EARLIEST_MS = 315_532_800_000
"""1980, in milliseconds since 1970; an earlier `ts` is a mistake in the unit."""
LATEST_MS = 4_102_444_800_000
"""2100."""

_RESERVED = "inngest/"
_FIELDS = frozenset({"name", "data", "user", "id", "ts", "v", "meta"})
_META = frozenset({"sessions", "propagated_sessions"})
_MAX_SHOWN = 60
_SEED = re.compile(r"([0-9]{1,15}),([A-Za-z0-9+/_=-]{1,32})")


@dataclass(frozen=True, slots=True)
class Seed:
    """What `x-inngest-event-id-seed` says: the time in milliseconds and ten bytes of entropy."""

    at: Instant
    entropy: bytes

    def ulid(self, n: int) -> str:
        """The internal id of the n-th event; the first is 1 on `/e/` and 0 on `/invoke/` (section 2.4)."""
        tail = (int.from_bytes(self.entropy[6:10]) + n) & 0xFFFFFFFF
        return ulid(self.at, int.from_bytes(self.entropy[:6]) << 32 | tail)


@dataclass(frozen=True, slots=True)
class Intake:
    """The events to store, in order, and what stopped the request, if anything did.

    `unknown` has the unknown fields of the events, each as the name of the event and that of the field, shortened;
    `rounded` for names of events one integer that was changed to be stored, and what it became.
    """

    events: tuple[Event, ...]
    error: InvalidInput | None = None
    unknown: frozenset[tuple[str, str]] = frozenset()
    rounded: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[str, ...]:
        """The internal ids to answer with."""
        return tuple(event.internal_id for event in self.events)


def read_seed(header: str | None) -> Seed | None:
    """Read a seed header; None if it is missing or invalid, which is ignored silently (section 2.4)."""
    match = _SEED.fullmatch((header or "").strip())
    if match is None or int(match[1]) >= 1 << 48:
        return None
    try:
        entropy = base64.b64decode(match[2], validate=True)
    except binascii.Error:
        return None
    return Seed(int(match[1]), entropy) if len(entropy) == 10 else None


def read_events(
    body: bytes,
    *,
    now: Instant,
    draw: Callable[[Instant], str],
    seed: Seed | None = None,
    env: str = DEV_ENV,
    source: str = "api",
    max_event_bytes: int = MAX_EVENT_BYTES,
) -> Intake:
    """Read the body of `POST /e/{key}`: one event, or an array of up to `MAX_EVENTS`.

    Never raises: what is wrong is in the result, beside the events that came before it. A body that is not
    JSON, or has too many events, accepts none.

    Args:
        now: When the request came, in milliseconds since 1970.
        draw: Gives a new ULID for a moment; called once for each accepted event.
        seed: Of the request's header; numbers its events from 1.
    """
    try:
        value = read(body)
    except ValueError as err:
        return Intake((), InvalidInput(f"the body is {err}; send one event as a JSON object, or an array of them"))
    items = value if isinstance(value, list) else [value]
    if len(items) > MAX_EVENTS:
        return Intake(
            (), InvalidInput(f"the request has {len(items)} events and may have {MAX_EVENTS}; send them in several")
        )
    events: list[Event] = []
    unknown: set[tuple[str, str]] = set()
    rounded: dict[str, tuple[int, int]] = {}
    for position, item in enumerate(items):
        since = roundings()
        try:
            event = read_event(
                item,
                now=now,
                key=draw(now),
                internal_id=seed.ulid(position + 1) if seed else None,
                env=env,
                source=source,
                max_event_bytes=max_event_bytes,
            )
        except InvalidInput as err:
            if len(items) == 1:
                return Intake((), err)
            kind = TooLarge if isinstance(err, TooLarge) else InvalidInput
            error = kind(f"event {position} of {len(items)}: {err}", field=err.field)
            return Intake(tuple(events), error, frozenset(unknown), rounded)
        events.append(event)
        if roundings() != since and (changed := first_rounded(item)):
            rounded[event.name] = changed
        unknown.update((event.name, field) for field in unknown_fields(item))
    return Intake(tuple(events), None, frozenset(unknown), rounded)


def read_event(
    value: object,
    *,
    now: Instant,
    key: str,
    internal_id: str | None = None,
    env: str = DEV_ENV,
    source: str = "api",
    name: str | None = None,
    max_event_bytes: int = MAX_EVENT_BYTES,
) -> Event:
    """Read one event that was decoded from JSON.

    Args:
        key: The server's own ULID of the event.
        internal_id: What the API answers; `key` when None.
        name: Given by the server, not the sender (`inngest/function.invoked` on `/invoke/`), and then not checked.

    Raises:
        InvalidInput: A field is missing, of the wrong type or out of range.
        TooLarge: The event is larger than `max_event_bytes`.
    """
    if not isinstance(value, dict):
        raise InvalidInput(f"an event is a JSON object, not {shortened(repr(value), 60)}")
    shown = internal_id or key
    name = _name(value.get("name")) if name is None else name
    data = _object(value, "data")
    if "_inngest" in data:
        data = {member: item for member, item in data.items() if member != "_inngest"}
    given_id = value.get("id")
    if given_id is not None and not isinstance(given_id, str):
        raise InvalidInput("event id must be text; it makes the event start a function only once", field="id")
    if given_id and len(given_id.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        raise InvalidInput(
            f"event id is longer than the {MAX_ID_BYTES} bytes it may have; send a hash of it", field="id"
        )
    version = value.get("v")
    if version is not None and not isinstance(version, str):
        raise InvalidInput('event v must be text, such as "2"', field="v")
    ts = _ts(value.get("ts"), now)
    members = {
        "name": write(name),
        "id": _written(given_id or shown, "id"),
        "ts": b"%d" % ts,
        "data": _written(data, "data"),
        "user": _written(_object(value, "user"), "user"),
    }
    if version:
        members["v"] = _written(version, "v")
    if meta := _meta(value.get("meta")):
        members["meta"] = _written(meta, "meta")
        if len(members["meta"]) > MAX_META_BYTES:
            raise TooLarge(
                f"event meta has {size(len(members['meta']))} and may have {size(MAX_META_BYTES)}; "
                "put what functions need into data",
                field="meta",
            )
    for member in _unknown(value):
        shown_member = shortened(member, _MAX_SHOWN)
        _written(member, shown_member)
        members[member] = _written(value[member], shown_member)
    body = compose(members)
    if len(body) > max_event_bytes:
        raise TooLarge(
            f"event {shortened(name, 80)!r} has {size(len(body))} and may have {size(max_event_bytes)}; "
            "send a reference to the data instead of the data",
            field="data",
        )
    return Event(
        key=EventKey(key),
        internal_id=shown,
        id=given_id or shown,
        name=name,
        ts=ts,
        received_at=now,
        body=body,
        env=env,
        source=source,
    )


def _name(value: object) -> str:
    if value is None or value == "":
        raise InvalidInput("event name is empty; give it one, such as shop/order.placed", field="name")
    if not isinstance(value, str):
        raise InvalidInput("event name must be text, such as shop/order.placed", field="name")
    length = len(value.encode("utf-8", "surrogatepass"))
    if length > MAX_NAME_BYTES:
        raise InvalidInput(f"event name has {length} bytes and may have {MAX_NAME_BYTES}; shorten it", field="name")
    if value.lower().startswith(_RESERVED):
        raise InvalidInput(
            f"event name {shortened(value, 80)!r} begins with {_RESERVED!r}, "
            "which the server keeps for itself; rename it",
            field="name",
        )
    return value


def unknown_fields(value: dict[str, Any]) -> list[str]:
    """The fields of an event that no reference knows, shortened; one inside of `meta` as `meta.` and its name."""
    meta = value.get("meta")
    inside = [f"meta.{field}" for field in meta if field not in _META] if isinstance(meta, dict) else []
    return [shortened(field, _MAX_SHOWN) for field in (*_unknown(value), *inside)]


def _unknown(value: dict[str, Any]) -> list[str]:
    if value.keys() <= _FIELDS:
        return []
    return [field for field in value if field not in _FIELDS]


def _meta(given: object) -> dict[str, Any]:
    """What a sender says about an event beside it, as functions see it: the sessions that it belongs to, in which those
    that the sender gave win over those it inherited, and null takes one away, or all."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InvalidInput('event meta must be a JSON object, such as {"sessions": {"chat": "c1"}}', field="meta")
    kept = {field: value for field, value in given.items() if field not in _META}
    own = given.get("sessions", {})
    if own is None:
        return kept
    inherited = given.get("propagated_sessions") or {}
    if not isinstance(own, dict) or not isinstance(inherited, dict):
        raise InvalidInput("event meta.sessions must be a JSON object of names and ids", field="meta")
    sessions = {name: _session(name, found) for name, found in {**inherited, **own}.items() if found is not None}
    if len(sessions) > MAX_SESSIONS:
        raise InvalidInput(
            f"event meta.sessions has {len(sessions)} sessions and may have {MAX_SESSIONS}; leave some out",
            field="meta",
        )
    return {**kept, "sessions": sessions} if sessions else kept


def _session(name: str, found: object) -> str:
    if isinstance(found, bool) or not isinstance(found, str | int | float) or found == "":
        raise InvalidInput(
            f"event meta.sessions {shortened(name, 60)!r} must be the id of a session, a text or a number", field="meta"
        )
    text = found if isinstance(found, str) else write(found).decode()
    for what, given, most in (("name", name, MAX_SESSION_KEY_BYTES), ("id", text, MAX_SESSION_ID_BYTES)):
        length = len(given.encode("utf-8", "surrogatepass"))
        if not 0 < length <= most:
            raise InvalidInput(
                f"the {what} of the session {shortened(name, 60)!r} in event meta.sessions has {length} bytes and may "
                f"have 1 to {most}; shorten it",
                field="meta",
            )
    return text


def _object(value: dict[str, Any], field: str) -> dict[str, Any]:
    given = value.get(field)
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InvalidInput(f"event {field} must be a JSON object; put the value under a name in it", field=field)
    return given


def _ts(value: object, now: Instant) -> Instant:
    if value is None or (value == 0 and not isinstance(value, bool)):
        return now  # some SDKs send 0 for "unset" (trap 13)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInput("event ts must be an integer, milliseconds since 1970", field="ts")
    if not EARLIEST_MS <= value <= LATEST_MS:
        raise InvalidInput(
            f"event ts {value} lies outside 1980 to 2100; it is in milliseconds since 1970, not in seconds", field="ts"
        )
    return value


def _written(value: object, field: str) -> bytes:
    try:
        return write(value)
    except ValueError as err:
        raise InvalidInput(f"event {field} cannot be stored: {err}", field=field) from err


# System events


@dataclass(frozen=True, slots=True)
class SystemEvent:
    """An event that the server is about to send to itself. `data` is canonical."""

    name: str
    id: str
    ts: Instant
    data: bytes
    user: bytes = EMPTY_OBJECT
    v: str | None = None
    more: Mapping[str, bytes] = field(default_factory=dict)  # further members, canonical

    def body(self) -> bytes:
        """The whole event as functions see it, canonical."""
        members = {
            "name": write(self.name),
            "id": write(self.id),
            "ts": b"%d" % self.ts,
            "data": self.data,
            "user": self.user,
            **self.more,
        }
        if self.v:
            members["v"] = write(self.v)
        return compose(members)

    def received(self, key: str, *, env: str = DEV_ENV) -> Event:
        """The event as it is stored, received at its own time."""
        return Event(
            key=EventKey(key),
            internal_id=key,
            id=self.id,
            name=self.name,
            ts=self.ts,
            received_at=self.ts,
            body=self.body(),
            env=env,
            source="system",
        )


def invoked_event(
    *,
    id: str,
    at: Instant,
    function: str,
    data: bytes = EMPTY_OBJECT,
    user: bytes = EMPTY_OBJECT,
    v: str | None = None,
    correlation_id: str | None = None,
    expire: Instant | None = None,
    name: str = "",
    source_service_id: str = "",
    source_function_id: str = "",
    source_function_version: int = 0,
    more: Mapping[str, bytes] | None = None,
) -> SystemEvent:
    """The event that starts the run of an invoked function: the caller's data, with `_inngest` beside it.

    `_inngest` replaces what the caller had under that name; everything else of `data` stays as it is, encrypted
    members too (section 12.1).

    Args:
        id: A ULID, the same whenever the same step is asked.
        function: Slug of the function to run.
        data: A canonical object; null is taken as empty (trap 37).
        correlation_id: Of the run and step that wait; None when an API call invoked it.
        expire: When the caller stops waiting, in milliseconds since 1970.
        name: The caller's id of the step.
        more: Further members of the event, canonical.
    """
    about: dict[str, Any] = {"fn_id": function}
    if correlation_id:
        about["correlation_id"] = correlation_id
    if expire is not None:
        about["expire"] = expire
    if name:
        about["name"] = name
    if source_service_id:
        about["source_app_id"] = source_service_id
    if source_function_id:
        about["source_fn_id"] = source_function_id
        about["source_fn_v"] = source_function_version
    content = read(data) if data != NULL else {}
    assert isinstance(content, dict), "the data of an invoke is an object; ops are read that way"
    data = write({**content, "_inngest": about})
    return SystemEvent(INVOKED, id, at, data, user if user != NULL else b"{}", v, more or {})
