"""What traces do not show: cookies and tokens in the answers of fetches, and what the operator hides by rule.

A rule is a name with `*` in it, perhaps: `email` hides every member of that name, `*_token` those that end so, and
`messages.*.content` those at the end of such a path. What is stored, and what functions get, stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from stepwell.model.payload import canonical, decode
from stepwell.wire.models.credentials import HIDDEN, is_credential_header


@dataclass(frozen=True, slots=True)
class Redaction:
    """The rules of a server."""

    patterns: tuple[str, ...] = ()

    def shown(self, text: bytes | None) -> bytes | None:
        """JSON with `***` in place of what the rules name."""
        if text is None or not self.patterns:
            return text
        return canonical(self._shown(decode(text), ()))

    def _shown(self, value: Any, path: tuple[str, ...]) -> Any:
        match value:
            case dict():
                return {name: self._member(item, (*path, name)) for name, item in value.items()}
            case list():
                return [self._member(item, (*path, str(place))) for place, item in enumerate(value)]
            case str() if value[:1] in ("{", "["):
                return self._inside(value, path)
            case _:
                return value

    def _member(self, value: Any, path: tuple[str, ...]) -> Any:
        if any(_matches(pattern.split("."), path) for pattern in self.patterns):
            return HIDDEN
        return self._shown(value, path)

    def _inside(self, text: str, path: tuple[str, ...]) -> str:
        """The same in a text that is JSON itself, as the bodies of requests are."""
        try:
            value = decode(text)
        except ValueError:
            return text
        hidden = self._shown(value, path)
        return text if hidden == value else canonical(hidden).decode()


NOTHING_HIDDEN = Redaction()


def _matches(pattern: list[str], path: tuple[str, ...]) -> bool:
    """Whether the end of a path is what a rule names."""
    end = path[-len(pattern) :]
    return len(end) == len(pattern) and all(map(fnmatchcase, end, pattern))


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
