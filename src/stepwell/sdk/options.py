"""The options of a function, typed, and their form in a register request.

Forms: section 3.4 of the Inngest wire protocol. A server refuses by name what it does not support.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from stepwell.model.duration import format_duration, parse_duration
from stepwell.model.function import MAX_RETRIES
from stepwell.sdk.errors import DefinitionError
from stepwell.sdk.event import EventType

Duration: TypeAlias = timedelta | str
"""A `timedelta`, or text such as `"1h30m"`, `"2 weeks"`, `"500ms"`."""


def duration(value: Duration) -> timedelta:
    """A duration that somebody wrote. Raises `ValueError` for what is none, or for less than nothing."""
    read: Any = parse_duration(value) if isinstance(value, str) else value
    if not isinstance(read, timedelta):
        shown = f'timedelta(seconds={value!r}) or "{value!r}s"' if _is_number(value) else 'timedelta(hours=1) or "1h"'
        raise ValueError(f"{value!r} is not a duration; write {shown}")
    if read < timedelta(0):
        raise ValueError(f"a duration cannot be negative: {value!r}")
    return read


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def milliseconds(value: Duration) -> int:
    """A duration in whole milliseconds, rounded up."""
    return -(-duration(value) // timedelta(milliseconds=1))


def duration_text(value: Duration) -> str:
    """A duration as it is written in a register request."""
    return format_duration(duration(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpointing:
    """How a service that is served over HTTP goes on with a function after a step instead of answering each.

    Args:
        max_runtime: How long a call goes on starting steps; then the server makes another. A step that is running is
            finished, so a request may take this long and one step more: keep it below what proxies and platforms allow.
        parallel: Run steps that are simply joined in the same call. If not, each has a call of its own, which spreads
            them over all processes that serve the functions. Functions with a `concurrency` do so in any case.
    """

    max_runtime: Duration = timedelta(seconds=10)
    parallel: bool = True

    def __post_init__(self) -> None:
        try:
            duration(self.max_runtime)
        except ValueError as err:
            raise DefinitionError(f"max_runtime: {err}") from err


@dataclass(frozen=True, slots=True)
class Concurrency:
    """At most `limit` steps of the function at a time, for each value of `key` (CEL) if one is given.

    `scope` says who shares the limit: runs of this function, of the environment, or of the account. The last
    two need a key. With `runs` it counts whole runs, from their first call to their end; one such limit at most.
    """

    limit: int
    key: str | None = None
    scope: Literal["fn", "env", "account"] = "fn"
    runs: bool = False


@dataclass(frozen=True, slots=True)
class Throttle:
    """Start at most `limit` runs in each `period`; the rest wait. `burst` more may start at once."""

    limit: int
    period: Duration
    burst: int = 1
    key: str | None = None


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Start at most `limit` runs in each `period` (up to 24 h); the rest are skipped."""

    limit: int
    period: Duration
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Debounce:
    """Start once, with the last event, when none came for `period` (1 s to 7 d); after `timeout` in any case."""

    period: Duration
    key: str | None = None
    timeout: Duration | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Start once for up to `size` events (2 or more), or when the first has waited for `timeout` (1 s or more)."""

    size: int
    timeout: Duration
    key: str | None = None
    condition: str | None = None


@dataclass(frozen=True, slots=True)
class Singleton:
    """One run at a time, for each value of `key`: a new start is skipped, or cancels the run there is."""

    mode: Literal["skip", "cancel"] = "skip"
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Cancel a run that did not begin within `start`, or end within `finish` from then."""

    start: Duration | None = None
    finish: Duration | None = None


