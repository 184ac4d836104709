"""What a program holds: on SIGUSR1 it adds a line to the file that the variable `CENSUS` names.

`tasks` are those of the event loop, `threads` those that Python started, `requests` those that are being answered.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

Application: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

_requests = 0


def install() -> None:
    """Answer the signal from now on. Called by the main thread, which runs the event loop."""
    signal.signal(signal.SIGUSR1, lambda *_: _write())


def counted(app: Application) -> Application:
    """The ASGI application, its open requests counted."""

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        global _requests
        requests = scope["type"] == "http"  # and not the lifespan of the server
        _requests += requests
        try:
            await app(scope, receive, send)
        finally:
            _requests -= requests

    return counting


def _write() -> None:
    gc.collect()
    loop = asyncio.get_running_loop()
    threads = sorted(thread.name for thread in threading.enumerate())
    tasks = sorted(task.get_name() for task in asyncio.all_tasks(loop))
    with open(os.environ["CENSUS"], "a") as file:
        file.write(json.dumps({"tasks": tasks, "threads": threads, "requests": _requests}) + "\n")
