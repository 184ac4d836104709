"""Texts of users as columns: PostgreSQL keeps no NUL in a text, and no index a key above a third of a page.

The value itself is in the row's body; a column only has to be equal when the values are.
"""

from __future__ import annotations

import hashlib

LONGEST_BYTES = 600
"""Three of these and the ids beside them fit into an index."""


def plain(text: str) -> str:
    """The text without NUL; `plainly` is the way back."""
    if "\0" in text or "\1" in text:
        return text.replace("\1", "\1\1").replace("\0", "\1\2")
    return text


def plainly(text: str) -> str:
    return "\1".join([part.replace("\1\2", "\0") for part in text.split("\1\1")]) if "\1" in text else text


def indexed(text: str) -> str:
    """`plain`, or a hash of what is too long for an index."""
    text = plain(text)
    if len(text) > LONGEST_BYTES // 4 and len(encoded := text.encode()) > LONGEST_BYTES:
        return f"\1#{hashlib.sha256(encoded).hexdigest()}"
    return text


def is_hashed(text: str) -> bool:
    return text.startswith("\1#")
