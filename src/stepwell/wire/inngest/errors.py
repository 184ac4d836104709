"""Error objects of the server's own making. Those that an SDK wrote are read in `stepwell.model.failure`."""

from __future__ import annotations

from typing import Any

from stepwell.model.failure import status_text
from stepwell.wire.inngest.text import write


def own_error(name: str, message: str, *, status: int = 0) -> bytes:
    """An error that this server found, as a canonical error object.

    Args:
        status: The HTTP status it came from; adds the member `error`, as the standard error has it.
    """
    error: dict[str, Any] = {"name": name, "message": message}
    if status:
        error["error"] = status_text(status)
    return write(error)
