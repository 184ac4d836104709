"""What the performers share: the clock they measure with and the errors of their own making.

The seam with the node is `model.dispatch`: a `Dispatch` goes in, messages come back through `Deliver`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

from stepwell.model.dispatch import Deliver, Dispatch, Memo, Performer
from stepwell.model.ids import Instant
from stepwell.wire.inngest.errors import own_error

__all__ = ["Clock", "Deliver", "Dispatch", "Memo", "Performer", "now_ms", "own_error"]

Clock: TypeAlias = Callable[[], Instant]
"""Gives the wall clock in milliseconds since 1970."""


def now_ms() -> Instant:
    """The wall clock."""
    return time.time_ns() // 1_000_000
