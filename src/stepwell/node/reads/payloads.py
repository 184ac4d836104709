"""Texts of payloads, fetched only when a screen shows them, and errors as people read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stepwell.model.payload import Blob, Payload, decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.store.base import Store


@dataclass(frozen=True, slots=True)
class ErrorText:
    """A recorded error, whatever shape its worker gave it. `cause` is JSON."""

    name: str
    message: str
    stack: str | None = None
    cause: Any = None


async def texts_of(store: Store, payloads: Sequence[Payload]) -> list[bytes]:
    """The JSON texts of payloads, in order, with one look into the store for all that are kept apart."""
    apart = [payload for payload in payloads if isinstance(payload, Blob)]
    if not apart:
        return [payload for payload in payloads if isinstance(payload, bytes)]
    found = dict(zip(apart, await store.read_blobs(apart), strict=True))
    return [found[payload] if isinstance(payload, Blob) else payload for payload in payloads]


async def text_of(store: Store, payload: Payload | None) -> bytes | None:
    """The JSON text of one payload, if there is one."""
    if isinstance(payload, Blob):
        return (await store.read_blobs((payload,)))[0]
    return payload


def read_error(text: bytes) -> ErrorText:
    """An error object, or whatever stands in place of one."""
    value = decode(text)
    if not isinstance(value, dict):
        return ErrorText("Error", value if isinstance(value, str) else text.decode())
    stack = value.get("stack")
    message = value.get("message")
    return ErrorText(
        name=str(value.get("name") or "Error"),
        message=message if isinstance(message, str) else "" if message is None else text.decode(),
        stack=stack if isinstance(stack, str) else None,
        cause=value.get("cause"),
    )
