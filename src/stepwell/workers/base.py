"""What the performers share: the clock they measure with, the addresses they may call, the errors of their own making.

The seam with the node is `model.dispatch`: a `Dispatch` goes in, messages come back through `Deliver`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from stepwell.model.dispatch import Deliver, Dispatch, Memo, Performer
from stepwell.model.ids import Instant
from stepwell.wire.inngest.errors import own_error

__all__ = ["Addresses", "Aimed", "Clock", "Deliver", "Dispatch", "Memo", "Performer", "now_ms", "own_error"]

Clock: TypeAlias = Callable[[], Instant]
"""Gives the wall clock in milliseconds since 1970."""


class Aimed(Protocol):
    """A connection that is to be opened."""

    @property
    def refusal(self) -> str:
        """Why none of its addresses may be called; empty if one may, or nothing was tried yet."""


class Addresses(Protocol):
    """Which addresses may be called. See `stepwell.gateway.policy`."""

    def aim(self, host: str, port: int) -> Aimed:
        """Say whom the connections that this task opens from now on are for."""

    def refusal(self, host: str, port: int, address: str) -> str:
        """Why `address`, which the name `host` stands for, may not be called; empty if it may."""

    def socket(self, info: tuple[Any, ...]) -> socket.socket:
        """Open a socket for one address. Raises `OSError` if it may not be called."""


def now_ms() -> Instant:
    """The wall clock."""
    return time.time_ns() // 1_000_000
