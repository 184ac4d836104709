"""Reading JSON that others wrote: what is missing, null or of another type than expected reads as empty.

Providers and the many servers that imitate them differ in what they leave out. For the trace that must never be an
error, so nothing here raises.
"""

from __future__ import annotations

from typing import Any

import msgspec

Document = dict[str, Any]


def text(value: object) -> str:
    """The value if it is text, else the empty text."""
    return value if isinstance(value, str) else ""


def number(value: object) -> int:
    """The value if it is a count, else 0."""
    if isinstance(value, bool):
        return 0
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and value > 0 else 0


def members(value: object) -> Document:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def objects(value: object) -> list[Document]:
    """The objects of the value if it is an array; nothing else of it."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def texts(value: object) -> list[str]:
    """The texts of the value if it is an array; nothing else of it."""
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def written(value: object) -> str:
    """The value as JSON text."""
    return msgspec.json.encode(value).decode()


def paired(value: Any) -> Any:
    """The value with its texts made whole: halves of UTF-16 pairs that came in two pieces are joined, and a half that
    stays alone becomes U+FFFD. Some servers cut texts between such halves."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return value
    if isinstance(value, dict):
        return {paired(name): paired(item) for name, item in value.items()}
    return [paired(item) for item in value] if isinstance(value, list) else value


def media(kind: str, media_type: str, base64_text: str, address: str = "") -> str:
    """What a trace shows in place of a picture or a document: `[image image/png, 12 kB]`."""
    details = ", ".join(
        part for part in (address[:200], f"{len(base64_text) * 3 // 4000} kB" if base64_text else "") if part
    )
    head = " ".join(part for part in (kind, media_type) if part)
    return f"[{head}, {details}]" if details else f"[{head}]"


def data_address(kind: str, address: str, name: str = "") -> str:
    """What a trace shows in place of a `data:` address, or of any other address."""
    if not address.startswith("data:"):
        return media(kind, "", "", name or address)
    head, _, content = address.removeprefix("data:").partition(",")
    return media(kind, head.partition(";")[0], content, name)


def body_document(body: bytes) -> Document:
    """The JSON object in `body`, empty if it is none."""
    try:
        return members(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


class _Asked(msgspec.Struct):
    model: Any = None


_asked = msgspec.json.Decoder(_Asked)


def asked_model(body: bytes) -> str:
    """The member `model` of the JSON object in `body`; of the rest nothing is made."""
    try:
        return text(_asked.decode(body).model)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def parameters(asked: Document, *, leave_out: tuple[str, ...] = ()) -> Document:
    """The members of a request that are single, short values: its settings."""
    return {name: value for name, value in asked.items() if name not in leave_out and _is_setting(value)}


def _is_setting(value: object) -> bool:
    return isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= 200)


def error_message(error: object, body: bytes, status: int) -> str:
    """What an error says: its `message`, or else the beginning of the body, or else the status."""
    if isinstance(error, dict):
        for name in ("message", "detail", "error", "msg"):
            if isinstance(found := error.get(name), str) and found:
                return found[:_MESSAGE_LIMIT]
    shown = " ".join(body[:_MESSAGE_LIMIT].decode("utf-8", "replace").split())
    return shown or f"status {status} without an explanation"


_MESSAGE_LIMIT = 2000
