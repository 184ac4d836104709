"""Identifiers. Only the intake of events draws new ones; every other id is derived, so that a replay
of the same decision names the same things.

A ULID is 48 bits of milliseconds and 80 bits of entropy in 26 characters of Crockford's base 32.
"""

from __future__ import annotations

import hashlib
import os
import random
from typing import NewType, TypeAlias

RunId = NewType("RunId", str)
JobId = NewType("JobId", str)
EventKey = NewType("EventKey", str)
"""The server's own ULID of a received event; unique, unlike the id that a sender may repeat."""
StepId = NewType("StepId", str)
"""The hashed id of a step as the workers report it: 40 hex digits."""

Instant: TypeAlias = int
"""Milliseconds since 1970 in UTC."""

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(high + low for high in _ALPHABET for low in _ALPHABET)
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}


def ulid(at: Instant, entropy: int) -> str:
    """The ULID of a moment and 80 bits of entropy."""
    pairs = _PAIRS
    high = (at & 0xFFFFFFFFFFFF) << 20 | entropy >> 60 & 0xFFFFF  # 68 bits; written out, since every event has one
    low = entropy & 0xFFFFFFFFFFFFFFF  # 60 bits
    return (
        f"{pairs[high >> 60]}{pairs[high >> 50 & 1023]}{pairs[high >> 40 & 1023]}{pairs[high >> 30 & 1023]}"
        f"{pairs[high >> 20 & 1023]}{pairs[high >> 10 & 1023]}{pairs[high & 1023]}"
        f"{pairs[low >> 50]}{pairs[low >> 40 & 1023]}{pairs[low >> 30 & 1023]}"
        f"{pairs[low >> 20 & 1023]}{pairs[low >> 10 & 1023]}{pairs[low & 1023]}"
    )


def ulid_time(text: str) -> Instant:
    """The moment inside a ULID. Raises `ValueError` if `text` is not one."""
    if len(text) != 26 or text[0] > "7":
        raise ValueError(f"{text!r} is not a ULID: 26 characters of Crockford's base 32")
    moment = 0
    try:
        for letter in text.upper():
            moment = moment << 5 | _VALUES[letter]
    except KeyError as err:
        raise ValueError(f"{text!r} is not a ULID: {err.args[0]!r} is not a letter of it") from err
    return moment >> 80


def derived_ulid(at: Instant, *parts: str) -> str:
    """A ULID that is the same whenever it is asked for with the same moment and parts."""
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    return ulid(at, int.from_bytes(digest[:10]))


def derived_uuid(*parts: str) -> str:
    """A UUID (version 5 layout) that depends on `parts` alone."""
    digest = bytearray(hashlib.sha256("\x1f".join(parts).encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def derived_fraction(*parts: str) -> float:
    """A draw from [0, 1) that depends on `parts` alone: jitter that a replay repeats."""
    return int.from_bytes(hashlib.sha256("\x1f".join(parts).encode()).digest()[:6]) / (1 << 48)


def step_id(name: str, index: int = 0) -> StepId:
    """The hashed id of the `index`-th use of `name` in a run, counted from 0."""
    text = f"{name}:{index}" if index else name
    return StepId(hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class IdSource:
    """Draws ULIDs, rising within one millisecond; seeded in tests and in the simulator."""

    def __init__(self, seed: int | None = None) -> None:
        self._bits = random.Random(os.urandom(16) if seed is None else seed).getrandbits
        self._at = -1
        self._entropy = 0

    def ulid(self, at: Instant) -> str:
        if at > self._at:
            self._at = at
            self._entropy = self._bits(79)
        else:
            self._entropy += 1
        return ulid(self._at, self._entropy)


def shard_of(env: str, root: str) -> int:
    """The shard of a run and all its children, or with an empty root that of the environment itself."""
    return int.from_bytes(hashlib.sha256(f"{env}\x1f{root}".encode()).digest()[:2])
