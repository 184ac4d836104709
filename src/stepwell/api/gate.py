"""A web page in the user's browser must not reach a server that asks for no key.

A browser lets any site send requests to this machine. What gives such a request away are its headers: `Origin` and
`Sec-Fetch-Site` name where it came from, `Host` names what the page believed it was talking to (a name of the
attacker's that was pointed here: DNS rebinding). Programs send no `Origin`, so they are not concerned.

    Host     a loopback name, the bound address or a configured name      else 403
    Origin   our own, or one that a setting names                         anything
             another page of this machine                                 may send events, and with a token read
                                                                          the stream of a run
             anything else                                                403, whatever the method

With a signing key configured the key protects, any site may ask, and browsers are told so (CORS): credentials of ours
are never cookies.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

_ALLOWED_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_MAX_AGE_S = b"600"

_SIGNED = ("/f/", "/upload/", "/v1/f/", "/v1/upload/")
"""Addresses of files, which only those know who were given them."""

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request may not come in. Status 403."""

    reason: str  # a stable word for counters
    message: str


class Gate:
    """Decides by headers alone who may come in.

    Args:
        open: No key protects the server.
        bound: The address it listens on.
        names: Further names that lead here, such as `stepwell.internal`; ports are ignored.
        origins: Of pages that may do everything, such as `http://localhost:3000`.
    """

    def __init__(
        self,
        *,
        open: bool = True,
        bound: str = "127.0.0.1",
        names: Iterable[str] = (),
        origins: Iterable[str] = (),
    ) -> None:
        self._open = open
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)
        self._names = frozenset(_host(name) for name in names)
        self._bound = _host(bound)
        self._everywhere = self._bound in {"0.0.0.0", "::", ""}

    def check(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Refusal | None:
        """Why this request is refused; None if it may come in. Names in `headers` are in lower case."""
        if not self._open:
            return None
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._known(_host(host)):
            return Refusal(
                "host",
                f"the Host header names {host[:100]!r}, which is not a name of this server; "
                "add it with --allowed-host if it should be",
            )
        if path.startswith(_SIGNED):
            return None
        origin = headers.get(b"origin")
        if origin is not None:
            return self._check_origin(origin.decode("latin-1"), host, method, path)
        site = headers.get(b"sec-fetch-site", b"none")
        if site in (b"none", b"same-origin"):
            return None
        if method == "GET" and headers.get(b"sec-fetch-mode") == b"navigate" and b"sec-fetch-user" in headers:
            return None  # somebody clicked a link that leads here
        return Refusal("site", "a page of another site may not use a server that has no keys")

    def _check_origin(self, origin: str, host: str, method: str, path: str) -> Refusal | None:
        if not is_foreign(origin, host) or origin.lower() in self._origins:
            return None
        parts = urlsplit(origin)
        if not (parts.scheme in {"http", "https"} and is_loopback(_host(parts.netloc))):
            return Refusal(
                "origin",
                f"pages of {origin[:100]!r} may not use a server that has no keys; add them with --allowed-origin if "
                "they should",
            )
        if path.startswith("/e/") and method in {"POST", "OPTIONS"}:
            return None
        if path.startswith("/api/runs/") and path.endswith("/stream") and method in {"GET", "OPTIONS"}:
            return None  # whose token is checked
        return Refusal(
            "origin",
            f"pages of {origin[:100]!r} may send events to a server that has no keys and, with a token, read the "
            "stream of a run; nothing else, unless --allowed-origin names them",
        )

    def cors(self, headers: Mapping[bytes, bytes]) -> Headers:
        """What the browser is told about a request that came in."""
        origin = headers.get(b"origin")
        if origin is None:
            return []
        if not self._open:
            return [(b"access-control-allow-origin", b"*")]
        return [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]

    def preflight(self, headers: Mapping[bytes, bytes]) -> Headers:
        """The answer to a browser that asks first."""
        asked = headers.get(b"access-control-request-headers", b"*")
        return [
            *self.cors(headers),
            (b"access-control-allow-methods", _ALLOWED_METHODS),
            (b"access-control-allow-headers", asked[:2000]),
            (b"access-control-max-age", _MAX_AGE_S),
        ]

    def _known(self, host: str) -> bool:
        if host in self._names or host == self._bound or is_loopback(host):
            return True
        return self._everywhere and _is_address(host)  # an address cannot be pointed elsewhere


def is_foreign(origin: str | None, host: str) -> bool:
    """Whether a request comes from a page that is not of this server; those without `Origin` come from none."""
    if origin is None:
        return False
    parts = urlsplit(origin)
    return parts.scheme not in {"http", "https"} or parts.netloc.lower() != host.lower()


def is_loopback(host: str) -> bool:
    """Whether a name or an address means this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _host(netloc: str) -> str:
    """The name in `name:port`, in lower case, without the brackets of an IPv6 address."""
    text = netloc.strip().lower().rpartition("@")[2]
    if text.startswith("["):
        return text[1:].partition("]")[0]
    if text.count(":") > 1:
        return text  # a bare IPv6 address
    return text.partition(":")[0].rstrip(".")
