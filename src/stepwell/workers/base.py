"""What every worker performer shares: the seam with the node, and the clock it measures with.

The seam itself (`Dispatch`, `Deliver`, `Performer`) is vocabulary of both sides and lives in `model.dispatch`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from stepwell.model.dispatch import Deliver, Dispatch, Memo, Performer

if TYPE_CHECKING:
    from stepwell.model.ids import Instant

__all__ = ["Deliver", "Dispatch", "Memo", "Performer", "now_ms"]


def now_ms() -> Instant:
    """The wall clock, for what performers measure. Passed in where a test wants another one."""
    return time.time_ns() // 1_000_000
