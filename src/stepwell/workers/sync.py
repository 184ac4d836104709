"""Asking services about themselves over HTTP: is there one at this URL, and would it please register.

`PUT {url}` makes an SDK call `POST /fn/register` of the server it was configured with; what it answers to the PUT tells
whether that went well. `GET {url}` is recognised by a header that every answer of an SDK has.

Protocol: sections 3.2, 3.5 and 3.6 of the Inngest wire protocol. When to ask is decided in `stepwell.api.inngest.sync`.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from stepwell.wire import signature
from stepwell.wire.inngest.reply import SDK_HEADER
from stepwell.wire.inngest.text import read, shortened, write
from stepwell.workers.base import Addresses, Aimed, Clock, now_ms
from stepwell.workers.http import LoopbackResolver, place_of

ASK_TIMEOUT_S = 10.0
"""How long a service may take to register (section 3.2)."""
LOOK_TIMEOUT_S = 1.0
"""How long something on this machine may take to say what it is."""
_ANSWER_BYTES = 256 * 1024

_CODES = {401: "unauthorized", 403: "forbidden", 404: "url_not_found", 405: "url_not_found"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of it. `code` is empty when the service says that it has registered, else one of section 3.2, or
    `address_refused`."""

    code: str = ""
    message: str = ""

    @property
    def ok(self) -> bool:
        return not self.code


class SyncClient:
    """Sends the requests; keeps no connection open between two rounds.

    Args:
        signing_key: Signs the PUT; None sends it unsigned, which SDKs accept in dev mode.
        server_kind: `dev` or `cloud`; SDKs of the other mode refuse.
        addresses: Which may be called; None is all.
    """

    def __init__(
        self,
        *,
        signing_key: str | None = None,
        server_kind: str = "dev",
        timeout_s: float = ASK_TIMEOUT_S,
        addresses: Addresses | None = None,
        clock: Clock = now_ms,
    ) -> None:
        self._signing_key = signing_key
        self._kind = server_kind
        self._timeout_s = timeout_s
        self._addresses = addresses
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def look(self, url: str) -> bool | None:
        """Whether an SDK answers there; None when nothing does, so that its other paths need no look."""
        headers = {"X-Inngest-Server-Kind": self._kind}
        self._aim(url)
        try:
            async with (
                asyncio.timeout(LOOK_TIMEOUT_S),
                self._client().get(URL(url, encoded=True), headers=headers, allow_redirects=False) as answer,
            ):
                return SDK_HEADER in answer.headers
        except (aiohttp.ClientConnectorError, TimeoutError):
            return None
        except (aiohttp.ClientError, OSError, ValueError):
            return False

    async def ask(self, url: str) -> Asked:
        """Ask the service at `url` to register."""
        if urlsplit(url).scheme not in {"http", "https"}:
            return Asked("unsupported_protocol", f"{_scheme(url)} cannot be asked to register; use http or https")
        body = write({"url": url})
        headers = {"Content-Type": "application/json", "X-Inngest-Server-Kind": self._kind}
        if self._signing_key is not None:
            headers[signature.HEADER] = signature.sign(body, self._signing_key, self._clock() // 1000)
        aimed = self._aim(url)
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client().put(URL(url, encoded=True), data=body, headers=headers, allow_redirects=False) as answer,
            ):
                text = await answer.content.read(_ANSWER_BYTES)
                return _verdict(answer.status, SDK_HEADER in answer.headers, text)
        except TimeoutError:
            return Asked("unreachable", f"no answer within {self._timeout_s:g} s")
        except aiohttp.ClientConnectorDNSError:
            return Asked("unreachable", "its host name has no address")
        except aiohttp.ClientConnectorError as err:
            if aimed is not None and aimed.refusal:
                return Asked("address_refused", aimed.refusal)
            if isinstance(err, aiohttp.ClientSSLError):
                return Asked("unreachable", shortened(f"its TLS certificate is not accepted: {err}", 300))
            return Asked("unreachable", "it cannot be connected to; is it running?")
        except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError) as err:
            return Asked("unreachable", shortened(str(err) or type(err).__name__, 300))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _aim(self, url: str) -> Aimed | None:
        if self._addresses is None:
            return None
        host, port = place_of(url) or ("", 0)
        return self._addresses.aim(host, port)

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=64,
                    resolver=LoopbackResolver(),
                    force_close=True,
                    socket_factory=self._addresses.socket if self._addresses is not None else None,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "stepwell"},
            )
        return self._session


def _verdict(status: int, from_sdk: bool, text: bytes) -> Asked:
    try:
        value = read(text)
    except ValueError:
        value = None
    said = value if isinstance(value, dict) else {}
    message = said.get("message") or said.get("error")
    message = shortened(message, 500) if isinstance(message, str) else f"it answered HTTP {status}"
    if status == 200 and from_sdk:
        return Asked()
    if not from_sdk and status not in _CODES:
        return Asked("url_not_found", f"HTTP {status} without the header {SDK_HEADER}: no Inngest endpoint is there")
    code = said.get("code")
    if isinstance(code, str) and code and from_sdk:
        return Asked(code[:100], message)
    if status in _CODES:
        return Asked(_CODES[status], message)
    return Asked("internal_server_error" if status >= 500 else "invalid_function", message)


def _scheme(url: str) -> str:
    return f"{urlsplit(url).scheme or 'a URL without scheme'}:"
