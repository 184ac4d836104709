"""Lines of a stream: one JSON value each, as NDJSON or as server-sent events.

    NDJSON    {...}\\n
    SSE       id: 57\\ndata: {...}\\n\\n                 unnamed, whatever the value: what `onmessage` gets
              event: delta\\nid: 58\\ndata: {...}\\n\\n   of a typed event

A value with nothing around it is a whole object; `{"data", "fields"}` is a part of one; `{"event", "data"}` is typed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
RETRY_MS = 1_000

_encode = msgspec.json.Encoder().encode
_HEARTBEAT = b'{"type":"heartbeat"}'


def wants_lines(accept: str) -> bool:
    """Whether somebody who accepts that wants NDJSON; everybody else gets server-sent events."""
    return NDJSON in accept or "application/jsonl" in accept


class Framing:
    """Writes values one way or the other. An id goes with server-sent events only."""

    def __init__(self, lines: bool) -> None:
        self.lines = lines
        self.content_type = NDJSON if lines else SSE

    def opening(self) -> bytes:
        """What comes before anything else: how soon to come back, for those who listen to server-sent events."""
        return b"" if self.lines else b"retry: %d\n\n" % RETRY_MS

    def whole(self, value: object, at: str = "") -> bytes:
        """A whole object."""
        return self._frame(_encode(value), at)

    def part(self, data: dict[str, Any], fields: Sequence[str], at: str = "", event: str = "") -> bytes:
        """The fields of an object that have changed, under their own names; `data` has who it is besides."""
        value = {"event": event, "data": data, "fields": fields} if event else {"data": data, "fields": fields}
        return self._frame(_encode(value), at)

    def typed(self, event: str, data: dict[str, Any], at: str = "") -> bytes:
        """A typed event."""
        return self._frame(_encode({"event": event, "data": data}), at, event)

    def heartbeat(self) -> bytes:
        """Nothing new, but still there."""
        return self._frame(_HEARTBEAT)

    def done(self, at: str) -> bytes:
        """The end, for those who listen to server-sent events; the last line says it already otherwise."""
        return b"" if self.lines else b"event: done\nid: %b\ndata: {}\n\n" % at.encode()

    def _frame(self, text: bytes, at: str = "", event: str = "") -> bytes:
        if self.lines:
            return text + b"\n"
        name = b"event: %b\n" % event.encode() if event else b""
        place = b"id: %b\n" % at.encode() if at else b""
        return b"%b%bdata: %b\n\n" % (name, place, text)
