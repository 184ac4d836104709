"""Large texts go to blobs before anything is decided about them, so that runs in memory stay small."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from stepwell.model import message, op
from stepwell.model.payload import INLINE_LIMIT_BYTES, Blob, Payload, blob_of

if TYPE_CHECKING:
    from stepwell.model.message import Message
    from stepwell.model.op import Op

_FIELDS: dict[type, tuple[str, ...]] = {
    op.StepDone: ("output", "input"),
    op.StepErrored: ("error", "input"),
    op.StepPlanned: ("input",),
    op.Invoke: ("data", "user"),
    op.Offload: ("request",),
    op.Completed: ("output",),
}

_WITH_TEXTS = frozenset({message.Reported, message.Replied, message.Returned, message.Raised, message.OffloadEnded})

AnyOp = TypeVar("AnyOp", bound=msgspec.Struct)


def stored(text: bytes, blobs: dict[Blob, bytes]) -> Payload:
    """The text itself when it is small; else a reference, and the text is added to those to be stored."""
    if len(text) <= INLINE_LIMIT_BYTES:
        return text
    blob = blob_of(text)
    blobs[blob] = text
    return blob


def interned(msg: Message, blobs: dict[Blob, bytes]) -> Message:
    """The same message with large texts replaced by references."""
    if type(msg) not in _WITH_TEXTS:
        return msg
    match msg:
        case message.Reported() | message.Replied() if not any(map(_is_large, msg.ops)):
            return msg
        case message.Reported():
            return message.Reported(msg.call, tuple(_interned(one, blobs) for one in msg.ops), msg.number)
        case message.Replied():
            return message.Replied(msg.call, tuple(_interned(one, blobs) for one in msg.ops), msg.version, msg.info)
        case message.Returned(output=bytes() as text):
            return message.Returned(msg.call, stored(text, blobs), msg.version, msg.info)
        case message.Raised(error=bytes() as text):
            return message.Raised(
                msg.call, stored(text, blobs), msg.retry, msg.retry_at, msg.version, msg.info, msg.code
            )
        case message.OffloadEnded():
            return msgspec.structs.replace(
                msg,
                output=stored(msg.output, blobs) if isinstance(msg.output, bytes) else msg.output,
                error=stored(msg.error, blobs) if isinstance(msg.error, bytes) else msg.error,
            )
        case _:
            return msg


def _is_large(one: Op) -> bool:
    for name in _FIELDS.get(type(one), ()):
        text = getattr(one, name)
        if isinstance(text, bytes) and len(text) > INLINE_LIMIT_BYTES:
            return True
    return False


def _interned(one: AnyOp, blobs: dict[Blob, bytes]) -> AnyOp:
    changes = {}
    for name in _FIELDS.get(type(one), ()):
        text = getattr(one, name)
        if isinstance(text, bytes) and len(text) > INLINE_LIMIT_BYTES:
            changes[name] = stored(text, blobs)
    return msgspec.structs.replace(one, **changes) if changes else one
