"""When to try again."""

from __future__ import annotations

from stepwell.model.ids import Instant, derived_fraction

_TABLE_MS = tuple(1000 * seconds for seconds in (15, 30, 60, 120, 300, 600, 1200, 2400, 3600, 7200))
_JITTER_MS = 30_000


def retry_delay(failed_attempt: int, *, jitter_of: tuple[str, ...], interval_ms: int | None = None) -> Instant:
    """Milliseconds until the next attempt: 15 s to 45 s at first, 2 h from the tenth failure on.

    Args:
        failed_attempt: The attempt that failed, counted from 0.
        jitter_of: What the random part is derived from; the same parts wait equally long on every replay.
        interval_ms: A fixed pause instead of the table, without jitter.

    Source: the backoff table that the Inngest protocol documents.
    """
    if interval_ms is not None:
        return interval_ms
    base = _TABLE_MS[min(failed_attempt, len(_TABLE_MS) - 1)]
    return base + int(_JITTER_MS * derived_fraction(*jitter_of))
