"""Limits that runs share: which keys a run counts for, and how many of a key may be worked on at a time. Pure.

The value of a key is taken once, from the event that starts the run, and kept with the run as a hash; the number is
the one that the function has now, so a limit can be changed under runs that wait for it. Elsewhere: who gets a slot
(`stepwell.store.slots`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stepwell.engine import expr
from stepwell.engine.match import holds
from stepwell.model.job import Slot, Window
from stepwell.model.journal import Limit
from stepwell.model.payload import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stepwell.model.function import Batch, Concurrency, Debounce, Function, Rate
    from stepwell.model.ids import EventKey, Instant, JobId

MAX_PRIORITY_S = 43_200
INVALID = "<invalid>"
"""The value of a key that cannot be evaluated on an event."""

_ORDER = {"fn": "1", "env": "3", "account": "4"}


def limits_of(function: Function, event: Mapping[str, Any], now: Instant) -> tuple[Limit, ...]:
    """What the calls of a run that `event` starts count for."""
    return tuple(_limit(function, "", one, event, now) for one in function.concurrency)


def holds_of(function: Function, event: Mapping[str, Any], now: Instant) -> tuple[Limit, ...]:
    """What a run that `event` starts counts for as a whole."""
    return tuple(_limit(function, "run", one, event, now) for one in function.run_concurrency)


def slots_of(limits: Sequence[Limit], present: Sequence[Concurrency]) -> tuple[Slot, ...]:
    """The slots that a job needs by the limits that its function has now; one that is gone counts for nothing."""
    numbers = {(one.scope, one.key): one.limit for one in present}
    found = [(limit.key, numbers.get((limit.scope, limit.expression))) for limit in limits]
    return tuple(Slot(key, number) for key, number in found if number is not None)


def priority_of(function: Function, event: Mapping[str, Any], now: Instant) -> int:
    """How many seconds earlier than it came a run is in line; below 0 for later. What is no whole number is 0."""
    if function.priority is None:
        return 0
    try:
        value = expr.compile(function.priority).evaluate({"event": event}, now)
    except (expr.ExpressionError, expr.EvaluationError):
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return 0
    return int(min(max(value, -MAX_PRIORITY_S), MAX_PRIORITY_S))


@dataclass(frozen=True, slots=True)
class Turn:
    """What a rate says to one more start: when it may be, and what is to be remembered under the key for the next."""

    key: str
    start_at: Instant
    state: str
    until: Instant  # when the state may be forgotten


def rate_key(function: Function, name: str, rate: Rate, event: Mapping[str, Any], now: Instant) -> str | None:
    """The key under which a rate remembers; None when the rate does not hold for this event: its key is `false`."""
    value = _value(rate.key, event, now)
    return None if value is False else f"{name}:{function.slug}:{_hash([rate.key or '', _text(value)])}"


def next_turn(rate: Rate, key: str, state: str | None, now: Instant) -> Turn:
    """The generic cell rate algorithm: starts are `period / limit` apart, and may be early by `burst` of these.

    Args:
        rate: How many in which time.
        key: As `rate_key` gives it.
        state: What the last turn said, None if nobody remembers: when the next start would be on time.
        now: Milliseconds since 1970.
    """
    interval_us = rate.period_ms * 1000 // rate.limit
    on_time_us = max(int(state), now * 1000) if state is not None else now * 1000
    start_us = max(now * 1000, on_time_us - rate.burst * interval_us)
    following_us = on_time_us + interval_us
    return Turn(key, -(-start_us // 1000), str(following_us), -(-following_us // 1000))


def collects(function: Function, event: Mapping[str, Any], now: Instant) -> bool:
    """Whether an event waits with others of its kind instead of starting a run."""
    if function.batch is None:
        return function.debounce is not None
    return function.batch.condition is None or holds(function.batch.condition, {"event": event}, now)


def window_key(function: Function, event: Mapping[str, Any], now: Instant) -> str:
    """The key under which an event waits."""
    rule = function.batch or function.debounce
    expression = rule.key if rule is not None else None
    return f"window:{function.slug}:{_hash([expression or '', _text(_value(expression, event, now))])}"


def debounced(
    rule: Debounce, window: Window | None, job: JobId, event: EventKey, ts: Instant, now: Instant
) -> Window | None:
    """The window once this event has come; None when it is older than the one that waits, which changes nothing."""
    if window is not None and ts < window.ts:
        return None
    opened_at = window.opened_at if window is not None else now
    due = now + rule.period_ms
    if rule.timeout_ms is not None:
        due = min(due, opened_at + rule.timeout_ms)
    return Window(job=job, events=(event,), due=due, opened_at=opened_at, ts=ts)


def batched(rule: Batch, window: Window | None, job: JobId, event: EventKey, now: Instant) -> tuple[Window, bool]:
    """The window with this event, and whether it is full."""
    if window is None:
        window = Window(job=job, events=(), due=now + rule.timeout_ms, opened_at=now)
    events = (*window.events, event)
    return Window(job=window.job, events=events, due=window.due, opened_at=window.opened_at), len(events) >= rule.size


def limit_text(limit: Limit) -> str:
    """A limit for people: which one it is, not what its key is for a run."""
    shared = {"fn": "its function", "env": "its environment", "account": "the server"}[limit.scope]
    return f"the concurrency of {shared}" + (f" by {limit.expression}" if limit.expression is not None else "")


def _limit(function: Function, what: str, rule: Concurrency, event: Mapping[str, Any], now: Instant) -> Limit:
    """The key sorts as slots are taken: of what the fewest runs share first."""
    owner = {"fn": [function.env, function.slug], "env": [function.env], "account": []}[rule.scope]
    order = "2" if rule.scope == "fn" and rule.key is None else _ORDER[rule.scope]
    parts = [what, rule.scope, *owner, rule.key or "", _text(_value(rule.key, event, now))]
    return Limit(scope=rule.scope, expression=rule.key, key=f"{order}.{_hash(parts)}")


def _value(expression: str | None, event: Mapping[str, Any], now: Instant) -> object:
    if expression is None:
        return None
    try:
        return expr.compile(expression).evaluate({"event": event}, now)
    except (expr.ExpressionError, expr.EvaluationError):
        return INVALID


def _hash(parts: Sequence[str]) -> str:
    return hashlib.sha256(canonical(parts)).hexdigest()[:32]


def _text(value: object) -> str:
    try:
        return canonical(value).decode()
    except (TypeError, ValueError):
        return str(value)
