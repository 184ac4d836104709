"""A value that crosses a border: canonical JSON text, kept as bytes and never encoded again.

A small payload travels inline. A large one is stored once under its content hash and travels as a
`Blob`, so that a run in memory costs little however large its results are. Who needs the text of a
blob asks the store for it. `canonical` is RFC 8785: the same value always has the same bytes, which
is what lets a signature, a content hash and a concatenated request body agree.
"""

from __future__ import annotations

import hashlib
import math
import re
import threading
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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
        raise ValueError(f"not valid JSON: {_half_a_letter(text) or err}") from err


# An escape of one half of a surrogate pair without the other half. Where the text ends within a pair it was cut off,
# which is another mistake.
_LONE = re.compile(
    rb"(?<!\\)(?:\\\\)*(?:"
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F]|\\?u?[dD]?\Z)"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)


def _half_a_letter(text: bytes | str) -> str:
    """What is wrong with a text that has a lone surrogate, of which the decoder says that the text ends too soon."""
    found = _LONE.search(text.encode("utf-8", "replace") if isinstance(text, str) else text)
    if found is None:
        return ""
    return (
        f"{found[0][-6:].decode()} at byte {found.end() - 6} is a lone surrogate, half of a letter that needs two, and "
        "no text in UTF-8 can have it; was a text cut within an emoji? Cut it between letters, or put U+FFFD there"
    )


_encode_sorted = msgspec.json.Encoder(order="sorted").encode
_quote: Callable[[str], str] = encode_basestring


def canonical(value: object) -> bytes:
    """Encode as RFC 8785: sorted by UTF-16 code unit, ECMAScript numbers, nothing escaped needlessly.

    Integers beyond 2**53 are rounded to the nearest double, as every signer of this protocol does; see `roundings`.

    Raises:
        ValueError: NaN, infinity, a lone surrogate, or a value that JSON does not have.
    """
    if value is None:
        return NULL
    if value is True:
        return b"true"
    if value is False:
        return b"false"
    if isinstance(value, (dict, list)):
        if not value:
            return b"{}" if isinstance(value, dict) else b"[]"
        text = _encoded_at_once(value)
        if text is not None:
            return text
    try:
        if isinstance(value, str):
            return _quote(value).encode()
        pieces: list[str] = []
        _write(value, pieces.append)
        return "".join(pieces).encode()
    except UnicodeEncodeError as err:
        raise ValueError(f"text with a lone surrogate is not valid Unicode: {err}") from err


def _encoded_at_once(value: object) -> bytes | None:
    """The same by a library that is several times as fast; None where it may write something else.

    It knows more types than JSON has, which is seen when its text is read again, and it sorts names and writes some
    numbers in its own way, which is seen in the text. What is nested so deeply that others could not follow it is not
    done this way either.
    """
    try:
        text = _encode_sorted(value)
        if msgspec.json.decode(text) != value:
            return None
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError):
        return None
    digits = text.translate(_AS_ZEROS)
    if (
        (b"0e" in digits or b".0," in text or b".0}" in text or b".0]" in text or _MANY_ZEROS in digits)
        and _OTHER_NUMBER.search(text)
    ) or not (text.isascii() or _BEYOND_BASIC_PLANE.search(text) is None):
        return None
    brackets = text.translate(None, _NO_BRACKETS)
    return text if len(brackets) <= _FEW_BRACKETS or _is_flat(brackets) else None


def _is_flat(brackets: bytes) -> bool:
    """Whether they are nested no deeper than `_DEEPEST`. Says no when that takes long to find out, too."""
    if len(brackets) > _MANY_BRACKETS:
        return False
    for _ in range(_DEEPEST):
        brackets = brackets.replace(b"{}", b"").replace(b"[]", b"")
        if not brackets:
            return True
    return False


_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_MANY_ZEROS = b"0" * 16
# A whole number with a fraction, an exponent, or more digits than every integer may have.
_OTHER_NUMBER = re.compile(rb"[:\[,]-?(?:[0-9]+\.0[,\]}]|[0-9.]+e|[0-9]{16})")
_BEYOND_BASIC_PLANE = re.compile(rb"[\xf0-\xf4]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_FEW_BRACKETS = 100
_MANY_BRACKETS = 100_000
_DEEPEST = 16


class _Roundings(threading.local):
    count = 0


_roundings = _Roundings()


def roundings() -> int:
    """How many integers `canonical` has changed in this thread. Who has to tell of it compares before and after, which
    costs nothing while there are none, and then asks `first_rounded`."""
    return _roundings.count


def first_rounded(value: object) -> tuple[int, int] | None:
    """The first integer in `value` that `canonical` changes, and what it becomes."""
    parts: Iterable[object] = ()
    if isinstance(value, int) and not isinstance(value, bool):
        back = _read_back(_integer(value))
        return None if back == value else (value, back)
    if isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, (list, tuple)):
        parts = value
    return next((found for part in parts if (found := first_rounded(part)) is not None), None)


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
        emit(_integer(int(value)))
    elif isinstance(value, float):
        emit(_number(float(value)))
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
        text = _number(float(value))
    except OverflowError as err:
        raise ValueError("a number beyond the range of a double has no JSON form here") from err
    if _read_back(text) != value:
        _roundings.count += 1
    return text


def _read_back(integer: str) -> int:
    """The integer as its readers see it: 2**60 is written as 1152921504606847000, which most of them take for that."""
    return int(float(integer)) if "e" in integer else int(integer)


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
