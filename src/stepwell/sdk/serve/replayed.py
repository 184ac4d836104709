"""A short memory of the requests that were served, so that a captured one is not served twice.

A signature is good for five minutes around its time. Within these, somebody who saw a request could send it
again and have a step run again, perhaps under another function's name, since a signature covers the body and
not the URL. Every call of a server has an id and a time of its own, so its own repetitions differ.

One memory belongs to one process. Several processes behind one address have one each.
"""

from __future__ import annotations

MOST_REMEMBERED = 200_000
"""About 25 MB. Beyond it the oldest are forgotten before their time."""


class ReplayMemory:
    """Signatures by the second in which they stop being valid."""

    def __init__(self, *, most: int = MOST_REMEMBERED) -> None:
        self._most = most
        self._until: dict[bytes, int] = {}

    def first_time(self, mark: str, *, until_s: int, now_s: int) -> bool:
        """Whether `mark` was not seen before; remembers it.

        Args:
            mark: The hexadecimal part of the signature. Its time is part of what was signed.
            until_s: When the signature stops being valid, in seconds since 1970.
        """
        key = bytes.fromhex(mark)[:16]
        if self._until.get(key, now_s - 1) >= now_s:
            return False
        self._until.pop(key, None)
        self._until[key] = until_s
        # Those at the front came first; most of them end first, too. Two a time keeps up with one that comes in.
        for _ in range(2):
            oldest = next(iter(self._until))
            if len(self._until) <= self._most and self._until[oldest] >= now_s:
                break
            del self._until[oldest]
        return True
