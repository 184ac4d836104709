"""Events and what starts a function: an event type, a schedule, or several of them joined with `|`.

An `EventType[T]` is made once, at module level, and used for everything: it is the `on=` of a function, it
makes events to send when it is called, and it says how the data of a received one is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec

from stepwell.model.event import INVOKED, TICK
from stepwell.model.payload import canonical
from stepwell.sdk.errors import DefinitionError, EventNotValid
from stepwell.sdk.types import GIVEN, decode_result, encode_result, plain

if TYPE_CHECKING:
    from typing_extensions import TypeForm, TypeIs

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Event(Generic[T_co]):
    """One event, with its data as the type that its `EventType` says.

    Attributes:
        name: Such as `shop/order.paid`.
        data: What it carries.
        id: Its sender's id; two events with one id start a function once in 24 hours. None: the server draws one.
        ts: When it happened, as its sender says; None: when the server accepts it.
        user: Who it is about, as plain JSON.
        v: Version of its form, as its sender says.
    """

    name: str
    data: T_co
    id: str | None = None
    ts: datetime | None = None
    user: Mapping[str, Any] = field(default_factory=dict)
    v: str | None = None
    type: EventType[Any] | None = field(default=None, repr=False, compare=False)

    def body(self) -> dict[str, Any]:
        """The event as it is sent: plain JSON, without what the server adds.

        Raises:
            StepResultNotPortable: The data has no JSON form.
        """
        annotation = self.type.annotation if self.type is not None else Any
        text, _ = encode_result(self.data, annotation, f"the data of event {self.name!r}", GIVEN)
        written = msgspec.json.decode(text)
        body: dict[str, Any] = {"name": self.name, "data": {} if written is None else written}
        if not isinstance(body["data"], dict):
            raise EventNotValid(
                f"the data of event {self.name!r} must be an object in JSON, such as a dataclass or a dict"
            )
        if self.id is not None:
            body["id"] = self.id
        if self.ts is not None:
            body["ts"] = int(self.ts.timestamp() * 1000)
        if self.user:
            body["user"] = dict(self.user)
        if self.v is not None:
            body["v"] = self.v
        return body


class Trigger(Generic[T_co]):
    """What starts a function, and so what `ctx.event.data` is. Joined with `|`."""

    def members(self) -> tuple[Trigger[Any], ...]:
        """The single triggers that this one consists of."""
        return (self,)

    def __or__(self, other: Trigger[U]) -> Trigger[T_co | U]:
        return AnyOf((*self.members(), *other.members()))

    def config(self) -> dict[str, Any]:
        """Its form in a register request."""
        raise NotImplementedError

    def reads(self, event: Mapping[str, Any]) -> bool:
        """Whether it is this one that gives the event its type."""
        raise NotImplementedError

    def read(self, data: Any) -> T_co:
        """The data of an event that it started."""
        raise NotImplementedError


class EventType(Trigger[T]):
    """A kind of events: a name and the type of their data. Made by `stepwell.event`."""

    def __init__(self, name: str, annotation: Any, *, expression: str | None = None) -> None:
        if not name:
            raise DefinitionError('an event needs a name, such as stepwell.event("shop/order.paid", Order)')
        self.name = name
        self.annotation = annotation
        self.expression = expression

    def __call__(
        self,
        data: T,
        *,
        id: str | None = None,
        ts: datetime | None = None,
        user: Mapping[str, Any] | None = None,
        v: str | None = None,
    ) -> Event[T]:
        """An event of this kind, to be sent. Its arguments are the attributes of `Event`."""
        return Event(self.name, data, id=id, ts=ts, user=user or {}, v=v, type=self)

    def when(self, expression: str) -> EventType[T]:
        """The same events, but only those for which `expression` is true: `.when("event.data.amount > 10")`.

        The language is CEL; the server evaluates it and refuses one that does not compile when the function is
        registered.
        """
        return EventType(self.name, self.annotation, expression=expression)

    def is_(self, event: Event[Any]) -> TypeIs[Event[T]]:
        """Whether `event` is of this kind; a type checker then knows the type of its data."""
        return self.reads({"name": event.name}) or (event.type is not None and event.type.name == self.name)

    def config(self) -> dict[str, Any]:
        return {"event": self.name} | ({"expression": self.expression} if self.expression else {})

    def reads(self, event: Mapping[str, Any]) -> bool:
        name = str(event.get("name", ""))
        return name == self.name or (self.name.endswith("*") and name.startswith(self.name[:-1]))

    def read(self, data: Any) -> T:
        return cast(T, decode_result(canonical(data), self.annotation))

    def __repr__(self) -> str:
        return f"<event {self.name}>"


class Cron(Trigger[None]):
    """A schedule. Made by `stepwell.cron`."""

    def __init__(self, schedule: str, *, tz: str | None = None, jitter: timedelta | str | None = None) -> None:
        if schedule.startswith(("TZ=", "CRON_TZ=")):
            raise DefinitionError(f'{schedule!r} names a time zone; give it as an argument, such as tz="Europe/Berlin"')
        if not schedule.startswith("@") and len(schedule.split()) != 5:
            raise DefinitionError(
                f"{schedule!r} is not a schedule; write five fields (minute hour day month weekday), "
                'such as "0 9 * * 1-5", or a word such as "@daily" or "@every 10s"'
            )
        self.schedule = f"TZ={tz} {schedule}" if tz else schedule
        self.jitter = jitter

    def config(self) -> dict[str, Any]:
        from stepwell.sdk.options import duration_text

        return {"cron": self.schedule} | ({"jitter": duration_text(self.jitter)} if self.jitter is not None else {})

    def reads(self, event: Mapping[str, Any]) -> bool:
        return event.get("name") == TICK

    def read(self, data: Any) -> None:
        return None

    def __repr__(self) -> str:
        return f"<cron {self.schedule}>"


class AnyOf(Trigger[T_co]):
    """Several triggers; each starts the function."""

    def __init__(self, triggers: Iterable[Trigger[Any]]) -> None:
        self._triggers = tuple(triggers)

    def members(self) -> tuple[Trigger[Any], ...]:
        return self._triggers

    def __repr__(self) -> str:
        return " | ".join(map(repr, self._triggers))


def event(name: str, annotation: TypeForm[T], /) -> EventType[T]:
    """Declare a kind of events: `stepwell.event("shop/order.paid", Order)`.

    Args:
        name: What senders write, such as `shop/order.paid`.
        annotation: The type of the data: a pydantic model, a dataclass, a TypedDict, a union of these, or `Any`.
    """
    return EventType(name, annotation)


def cron(schedule: str, /, *, tz: str | None = None, jitter: timedelta | str | None = None) -> Cron:
    """Start a function on a schedule: `stepwell.cron("0 9 * * 1-5", tz="Europe/Berlin")`.

    Each occurrence starts it once. The `data` of its event is None, and its `id` the time of the occurrence.

    Args:
        schedule: Five fields (minute, hour, day of the month, month, day of the week), a word such as `@hourly`, or
            `@every 10s`.
        tz: Name of a time zone; UTC if not given.
        jitter: Spread the starts over this long (1 s to 5 min), always the same for one function and occurrence.
    """
    return Cron(schedule, tz=tz, jitter=jitter)


def triggers_of(on: Trigger[Any] | str | Iterable[str | Trigger[Any]]) -> tuple[Trigger[Any], ...]:
    """The single triggers of an `on=`."""
    if isinstance(on, str):
        return (EventType(on, Any),)
    if isinstance(on, Trigger):
        return on.members()
    return tuple(trigger for one in on for trigger in triggers_of(one))


def read_event(text: bytes, triggers: tuple[Trigger[Any], ...]) -> Event[Any]:
    """An event as a function sees it, its data read by the trigger that it belongs to.

    An invocation is read by the event type that its data fits. Which function was invoked, `_inngest` beside that data,
    is seen by functions that have invocations among their triggers.

    Raises:
        EventNotValid: The data is not of the trigger's type.
    """
    body = msgspec.json.decode(text)
    data = body.get("data")
    trigger = next((one for one in triggers if one.reads(body)), None)
    if isinstance(data, dict) and "_inngest" in data and (trigger is None or body.get("name") != INVOKED):
        data = {name: value for name, value in data.items() if name != "_inngest"}
    try:
        if trigger is None and body.get("name") == INVOKED:
            trigger, read = _fitting([one for one in triggers if isinstance(one, EventType)], data)
        else:
            read = data if trigger is None else trigger.read(data)
    except Exception as err:
        # A validator of the user's may raise anything.
        raise EventNotValid(f"the data of event {body.get('name')!r} is not what `on=` says: {err}") from err
    ts = body.get("ts")
    return Event(
        name=body["name"],
        data=read,
        id=body.get("id"),
        ts=datetime.fromtimestamp(ts / 1000, UTC) if ts else None,
        user=body.get("user") or {},
        v=body.get("v"),
        type=trigger if isinstance(trigger, EventType) else None,
    )


def _fitting(kinds: list[EventType[Any]], data: Any) -> tuple[EventType[Any] | None, Any]:
    """The event type that `data` fits without loss, or else the first that can read it, and what it reads."""
    found: tuple[EventType[Any], Any] | None = None
    problem: Exception | None = None
    for kind in kinds:
        try:
            read = kind.read(data)
            if canonical(plain(read)) == canonical(data):
                return kind, read
            found = found or (kind, read)
        except Exception as err:
            # Not this one; the first reason is told if none fits.
            problem = problem or err
    if found is None and problem is not None:
        raise problem
    return found or (None, data)
