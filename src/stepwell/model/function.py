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
