"""A named credential on its way into a request: where it may go, and where in the request it stands.

It is sent to the places that it is bound to and takes the place of any key that the request brings.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TypeAlias
from urllib.parse import quote, urlsplit, urlunsplit

from stepwell.gateway.fetch import origin
from stepwell.model.credential import CredentialRefused, Opened
from stepwell.wire.models.credentials import spoken
from stepwell.wire.models.dialect import Dialect
from stepwell.wire.offload import KEY_HEADERS

Find: TypeAlias = Callable[[str, str], Awaitable[Opened]]
"""Environment and name to a credential. Raises `CredentialRefused`, or `StoreUnavailable`."""


class Named:
    """One credential, for one request."""

    def __init__(self, opened: Opened) -> None:
        self._credential, self._value = opened.credential, opened.value

    @property
    def name(self) -> str:
        return self._credential.name

    def secrets(self) -> Iterator[tuple[str, str]]:
        """Name and value, as an answer may repeat it."""
        for value in spoken(f"{self._credential.prefix}{self._value}"):
            yield self.name, value
        yield self.name, self._value

    def check(self, url: str) -> None:
        """Raises `CredentialRefused` if it must not be sent to an address."""
        asked = origin(url)
        if asked in map(origin, self._credential.origins):
            return
        scheme, host, port = asked
        raise CredentialRefused(
            f"the credential {self.name!r} may be sent to {', '.join(self._credential.origins)} only, and this request "
            f"goes to {scheme}://{host}:{port}; whoever runs the server can change that with `stepwell credential set`"
        )

    def added(self, url: str, headers: Mapping[str, str], dialect: Dialect | None) -> tuple[str, dict[str, str]]:
        """The request with the credential, and without keys of its own. `dialect` is that of the API, if known."""
        credential, value = self._credential, self._value
        kept = {name: text for name, text in headers.items() if name.lower() not in KEY_HEADERS}
        if credential.query:
            return _with_parameter(url, credential.query, value), kept
        if credential.header:
            kept = {name: text for name, text in kept.items() if name.lower() != credential.header.lower()}
            return url, kept | {credential.header: f"{credential.prefix}{value}"}
        if dialect is None or dialect.raw:
            return url, kept | {"Authorization": f"Bearer {value}"}
        return url, kept | dialect.authentication(value)


def _with_parameter(url: str, name: str, value: str) -> str:
    parts = urlsplit(url)
    others = [piece for piece in parts.query.split("&") if piece and piece.partition("=")[0] != quote(name, safe="")]
    query = "&".join([*others, f"{quote(name, safe='')}={quote(value, safe='')}"])
    return urlunsplit(parts._replace(query=query))
