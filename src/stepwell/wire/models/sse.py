"""Server-sent events, out of bytes that were cut anywhere.

Lines end with LF, CR or CR LF. All three are ASCII, so cutting inside a UTF-8 character does no harm: an event is
only decoded when it is whole. What is not an event stream's line at all (some providers put a bare JSON error into
the middle) is kept as `stray`, up to a limit.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from stepwell.wire.models.errors import AnswerTooLarge

_END_OF_LINE = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"
_STRAY_LIMIT_BYTES = 64 * 1024
_FIELDS = (b"data", b"event", b"id", b"retry", b"")


class ServerSentEvent(NamedTuple):
    name: str
    data: bytes


class EventStream:
    """The events of one stream.

    Args:
        event_limit_bytes: The most that one event may hold.
    """

    def __init__(self, event_limit_bytes: int) -> None:
        self.stray = bytearray()
        self._limit_bytes = event_limit_bytes
        self._rest = bytearray()  # the beginning of a line that has no end yet
        self._after_cr = False  # an LF that comes now is the second half of CR LF
        self._at_start = True
        self._name = ""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that became complete.

        Raises:
            AnswerTooLarge: An event is above the limit.
        """
        if not chunk:
            return []
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r")
        if b"\r" not in chunk:
            if self._at_start and not self._rest:
                self._at_start = chunk.startswith(_BOM[:1])
            if not (self._rest or self._data or self._name or self._at_start):
                return self._feed_whole(chunk)
            lines = chunk.split(b"\n")
        else:
            lines = _END_OF_LINE.split(chunk)
        return self._feed_lines(lines)

    def _feed_whole(self, chunk: bytes) -> list[ServerSentEvent]:
        """The same of a chunk at the beginning of an event. Nearly all have one line of data, perhaps behind one with a
        name, and come whole."""
        events: list[ServerSentEvent] = []
        blocks = chunk.split(b"\n\n")
        rest = blocks.pop()
        for at, block in enumerate(blocks):
            name, line = "", block
            if block.startswith(b"event: "):
                first, _, line = block.partition(b"\n")
                name = first[7:].decode("utf-8", "replace")
            if b"\n" in line or not line.startswith(b"data: ") or len(line) > self._limit_bytes:
                rest = b"\n\n".join([*blocks[at:], rest])
                break
            events.append(ServerSentEvent(name, line[6:]))
        return [*events, *self._feed_lines(rest.split(b"\n"))] if rest else events

    def _feed_lines(self, lines: list[bytes]) -> list[ServerSentEvent]:
        self._rest += lines[0]
        if len(lines) == 1:
            self._check(len(self._rest))
            return []
        events: list[ServerSentEvent] = []
        self._line(bytes(self._rest), events)
        for line in lines[1:-1]:
            self._line(line, events)
        self._rest = bytearray(lines[-1])
        self._check(len(self._rest))
        return events

    def close(self) -> list[ServerSentEvent]:
        """The event that the stream's end left without its empty line, if any."""
        events: list[ServerSentEvent] = []
        if self._rest:
            self._line(bytes(self._rest), events)
            self._rest.clear()
        self._line(b"", events)
        return events

    def _line(self, line: bytes, events: list[ServerSentEvent]) -> None:
        if self._at_start:
            line = line.removeprefix(_BOM)
            self._at_start = False
        if not line:
            if self._data:
                events.append(ServerSentEvent(self._name, b"\n".join(self._data)))
            self._name, self._data, self._data_bytes = "", [], 0
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._data_bytes += len(value) + 1
            self._check(self._data_bytes)
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
        elif field not in _FIELDS and len(self.stray) < _STRAY_LIMIT_BYTES:
            self.stray += line[:_STRAY_LIMIT_BYTES] + b"\n"

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._limit_bytes:
            raise AnswerTooLarge("one event of the provider's stream", self._limit_bytes)
