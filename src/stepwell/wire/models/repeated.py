"""Events of a stream that say the same as the one before, but for one text.

With every few letters of an answer a provider tells its names, ids and settings again. An event with the same bytes
around its text says the same but for that text, so its text is all that has to be read: a tenth of the work.
"""

from __future__ import annotations

import re
from functools import cache

import msgspec

_TEXT = rb'": ?"([^"\\]*(?:\\.[^"\\]*)*)"'
_PADDING = re.compile(rb',"obfuscation": ?"[A-Za-z0-9]*"\}\Z')
"""What OpenAI ends its events with, so that their lengths tell nothing."""


@cache
def _looked_for(name: str) -> tuple[bytes, re.Pattern[bytes]]:
    return b'"%b":' % name.encode(), re.compile(b'"%b' % name.encode() + _TEXT)


_string = msgspec.json.Decoder(str)


class Repeated:
    """Reads the text of an event that is otherwise the last one that was learned.

    Args:
        name: Of the member that holds the text.
    """

    def __init__(self, name: str) -> None:
        self._name, self._text = _looked_for(name)
        self._known = False
        self._head = self._tail = self._padding = b""

    def learn(self, data: bytes) -> None:
        """This event was read. What it says beside its text changes nothing when it is said again."""
        found = self._text.search(data)
        self._known = found is not None and data.count(self._name) == 1
        if found is None or not self._known:
            return
        padding = _PADDING.search(data, found.end())
        self._head = data[: found.start(1)]
        self._tail = data[found.end(1) : len(data) if padding is None else padding.start()]
        self._padding = b"" if padding is None else padding[0][: padding[0].rindex(b'"', 0, -2) + 1]

    def text(self, data: bytes) -> str | None:
        """The text of an event like the last one. None: it is another one."""
        if not self._known or not data.startswith(self._head):
            return None
        end = len(data)
        if self._padding:
            end = data.rfind(self._padding)
            if end < 0 or not data.endswith(b'"}') or not data[end + len(self._padding) : -2].isalnum():
                return None
        start = len(self._head)
        if end - start < len(self._tail) or not data.endswith(self._tail, start, end):
            return None
        try:
            return _string.decode(b'"%b"' % data[start : end - len(self._tail)])
        except (msgspec.DecodeError, UnicodeDecodeError):  # it has an end and a beginning within, or half a letter
            return None
