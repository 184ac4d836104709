"""JSON text that is put together, not encoded: canonical pieces joined in canonical order are canonical.

A recorded result stays the bytes it was recorded as. A call request, a system event or a reply is built from
such pieces with `compose` and `array`, so a value of a megabyte costs one copy and not an encoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stepwell.model.payload import canonical, decode

EMPTY_OBJECT = b"{}"
EMPTY_ARRAY = b"[]"


def read(text: bytes | str) -> Any:
    """Read JSON.

    Raises:
        ValueError: Not JSON, not UTF-8, or nested too deeply; the message names what and where.
    """
    try:
        return decode(text)
    except RecursionError as err:
        raise ValueError("not acceptable JSON: nested too deeply; flatten the value") from err


def write(value: object) -> bytes:
    """Canonical JSON of a value.

    Raises:
        ValueError: A value that JSON does not have, or one nested too deeply.
    """
    try:
        return canonical(value)
    except RecursionError as err:
        raise ValueError("the value is nested too deeply for JSON; flatten it") from err


def compose(members: Mapping[str, bytes]) -> bytes:
    """A canonical object from canonical members."""
    if not members:
        return EMPTY_OBJECT
    names = sorted(members, key=None if all(map(str.isascii, members)) else _utf16)
    return b"{" + b",".join(b"%b:%b" % (canonical(name), members[name]) for name in names) + b"}"


def order_of(name: str) -> str:
    """By which names of an object are sorted, as text: one letter for each UTF-16 code unit."""
    if name.isascii():
        return name
    units = _utf16(name)
    return "".join(chr(int.from_bytes(units[at : at + 2])) for at in range(0, len(units), 2))


def array(items: Iterable[bytes]) -> bytes:
    """An array of canonical items."""
    return b"[" + b",".join(items) + b"]"


def shortened(text: str, limit: int = 200) -> str:
    """The beginning of a text on one line, for an error message."""
    line = " ".join(text[: limit * 2].split())
    return line if len(line) <= limit and len(text) <= limit * 2 else line[:limit] + " ..."


def size(count_bytes: int) -> str:
    """A number of bytes for people: `4 MiB`, `1.5 KiB`, `12 bytes`."""
    for unit, scale in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count_bytes >= scale:
            return f"{count_bytes / scale:.4g} {unit}"
    return f"{count_bytes} bytes"


def _utf16(name: str) -> bytes:
    return name.encode("utf-16-be", "surrogatepass")
