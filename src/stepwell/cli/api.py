"""How the commands talk to a running server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

from stepwell.cli.output import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx2

Command = TypeVar("Command", bound="Callable[..., Any]")

DEFAULT_URL = "http://localhost:8288"
SILENCE_S = 45.0
"""A stream that says nothing for so long is broken: the server sends something every 15 s."""


class ConnectionLost(Exception):
    """A stream broke; it may be opened again."""


def url_option(command: Command) -> Command:
    """`--url` and `--key` of commands that ask a server."""
    command = click.option(
        "--key",
        envvar=["STEPWELL_API_KEY", "STEPWELL_SIGNING_KEY"],
        metavar="KEY",
        help="Signing key, if the server has one.",
    )(command)
    return click.option(
        "--url",
        envvar="STEPWELL_URL",
        default=DEFAULT_URL,
        show_default=True,
        callback=_url,
        help="Address of the server.",
    )(command)


def server_url(text: str) -> str:
    """The address of a server as people write it, with its scheme: `localhost:8288` is `http://localhost:8288`.

    Raises:
        ValueError: It cannot be one.
    """
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        scheme, rest = "http", text.strip()
    scheme = {"http": "http", "https": "https", "ws": "http", "wss": "https"}.get(scheme.lower(), "")
    place = urlsplit(f"{scheme}://{rest}")
    usable = bool(scheme and place.hostname) and " " not in rest
    known = separator or place.port is not None or place.hostname == "localhost" or "." in rest
    if not (usable and known):
        raise ValueError(f"{text!r} is not the address of a server; write http://host:8288")
    return f"{scheme}://{rest.rstrip('/')}"


def credential(key: str) -> str:
    """What a client sends to show that it has the signing key; a key that cannot be one is a usage error."""
    from stepwell.wire.signature import bearer_hash

    try:
        return bearer_hash(key)
    except ValueError as err:
        raise click.UsageError(f"--key (or STEPWELL_API_KEY, STEPWELL_SIGNING_KEY): {err}") from err


def _url(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """The address to ask: of several, which STEPWELL_URL may have for workers, the first. A worker gets them all."""
    try:
        addresses = [server_url(one) for one in value.split(",")]
        return ",".join(addresses) if ctx.command.name == "worker" else addresses[0]
    except ValueError as err:
        raise click.BadParameter(str(err), ctx, parameter) from err


class Api:
    """Requests to a server; what goes wrong becomes one line that says what to do."""

    def __init__(self, url: str, key: str | None = None) -> None:
        import httpx2

        headers = {}
        if key:
            headers["Authorization"] = f"Bearer {credential(key)}"
        self.url = url.rstrip("/")
        self._client: httpx2.Client = httpx2.Client(
            base_url=self.url, headers=headers, timeout=30, trust_env=not _is_local(url)
        )

    def get(self, path: str, **query: Any) -> Any:
        return self._ask("GET", path, params={name: value for name, value in query.items() if value is not None})

    def post(self, path: str, body: Any, **headers: str) -> Any:
        return self._ask("POST", path, json=body, headers=headers)

    def events(self, path: str, after: str | None, on_open: Callable[[], None]) -> Iterator[tuple[str, Any]]:
        """Server-sent events after the one with the id `after`: id and value of each, until the stream ends.

        `on_open` is called once the server has answered; the first event may be hours away.

        Raises:
            ConnectionLost: The server has gone, or refuses for the moment.
        """
        import httpx2

        headers = {"Last-Event-ID": after} if after is not None else {}
        waits = httpx2.Timeout(5, read=SILENCE_S)
        try:
            with self._client.stream("GET", path, headers=headers, timeout=waits) as response:
                if response.status_code >= 400:
                    response.read()
                    if response.status_code >= 500 or response.status_code == 429:
                        raise ConnectionLost(_error_text(response, path))
                    raise click.ClickException(_error_text(response, path))
                on_open()
                number = ""
                for line in response.iter_lines():
                    if line.startswith("id:"):
                        number = line[3:].strip()
                    elif line.startswith("data:"):
                        yield number, json.loads(line[5:])
        except httpx2.TransportError as err:
            raise ConnectionLost(str(err) or type(err).__name__) from err

    def _ask(self, method: str, path: str, **arguments: Any) -> Any:
        import httpx2

        try:
            response = self._client.request(method, path, **arguments)
        except httpx2.ConnectError as err:
            raise click.ClickException(
                f"no server answers at {self.url}. Start one with `stepwell dev`, or name another with --url"
            ) from err
        except httpx2.HTTPError as err:
            shown = "/e/…" if path.startswith("/e/") else path  # an event key is nobody else's business
            raise click.ClickException(f"{self.url}{shown}: {str(err) or type(err).__name__}") from err
        if response.status_code >= 400:
            raise click.ClickException(_error_text(response, path))
        return response.json() if response.content else None


def _is_local(url: str) -> bool:
    return any(name in url for name in ("//localhost", "//127.0.0.1", "//[::1]"))


def _error_text(response: httpx2.Response, path: str) -> str:
    try:
        body = response.json()
        text = body.get("error") or body.get("message") or response.text
    except ValueError:
        text = response.text
    text = printable(str(text or ""))
    if response.status_code == 401 and path.startswith("/e/"):
        return f"the server wants an event key: {text} (set STEPWELL_EVENT_KEY or use --event-key)"
    if response.status_code == 401:
        return f"the server wants a key: {text} (set STEPWELL_API_KEY or use --key)"
    return text or f"the server answered {response.status_code}"
