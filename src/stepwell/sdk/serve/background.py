"""One event loop in a thread of its own, for frameworks that have none.

A loop for each request would be simpler and wrong: an HTTP client that a user keeps at module level belongs to
the loop that first used it, and the second request would find that loop closed.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_process = 0


def run_in_background(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on the process's background loop, and wait for its result in this thread."""
    return asyncio.run_coroutine_threadsafe(work, _running_loop()).result()


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop, _process
    with _lock:
        # A web server that forks takes the variable along and leaves the thread behind.
        if _loop is None or _process != os.getpid():
            _process = os.getpid()
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="stepwell serve", daemon=True).start()
        return _loop


def _unlock_after_fork() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_after_fork)
