"""What the server writes to stderr: lines for people, or one JSON object a line for programs.

A line says what it is about in fields of its own (`FIELDS`), given as `extra` where it is logged. Keys of this server
and passwords in URLs are blacked out in whatever passes, wherever they came from.
"""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from stepwell.model.payload import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable

FIELDS = ("node", "run", "function", "service", "step", "version", "url", "duration_ms")
"""What a line may be about, in this order."""

_PASSWORD = re.compile(r"(?<=://)[^/\s@]*:[^/\s@]*(?=@)")
_HIDDEN = "…"


def set_up(*, as_json: bool, secrets: Iterable[str | None] = ()) -> None:
    """Send everything that `stepwell` logs to stderr, and only warnings of libraries.

    Args:
        secrets: Texts that must not be seen.
    """
    handler = logging.StreamHandler(sys.stderr)
    hide = Hide(secrets)
    handler.setFormatter(JsonLines(hide) if as_json else Lines(hide))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("stepwell").setLevel(logging.INFO)


def name_node(name: str) -> None:
    """From now on each line that does not name a node names this one."""

    def add(record: logging.LogRecord) -> bool:
        if not hasattr(record, "node"):
            record.node = name
        return True

    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, Lines | JsonLines):
            handler.filters[:] = [add]


class Hide:
    """Blacks out secrets."""

    def __init__(self, secrets: Iterable[str | None] = ()) -> None:
        known = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        if self._secrets is not None:
            text = self._secrets.sub(_HIDDEN, text)
        return _PASSWORD.sub(_HIDDEN, text) if "@" in text else text


class Lines(logging.Formatter):
    def __init__(self, hide: Hide | None = None) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")
        self._hide = hide or Hide()

    def format(self, record: logging.LogRecord) -> str:
        return self._hide(super().format(record))


class JsonLines(logging.Formatter):
    def __init__(self, hide: Hide | None = None) -> None:
        super().__init__()
        self._hide = hide or Hide()

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for field in FIELDS:
            if (value := getattr(record, field, None)) is not None:
                line[field] = value if isinstance(value, (int, float)) else str(value)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return canonical({name: self._shown(value) for name, value in line.items()}).decode()

    def _shown(self, value: object) -> object:
        return self._hide(value).encode("utf-8", "replace").decode() if isinstance(value, str) else value
