"""What in a request is a credential, so that the rest can be stored, logged and shown.

`take_out` puts `***` in the place of each value; `Credentials.put_back` puts the values back, in the same order, so
the request that is made is the one that was given; `Credentials.named` says what an answer must not repeat. Nothing
here ever prints a value.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote, unquote_plus

HIDDEN = "***"

_HEADER = re.compile(
    r"(^|[-_])(auth|authorization|api-?_?key|access-?_?key|subscription-?_?key|functions-?_?key|key|token|secret"
    r"|password|cookie2?|credentials?|signature|jwt|session)$",
    re.IGNORECASE,
)
_NOT_SECRET_HEADERS = frozenset({"idempotency-key", "x-idempotency-key", "sec-websocket-key"})
_QUERY = re.compile(
    r"(^|[-_.\[])(auth|authorization|api-?_?key|key|token|sig|signature|secret|password|passwd|pwd|credentials?|jwt)"
    r"\]?$|(api|access|auth|client)[-_]?(key|token|secret)$",
    re.IGNORECASE,
)
_USER = re.compile(r"^([a-z][a-z0-9+.-]*://)([^/?#@]*)@", re.IGNORECASE)
_SHORTEST_KEY = 12  # letters of what nothing but its look says to be a key


def is_credential_header(name: str) -> bool:
    """Whether the value of a header must not be shown; names are compared without case."""
    return name.lower() not in _NOT_SECRET_HEADERS and _HEADER.search(name.strip()) is not None


def is_credential_parameter(name: str) -> bool:
    """Whether the value of a query parameter must not be shown, such as Gemini's `key`."""
    return _QUERY.search(name) is not None


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """The values that were taken out of one request, in the order in which they stood there."""

    auth_key: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    query: tuple[str, ...] = ()
    user: str = ""

    def __repr__(self) -> str:
        return f"Credentials({HIDDEN})" if self else "Credentials()"

    def __bool__(self) -> bool:
        return bool(self.auth_key or self.headers or self.query or self.user)

    def fits(self, url: str, headers: Mapping[str, str]) -> bool:
        """Whether these are the values that the places in `url` and `headers` wait for."""
        user = _USER.match(url)
        return (
            sum(value == HIDDEN for _, value in _parameters(url)) == len(self.query)
            and [name.lower() for name, value in headers.items() if value == HIDDEN]
            == [name.lower() for name, _ in self.headers]
            and (user is not None and user[2] == HIDDEN) == bool(self.user)
        )

    def put_back(self, url: str, headers: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """The URL and the headers as they were given.

        Raises:
            ValueError: These are the credentials of another request; the message shows no value.
        """
        if not self.fits(url, headers):
            raise ValueError("these credentials belong to another request: their places do not fit")
        values = iter(self.query)
        url = _with_parameters(url, lambda _, value: next(values) if value == HIDDEN else value)
        if self.user:
            url = _USER.sub(lambda found: f"{found[1]}{self.user}@", url)
        of_headers = {name.lower(): value for name, value in self.headers}
        return url, {name: of_headers.get(name.lower(), value) for name, value in headers.items()}

    def named(self) -> Iterator[tuple[str, str]]:
        """Name and value of each credential, one by one, as an answer may repeat them: without `Bearer`, unquoted.

        Not every value that was taken out is one: of a header that only may hold a secret, a value that looks like a
        word is none.
        """
        yield "api_key", self.auth_key
        for name, value in self.headers:
            sure = is_credential_header(name)
            yield from ((name.lower(), one) for one in spoken(value) if sure or _looks_secret(one))
        for value in self.query:
            yield "query", unquote_plus(value)
            yield "query", value
        user, _, password = self.user.partition(":")
        yield "password", unquote(password)
        if not password or _looks_secret(unquote(user)):
            yield "user", unquote(user)


def spoken(value: str) -> Iterator[str]:
    """The secrets in the value of a header: the key behind `Bearer`, user and password out of `Basic`, the values of
    cookies that look like keys, or else all of it."""
    scheme, _, rest = value.strip().partition(" ")
    if not rest:
        yield scheme
    elif scheme.lower() == "basic":
        yield rest
        with contextlib.suppress(ValueError):
            user, _, password = base64.b64decode(rest, validate=True).decode("utf-8", "replace").partition(":")
            yield from (password or user, *((user,) if _looks_secret(user) else ()))
    elif " " not in rest.strip() and "=" not in scheme:
        yield rest.strip()
    else:
        yield value
        for piece in value.split(";"):
            word = piece.partition("=")[2].strip()
            if _looks_secret(word):
                yield word


def _looks_secret(word: str) -> bool:
    """Whether a value is like a key: long, one word, letters and digits."""
    return (
        len(word) >= _SHORTEST_KEY
        and not any(letter.isspace() for letter in word)
        and any(letter.isdigit() for letter in word)
        and any(letter.isalpha() for letter in word)
    )


def take_out(url: str, headers: Mapping[str, str], *, auth_key: str = "") -> tuple[str, dict[str, str], Credentials]:
    """The request without its credentials, and the credentials.

    Args:
        url: With credentials in its query or before its host, perhaps.
        headers: Every value is looked at by its name; the order and the spelling of names are kept.
        auth_key: A key that the caller gave beside the request.
    """
    query: list[str] = []

    def hide_parameter(name: str, value: str) -> str:
        if not value or not is_credential_parameter(unquote_plus(name)):
            return value
        query.append(value)
        return HIDDEN

    user = _USER.match(url)
    shown_url = url if user is None else _USER.sub(rf"\g<1>{HIDDEN}@", url)
    shown_url = _with_parameters(shown_url, hide_parameter)
    hidden = tuple((name, value) for name, value in headers.items() if value and is_credential_header(name))
    names = {name for name, _ in hidden}
    shown_headers = {name: HIDDEN if name in names else value for name, value in headers.items()}
    return shown_url, shown_headers, Credentials(auth_key, hidden, tuple(query), user[2] if user else "")


def _parameters(url: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    def look(name: str, value: str) -> str:
        found.append((name, value))
        return value

    _with_parameters(url, look)
    return found


def _with_parameters(url: str, change: Callable[[str, str], str]) -> str:
    """The URL with each value of its query as `change` returns it; every other byte as it was."""
    before, fragment_mark, fragment = url.partition("#")
    address, query_mark, query = before.partition("?")
    if not query:
        return url
    pieces: list[str] = []
    for piece in query.split("&"):
        name, equals, value = piece.partition("=")
        pieces.append(name + equals + change(name, value) if equals else piece)
    return f"{address}{query_mark}{'&'.join(pieces)}{fragment_mark}{fragment}"
