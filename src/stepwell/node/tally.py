"""How much this process has done since it started: entries that it committed, by type, and how long steps took.

Nothing here is about one run, so nothing grows. What it says is lost with the process, as its readers expect.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from stepwell.model import journal
from stepwell.store.meters import Histogram as Histogram  # for those who may not see the store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stepwell.model.journal import Entry

STEP_SECONDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 3600.0)


class Tally:
    def __init__(self) -> None:
        self.entries: defaultdict[type, int] = defaultdict(int)
        self.events = 0
        self.step_seconds = Histogram(STEP_SECONDS)

    def add(self, entries: Iterable[Entry]) -> None:
        """These were committed."""
        counts = self.entries
        for entry in entries:
            counts[type(entry)] += 1
            if type(entry) is journal.StepCompleted and entry.duration_ms:
                self.step_seconds.add(entry.duration_ms / 1000)

    def of(self, kind: type) -> int:
        return self.entries.get(kind, 0)
