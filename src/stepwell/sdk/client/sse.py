"""Server-sent events out of pieces of bytes, however these were cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

LARGEST_LINE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Message:
    """One event of the stream. `id` is the last one that the stream has given, this event's or an earlier one's."""

    kind: str
    data: str
    id: str


class EventStream:
    """Reads one stream. An event that the connection broke off in the middle of is not given out."""

    def __init__(self) -> None:
        self._rest = b""
        self._kind = ""
        self._data: list[str] = []
        self._id = ""

    def feed(self, piece: bytes) -> Iterator[Message]:
        """The events that `piece` completes. Raises `ValueError` for a line that does not end."""
        text = self._rest + piece
        lines = text.replace(b"\r\n", b"\n").split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > LARGEST_LINE_BYTES:
            raise ValueError("a line of the stream does not end")
        for line in lines:
            if line:
                self._read(line.decode("utf-8", "replace"))
            elif self._data:
                message = Message(self._kind or "message", "\n".join(self._data), self._id)
                self._kind, self._data = "", []
                yield message
            else:
                self._kind = ""

    def _read(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._kind = value
        elif name == "id" and "\0" not in value:
            self._id = value
