"""A function as its service registered it."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from stepwell.model.event import DEV_ENV
from stepwell.model.ids import Instant, derived_uuid

DEFAULT_RETRIES = 4
MAX_RETRIES = 20


class Transport(StrEnum):
    """How a service is reached."""

    HTTP = "http"  # we call its URL; each reply ends the call
    SOCKET = "socket"  # it dialled in; a function stays in its memory and reports step by step
    LOCAL = "local"  # in this process, for tests
    APP = "app"  # an app of the server's own, in processes that it starts


class Trigger(msgspec.Struct, frozen=True, omit_defaults=True):
    """What starts a function: an event name (`a/b`, `a/*`, `a/b.*`), perhaps with a condition; or a schedule.

    Exactly one of `event` and `cron` is set. A run on a schedule begins up to `jitter_ms` after its time.
    """

    event: str = ""
    expression: str | None = None
    cron: str | None = None
    jitter_ms: int = 0


class CancelOn(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event that cancels a run of the function. `timeout_ms` is how long to listen."""

    event: str
    expression: str | None = None
    timeout_ms: int | None = None


class Concurrency(msgspec.Struct, frozen=True, omit_defaults=True):
    """At most `limit` steps at a time, for each value of `key` if there is one: of the function (`fn`), of all
    functions of the environment (`env`) or of the server (`account`) that have the same key."""

    limit: int
    key: str | None = None
    scope: str = "fn"


class Rate(msgspec.Struct, frozen=True, omit_defaults=True):
    """So many starts in a period, evenly spread, for each value of `key` if there is one.

    `burst` more than one may start at once when there were none for a while.
    """

    limit: int
    period_ms: int
    burst: int = 0
    key: str | None = None


class Debounce(msgspec.Struct, frozen=True, omit_defaults=True):
    """Start with the last event once none came for a period; `timeout_ms` after the first in any case."""

    period_ms: int
    key: str | None = None
    timeout_ms: int | None = None


class Batch(msgspec.Struct, frozen=True, omit_defaults=True):
    """Start with up to `size` events together, or with those there are once the first has waited for `timeout_ms`.

    An event for which `condition` is false starts a run of its own at once.
    """

    size: int
    timeout_ms: int
    key: str | None = None
    condition: str | None = None


class Function(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One function of one service. `slug` is unique in an environment and names it in every API."""

    slug: str
    name: str
    service: str
    triggers: tuple[Trigger, ...]
    env: str = DEV_ENV
    url: str = ""  # where HTTP calls go, without the step parameter
    retries: int = DEFAULT_RETRIES
    cancel_on: tuple[CancelOn, ...] = ()
    concurrency: tuple[Concurrency, ...] = ()
    rate_limit: Rate | None = None  # beyond it no run is created
    idempotency: Rate | None = None  # likewise
    debounce: Debounce | None = None
    batch: Batch | None = None
    start_within_ms: int | None = None  # a run that has not begun by then is cancelled
    finish_within_ms: int | None = None  # likewise one that has not ended so long after it began
    throttle: Rate | None = None  # beyond it runs start later
    run_concurrency: tuple[Concurrency, ...] = ()  # of whole runs, from their first call to their end
    priority: str | None = None  # an expression: seconds that a run is treated as if it had come earlier
    cancel_grace_ms: int = 0  # how long a call under way may take to end by itself when its run is cancelled
    version: int = 1
    archived: bool = False
    config: bytes = b"{}"  # as registered, for display
    warnings: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return function_id(self.env, self.slug)

    @property
    def max_attempts(self) -> int:
        return self.retries + 1


class Service(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A program that serves functions. Identified by its name inside an environment."""

    name: str
    transport: Transport
    env: str = DEV_ENV
    url: str = ""
    sdk: str = ""
    framework: str = ""
    checksum: str = ""
    functions: tuple[Function, ...] = ()
    registered_at: Instant = 0
    error: str | None = None  # why the last attempt to reach or register it failed
    app_version: str = ""
    warnings: tuple[str, ...] = ()  # about the service itself; each function has its own

    @property
    def id(self) -> str:
        return derived_uuid("service", self.env, self.name)


def function_id(env: str, slug: str) -> str:
    """The UUID that the API shows for a function."""
    return derived_uuid("function", env, slug)
