"""A value that crosses a border: canonical JSON text, kept as bytes and never encoded again.

A small payload travels inline. A large one is stored once under its content hash and travels as a
`Blob`, so that a run in memory costs little however large its results are. Who needs the text of a
blob asks the store for it. `canonical` is RFC 8785: the same value always has the same bytes, which
is what lets a signature, a content hash and a concatenated request body agree.
"""

from __future__ import annotations

import hashlib
import math
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

NULL = b"null"

INLINE_LIMIT_BYTES = 16 * 1024
"""Payloads above this size become blobs."""


class Blob(msgspec.Struct, frozen=True, array_like=True):
    """A payload stored elsewhere: lower-case hex SHA-256 of its text, and its size in bytes."""

    hash: str
    size_bytes: int


Payload: TypeAlias = bytes | Blob


def size_of(payload: Payload) -> int:
    """The length of the text in bytes, wherever it is kept."""
    return payload.size_bytes if isinstance(payload, Blob) else len(payload)


def blob_of(text: bytes) -> Blob:
    """The reference under which `text` is stored."""
    return Blob(hashlib.sha256(text).hexdigest(), len(text))


def decode(text: bytes | str) -> Any:
    """Read JSON. Raises `ValueError` that names the position; also for text that is not UTF-8."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise ValueError(f"not valid JSON: {err}") from err


_encode_plain = msgspec.json.Encoder().encode
_quote: Callable[[str], str] = encode_basestring


def canonical(value: object) -> bytes:
    """Encode as RFC 8785: sorted by UTF-16 code unit, ECMAScript numbers, nothing escaped needlessly.

    Integers beyond 2**53 are rounded to the nearest double, as every signer of this protocol does.

    Raises:
        ValueError: NaN, infinity, a lone surrogate, or a value that JSON does not have.
    """
    if value is None:
        return NULL
    if value is True:
        return b"true"
    if value is False:
        return b"false"
    pieces: list[str] = []
    _write(value, pieces.append)
    try:
        return "".join(pieces).encode()
    except UnicodeEncodeError as err:
        raise ValueError(f"text with a lone surrogate is not valid Unicode: {err}") from err


def _write(value: object, emit: Callable[[str], None]) -> None:
    if isinstance(value, str):
        emit(_quote(value))
    elif value is None:
        emit("null")
    elif value is True:
        emit("true")
    elif value is False:
        emit("false")
    elif isinstance(value, int):
        emit(_integer(value))
    elif isinstance(value, float):
        emit(_number(value))
    elif isinstance(value, dict):
        _write_object(value, emit)
    elif isinstance(value, (list, tuple)):
        separator = "["
        for item in value:
            emit(separator)
            _write(item, emit)
            separator = ","
        emit("]" if value else "[]")
    else:
        raise ValueError(f"a {type(value).__name__} has no JSON form")


def _write_object(value: dict[Any, object], emit: Callable[[str], None]) -> None:
    if not value:
        emit("{}")
        return
    names = list(value)
    try:
        # Code points and UTF-16 code units sort alike unless a name leaves the basic plane.
        names.sort(key=None if all(map(str.isascii, names)) else _utf16)
    except TypeError as err:
        raise ValueError("names of a JSON object must be text") from err
    separator = "{"
    for name in names:
        emit(separator)
        emit(_quote(name))
        emit(":")
        _write(value[name], emit)
        separator = ","
    emit("}")


def _utf16(name: str) -> bytes:
    return name.encode("utf-16-be", "surrogatepass")


def _integer(value: int) -> str:
    if -9007199254740992 <= value <= 9007199254740992:
        return repr(value)
    try:
        return _number(float(value))
    except OverflowError as err:
        raise ValueError("a number beyond the range of a double has no JSON form here") from err


def _number(value: float) -> str:
    """The shortest text that reads back as `value`, laid out as ECMAScript does."""
    if not math.isfinite(value):
        raise ValueError(f"{value} has no JSON form")
    if value == 0:
        return "0"
    if value.is_integer() and abs(value) < 1e16:
        return str(int(value))
    mantissa, _, exponent_text = f"{value!r}".partition("e")
    if not exponent_text:
        whole, _, fraction = mantissa.partition(".")
        if fraction == "0":
            return whole
        return mantissa
    exponent = int(exponent_text)
    sign = "-" if mantissa.startswith("-") else ""
    digits = mantissa.lstrip("-").replace(".", "").rstrip("0") or "0"
    point = len(mantissa.lstrip("-").partition(".")[0]) + exponent
    if 0 < point <= 21:
        if len(digits) <= point:
            return sign + digits + "0" * (point - len(digits))
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    power = point - 1
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{'+' if power > 0 else ''}{power}"
