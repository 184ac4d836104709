"""How far a `map` is: one line on standard error, if that is a terminal."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import Self

_WIDTH = 30


class Progress:
    """Counts what has ended of `total`. `advance` may be called by any thread."""

    def __init__(self, total: int, wanted: bool) -> None:
        self._total = total
        self._done = 0
        self._shown = wanted and total > 0 and sys.stderr is not None and sys.stderr.isatty()
        self._guard = threading.Lock()

    def advance(self) -> None:
        with self._guard:
            self._done += 1
            self._show()

    def __enter__(self) -> Self:
        self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            sys.stderr.write("\n")

    def _show(self) -> None:
        if self._shown:
            filled = _WIDTH * self._done // self._total
            sys.stderr.write(f"\r{'█' * filled}{'░' * (_WIDTH - filled)} {self._done:,}/{self._total:,}")
            sys.stderr.flush()
