"""How the commands talk to a running server."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

import click

from stepwell.cli.output import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import httpx2

Command = TypeVar("Command", bound="Callable[..., Any]")

DEFAULT_URL = "http://localhost:8288"
SILENCE_S = 45.0
"""A stream that says nothing for so long is broken: the server sends something every 15 s."""

UPLOAD_SILENCE_S = 3600.0
"""An answer to something that was sent may be silent for so long: making an environment fetches large packages."""

CONNECT_S = 5.0
"""How long one of several servers may take to accept a connection."""


class ConnectionLost(Exception):
    """A stream broke; it may be opened again."""


class Told(dict[str, Any]):
    """An object out of an answer. A member that every server of ours sends is missing only from answers of others."""

    def __init__(self, url: str, members: dict[str, Any]) -> None:
        super().__init__(members)
        self._url = url

    def __missing__(self, name: str) -> Any:
        raise _stranger(self._url, f"its answer has no {name!r}")


def _stranger(url: str, why: str) -> click.ClickException:
    return click.ClickException(
        f"{url} answers, but not as a Stepwell server does: {printable(why)}. Is --url (or STEPWELL_URL) right?"
    )


def piece(text: str, what: str) -> str:
    """A piece of a path, encoded. Raises a usage error if it is empty or no text; `what` says which argument it is."""
    if not text:
        raise click.UsageError(f"{what} is empty")
    return quote(utf8(text, what), safe="")


def utf8(text: str, what: str) -> str:
    """The text, unless it was bytes on the command line that are not UTF-8, which is a usage error."""
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise click.UsageError(f"{what} is not UTF-8 text (character {err.start + 1})") from err
    return text


def given_json(text: str, option: str) -> Any:
    """The value of an option that takes JSON, `@FILE` with it, or `-` for standard input. Anything else is a usage
    error that names the option."""
    source = option
    try:
        if text == "-":
            source, text = "standard input", sys.stdin.buffer.read().decode()
        elif text.startswith("@"):
            source = f"{option}: the file {text[1:]}"
            with open(text[1:], "rb") as file:
                text = file.read().decode()
        return json.loads(utf8(text, source))
    except OSError as err:
        raise click.UsageError(f"{printable(source)} cannot be read: {err.strerror or err}") from err
    except RecursionError as err:
        raise click.UsageError(f"{printable(source)} is nested too deeply; flatten it") from err
    except ValueError as err:
        raise click.UsageError(f"{printable(source)} is not JSON: {err}") from err


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
    """The address to ask, or several with commas between."""
    try:
        return ",".join(server_url(one) for one in value.split(","))
    except ValueError as err:
        raise click.BadParameter(str(err), ctx, parameter) from err


class Api:
    """Requests to a server; what goes wrong becomes one line that says what to do.

    Args:
        url: Its address, or those of several on one database, with commas between. When one cannot be reached the
            next is asked, and is asked first from then on.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        import httpx2

        headers = {}
        if key:
            headers["Authorization"] = f"Bearer {credential(key)}"
        self._urls = [one.rstrip("/") for one in url.split(",")]
        try:
            self._client: httpx2.Client = httpx2.Client(
                base_url=self.url,
                headers=headers,
                timeout=httpx2.Timeout(30, connect=30 if len(self._urls) == 1 else CONNECT_S),
                trust_env=not all(_is_local(one) for one in self._urls),
            )
        except httpx2.InvalidURL as err:
            raise self._no_address(err) from err
        if (ctx := click.get_current_context(silent=True)) is not None:
            ctx.call_on_close(self._client.close)

    @property
    def url(self) -> str:
        """The server that is asked now."""
        return self._urls[0]

    def _move_on(self) -> None:
        self._urls.append(self._urls.pop(0))
        self._client.base_url = self.url

    def get(self, path: str, **query: Any) -> Any:
        return self._ask("GET", path, params={name: value for name, value in query.items() if value is not None})

    def post(self, path: str, body: Any, **headers: str) -> Any:
        return self._ask("POST", path, json=body, headers=headers)

    def delete(self, path: str) -> None:
        self._ask("DELETE", path)

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
                kind = response.headers.get("content-type", "")
                if not kind.startswith("text/event-stream"):
                    raise _stranger(self.url, f"{_shown(path)} is {kind or 'nothing'} and should be a stream of events")
                on_open()
                number = ""
                for line in response.iter_lines():
                    if line.startswith("id:"):
                        number = line[3:].strip()
                    elif line.startswith("data:"):
                        yield number, self._read(line[5:], path)
        except httpx2.TransportError as err:
            self._move_on()
            raise ConnectionLost(str(err) or type(err).__name__) from err

    def upload(self, path: str, content: Iterable[bytes], **query: str) -> Iterator[Any]:
        """Send bytes, and give the lines of the answer as they come, each an object."""
        import httpx2

        headers = {"Accept": "application/x-ndjson", "Content-Type": "application/octet-stream"}
        waits = httpx2.Timeout(30, read=UPLOAD_SILENCE_S)
        try:
            with self._client.stream(
                "POST", path, params=query, content=content, headers=headers, timeout=waits
            ) as response:
                if response.status_code >= 400:
                    response.read()
                    raise click.ClickException(_error_text(response, path))
                for line in response.iter_lines():
                    if line.strip():
                        yield self._read(line, path)
        except httpx2.ConnectError as err:
            raise click.ClickException(
                f"no server answers at {self.url}. Start one with `stepwell dev`, or name another with --url"
            ) from err
        except httpx2.HTTPError as err:
            raise click.ClickException(f"{self.url}{_shown(path)}: {str(err) or type(err).__name__}") from err

    def _no_address(self, err: Exception) -> click.UsageError:
        return click.UsageError(
            f"--url (or STEPWELL_URL): {printable(self.url)!r} is not the address of a server: {printable(str(err))}"
        )

    def _ask(self, method: str, path: str, **arguments: Any) -> Any:
        import httpx2

        try:
            response = self._reach(method, path, **arguments)
        except (httpx2.InvalidURL, UnicodeError) as err:  # the latter from the name of a host, too
            raise self._no_address(err) from err
        except httpx2.ConnectError as err:
            raise click.ClickException(
                f"no server answers at {' or '.join(self._urls)}. Start one with `stepwell dev`, or name another with "
                "--url"
            ) from err
        except httpx2.HTTPError as err:
            raise click.ClickException(f"{self.url}{_shown(path)}: {str(err) or type(err).__name__}") from err
        if response.status_code >= 400:
            raise click.ClickException(_error_text(response, path))
        if response.status_code == 204:
            return None
        kind = response.headers.get("content-type", "")
        try:
            text = response.content.decode()
        except UnicodeDecodeError as err:
            raise _stranger(self.url, f"{_shown(path)} is {kind or 'something'} that is not UTF-8 text") from err
        return self._read(text, path, kind)

    def _reach(self, method: str, path: str, **arguments: Any) -> httpx2.Response:
        """The answer of the first server that a connection can be made to; nothing is sent twice."""
        import httpx2

        for _ in self._urls[1:]:
            try:
                return self._client.request(method, path, **arguments)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                self._move_on()
        return self._client.request(method, path, **arguments)

    def _read(self, text: str, path: str, kind: str = "something") -> Told:
        """The object that an answer, or an event of a stream, is."""
        try:
            found = json.loads(text, object_hook=partial(Told, self.url))
        except (ValueError, RecursionError) as err:
            raise _stranger(self.url, f"{_shown(path)} is {kind or 'something'} that is not JSON") from err
        if not isinstance(found, Told):
            raise _stranger(self.url, f"{_shown(path)} is JSON and not an object")
        return found


def _is_local(url: str) -> bool:
    return any(name in url for name in ("//localhost", "//127.0.0.1", "//[::1]"))


def _shown(path: str) -> str:
    """A path to be told of. An event key is nobody else's business."""
    return "/e/…" if path.startswith("/e/") else path


def _error_text(response: httpx2.Response, path: str) -> str:
    try:
        body = response.json()
        error = body.get("error") or body.get("detail")  # apps and tasks: an object, or only what is missing
        text = (error.get("message") if isinstance(error, dict) else error) or body.get("message") or response.text
    except (ValueError, AttributeError, RecursionError):
        text = response.text
    text = printable(str(text or ""))
    if response.status_code == 401 and path.startswith("/e/"):
        return f"the server wants an event key: {text} (set STEPWELL_EVENT_KEY or use --event-key)"
    if response.status_code == 401:
        return f"the server wants a key: {text} (set STEPWELL_API_KEY or use --key)"
    return text or f"the server answered {response.status_code}"
