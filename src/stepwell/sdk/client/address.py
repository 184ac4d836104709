"""Where the server is and how to introduce oneself: arguments first, then the environment, then this machine.

    STEPWELL_URL                                   the server, or several with commas between; else
                                                   INNGEST_API_BASE_URL, INNGEST_EVENT_API_BASE_URL,
                                                   INNGEST_BASE_URL, INNGEST_DEV when it is a URL
    STEPWELL_API_KEY                               else STEPWELL_SIGNING_KEY, INNGEST_SIGNING_KEY
    STEPWELL_SIGNING_KEY_FALLBACK                  else INNGEST_SIGNING_KEY_FALLBACK; tried when the first is refused
    STEPWELL_EVENT_KEY                             else INNGEST_EVENT_KEY
    STEPWELL_ENV                                   else INNGEST_ENV

Protocol: sections 1.2 and 1.3 of the Inngest wire protocol.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from stepwell.model.errors import ConfigurationError
from stepwell.wire.signature import bearer_hash

DEFAULT_URL = "http://localhost:8288"
NO_EVENT_KEY = "NO_EVENT_KEY_SET"
"""What a development server accepts in place of an event key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One server, from the point of view of a program that uses it.

    Attributes:
        api: Origin of everything but event intake, without a slash at its end.
        events: Origin of `/e/`; the same as `api` unless the environment says otherwise.
        others: Origins of further servers on the same store, for when this one cannot be reached.
        keys: Credentials of the API, in the order in which they are tried. May be empty.
        event_key: Goes into the path of a send.
        env: Name of the environment; None leaves it to the server.
    """

    api: str = DEFAULT_URL
    events: str = DEFAULT_URL
    others: tuple[str, ...] = ()
    keys: tuple[str, ...] = field(default=(), repr=False)
    event_key: str = field(default=NO_EVENT_KEY, repr=False)
    env: str | None = None

    @property
    def own_event_key(self) -> str | None:
        """The event key, if there is one."""
        return None if self.event_key == NO_EVENT_KEY else self.event_key

    @property
    def is_local(self) -> bool:
        """Whether it is this machine; then no proxy of the environment is asked."""
        hosts = {urlsplit(one).hostname or "" for one in (self.api, *self.others)}
        return hosts <= {"localhost", "127.0.0.1", "::1"}

    def next(self) -> Address:
        """The next of several servers, with this one as the last of the others; itself if it is the only one."""
        if not self.others:
            return self
        first_other, *rest = self.others
        return replace(self, api=first_other, events=first_other, others=(*rest, self.api))


def address_of(
    url: str | None = None,
    *,
    api_key: str | None = None,
    event_key: str | None = None,
    env: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Address:
    """Put an address together; what is None comes from the environment.

    Raises:
        ConfigurationError: A URL that is none.
    """
    found = os.environ if environment is None else environment
    dev = found.get("INNGEST_DEV", "")
    several = [origin(one) for one in (url or first(found, "STEPWELL_URL")).split(",") if one.strip()]
    if url and not several:
        raise ConfigurationError(f"{url!r} is not the address of a server; write something like {DEFAULT_URL}")
    either = first(found, "INNGEST_BASE_URL") or (dev if "://" in dev else "") or DEFAULT_URL
    keys = [
        api_key or first(found, "STEPWELL_API_KEY", "STEPWELL_SIGNING_KEY", "INNGEST_SIGNING_KEY"),
        first(found, "STEPWELL_SIGNING_KEY_FALLBACK", "INNGEST_SIGNING_KEY_FALLBACK"),
    ]
    # The server reads the same variable as a list.
    events = event_key or first(found, "STEPWELL_EVENT_KEY", "INNGEST_EVENT_KEY").partition(",")[0].strip()
    return Address(
        api=several[0] if several else origin(first(found, "INNGEST_API_BASE_URL") or either),
        events=several[0] if several else origin(first(found, "INNGEST_EVENT_API_BASE_URL") or either),
        others=tuple(dict.fromkeys(one for one in several[1:] if one != several[0])),
        keys=tuple(dict.fromkeys(key for key in keys if key)),
        event_key=events or NO_EVENT_KEY,
        env=env or first(found, "STEPWELL_ENV", "INNGEST_ENV") or None,
    )


def first(environment: Mapping[str, str], *names: str) -> str:
    """The first variable that is set and not empty, or an empty text."""
    return next((value for name in names if (value := environment.get(name, "").strip())), "")


def origin(url: str) -> str:
    """A server's URL without the slash at its end. Raises `ConfigurationError` if it is none."""
    text = url.strip().rstrip("/")
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError(f"{url!r} is not the address of a server; write something like {DEFAULT_URL}")
    return text


def bearer(key: str) -> str:
    """The value of `Authorization` for a key: the hash of a signing key, or any other key as it is."""
    try:
        return f"Bearer {bearer_hash(key)}"
    except ValueError:
        return f"Bearer {key}"
