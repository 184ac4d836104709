"""Who may ask: event keys for senders, signing keys for everything else.

Without keys, as in development, everybody who comes through the gate may. Event keys are kept as hashes and compared in
constant time; no key ever appears in an answer or a log.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Iterable
from enum import Enum

from stepwell.model.errors import Unauthorized
from stepwell.wire import signature

_AGAIN_S = 60.0
_REMEMBERED = 1_000

log = logging.getLogger("stepwell.api")


class Access(Enum):
    """What a route asks of its caller when keys are configured. Every route states one."""

    OPEN = "open"  # tells nothing worth hiding: health
    EVENT_KEY = "event key"
    SIGNING_KEY = "signing key"
    READ_TOKEN = "read token"  # of the run in the path, or the signing key
    ADDRESS = "address"  # which is signed: the handler checks that, and knows no other
    DEVELOPMENT = "development"  # there in development only, 404 otherwise


class Refused(Unauthorized):
    """The caller showed no key, or a wrong one. The text is what official SDKs expect."""

    def __init__(self) -> None:
        super().__init__("Authentication failed")


class Keys:
    """The keys of one server. `signing` has the current key first, then those that are still accepted."""

    def __init__(
        self, *, signing: Iterable[str] = (), events: Iterable[str] = (), events_required: bool = False
    ) -> None:
        self.signing = tuple(signing)
        self._events = tuple(hashlib.sha256(key.encode()).digest() for key in events)
        self.events_required = events_required or bool(self._events)

    @property
    def signing_key(self) -> str | None:
        """The key that requests to services are signed with."""
        return self.signing[0] if self.signing else None

    @property
    def event_keys(self) -> int:
        """How many there are."""
        return len(self._events)

    def check_bearer(self, authorization: str | None) -> None:
        """Raises `Refused` unless one of the signing keys is named, or there is none."""
        if not signature.bearer_accepted(authorization, self.signing):
            raise Refused

    def check_event_key(self, key: str) -> None:
        """Raises `Unauthorized` with the texts of the protocol."""
        if not key:
            raise Unauthorized("Event key is required")
        if not self.events_required:
            return
        given = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        known = False
        for one in self._events:
            known |= hmac.compare_digest(one, given)
        if not known:
            raise Unauthorized("Event key not found")


class Refusals:
    """Tells the log who showed no key or a wrong one: of each client and route once a minute. The key is never told."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], float] = {}

    def note(self, client: str, what: str, why: str) -> None:
        """Somebody at `client` asked for `what` and may not."""
        now = time.monotonic()
        if now < self._told.get((client, what), -_AGAIN_S) + _AGAIN_S:
            return
        if len(self._told) >= _REMEMBERED:
            self._told.clear()
        self._told[client, what] = now
        log.warning("refused %s from %s: %s", what, client or "an unknown address", why)
