"""Answers of fetches as traces show them: cookies and tokens in their headers are for the function only."""

from __future__ import annotations

from typing import Any

from stepwell.model.payload import canonical, decode
from stepwell.wire.models.credentials import HIDDEN, is_credential_header


def shown(text: bytes | None) -> bytes | None:
    """The JSON of a result; of one that looks like the answer of a fetch, with its secret headers hidden."""
    if text is None or b'"status_code"' not in text:
        return text
    value = decode(text)
    if not isinstance(value, dict) or not isinstance(value.get("status_code"), int):
        return text
    return canonical(value | {"headers": _shown_headers(value.get("headers"))})


def _shown_headers(headers: Any) -> Any:
    match headers:
        case dict():
            return {name: HIDDEN if is_credential_header(name) else value for name, value in headers.items()}
        case list():
            return [
                [pair[0], HIDDEN] if isinstance(pair, list) and pair and is_credential_header(str(pair[0])) else pair
                for pair in headers
            ]
        case _:
            return headers