@dataclass(frozen=True, slots=True)
class CancelOn:
    """Cancel a run when `event` arrives and `condition` is true.

    Args:
        event: An event type or a name.
        match: A path such as `data.id` at which both events must be equal. Not together with `condition`.
        condition: CEL over `event` (what started the run) and `async` (the new event).
        timeout: How long after its start a run can be cancelled so; a year if not given.
    """

    event: EventType[Any] | str
    match: str | None = None
    condition: str | None = None
    timeout: Duration | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything that `Service.function` takes besides `on`, `id` and `name`."""

    retries: int | None = None
    concurrency: int | Concurrency | Sequence[Concurrency] | None = None
    throttle: Throttle | None = None
    rate_limit: RateLimit | None = None
    debounce: Debounce | None = None
    batch: Batch | None = None
    priority: str | None = None
    singleton: Singleton | None = None
    idempotency: str | None = None
    cancel_on: EventType[Any] | str | CancelOn | Sequence[EventType[Any] | str | CancelOn] = ()
    timeouts: Timeouts | None = None

    def __post_init__(self) -> None:
        if self.retries is not None and not 0 <= self.retries <= MAX_RETRIES:
            raise DefinitionError(f"retries={self.retries} must be between 0 and {MAX_RETRIES}; 4 means five attempts")

    def config(self) -> dict[str, Any]:
        """Their members of a function in a register request; what is not set is left out."""
        config: dict[str, Any] = {
            "concurrency": _concurrency(self.concurrency),
            "throttle": self.throttle and _set(
                limit=self.throttle.limit,
                period=duration_text(self.throttle.period),
                burst=self.throttle.burst,
                key=self.throttle.key,
            ),
            "rateLimit": self.rate_limit and _set(
                limit=self.rate_limit.limit, period=duration_text(self.rate_limit.period), key=self.rate_limit.key
            ),
            "debounce": self.debounce and _set(
                period=duration_text(self.debounce.period), key=self.debounce.key, timeout=_text(self.debounce.timeout)
            ),
            "batchEvents": self.batch and _set(
                maxSize=self.batch.size,
                timeout=duration_text(self.batch.timeout),
                key=self.batch.key,
                **{"if": self.batch.condition},
            ),
            "priority": {"run": self.priority} if self.priority else None,
            "singleton": self.singleton and _set(key=self.singleton.key, mode=self.singleton.mode),
            "idempotency": self.idempotency,
            "cancel": [_cancel(one) for one in _listed(self.cancel_on)] or None,
            "timeouts": self.timeouts and _set(start=_text(self.timeouts.start), finish=_text(self.timeouts.finish)),
        }  # fmt: skip
        return _set(**config)


def match_expression(path: str) -> str:
    """The condition that two events are equal at `path`, such as `data.id`."""
    return f"event.{path} == async.{path}"


def condition_of(match: str | None, condition: str | None) -> str | None:
    """One condition out of the two ways to write it."""
    if match is not None and condition is not None:
        raise DefinitionError(
            "give match= or condition=, not both; a condition can say `event.data.id == async.data.id`"
        )
    return match_expression(match) if match is not None else condition


def _set(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _text(value: Duration | None) -> str | None:
    return None if value is None else duration_text(value)


def _concurrency(value: int | Concurrency | Sequence[Concurrency] | None) -> Any:
    if value is None or isinstance(value, int):
        return value
    listed = [value] if isinstance(value, Concurrency) else value
    steps, runs = (
        [_set(limit=one.limit, key=one.key, scope=one.scope) for one in listed if one.runs is whole]
        for whole in (False, True)
    )
    return {"fn": runs, "step": steps} if runs else steps


def _listed(
    value: EventType[Any] | str | CancelOn | Sequence[EventType[Any] | str | CancelOn],
) -> Sequence[EventType[Any] | str | CancelOn]:
    return [value] if isinstance(value, EventType | str | CancelOn) else value


def _cancel(value: EventType[Any] | str | CancelOn) -> dict[str, Any]:
    if not isinstance(value, CancelOn):
        value = CancelOn(value)
    name, condition = value.event, condition_of(value.match, value.condition)
    if isinstance(name, EventType):
        condition = condition or name.expression
        name = name.name
    return _set(event=name, timeout=_text(value.timeout), **{"if": condition})
