"""The time as a store sees it: milliseconds since 1970, from wherever its owner says."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from stepwell.model.ids import Instant


class Clock(Protocol):
    def now(self) -> Instant: ...


class WallClock:
    """This machine's clock."""

    def now(self) -> Instant:
        return time.time_ns() // 1_000_000
