"""How the commands talk to a running server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx2

Command = TypeVar("Command", bound="Callable[..., Any]")

DEFAULT_URL = "http://localhost:8288"


def url_option(command: Command) -> Command:
    """`--url` and `--key` of commands that ask a server."""
    command = click.option(
        "--key",
        envvar=["STEPWELL_API_KEY", "STEPWELL_SIGNING_KEY"],
        metavar="KEY",
        help="Signing key, if the server has one.",
    )(command)
    return click.option(
        "--url", envvar="STEPWELL_URL", default=DEFAULT_URL, show_default=True, help="Address of the server."
    )(command)


class Api:
    """Requests to a server; what goes wrong becomes one line that says what to do."""

    def __init__(self, url: str, key: str | None = None) -> None:
        import httpx2

        headers = {}
        if key:
            from stepwell.wire.signature import bearer_hash

            headers["Authorization"] = f"Bearer {bearer_hash(key)}"
        self.url = url.rstrip("/")
        self._client: httpx2.Client = httpx2.Client(
            base_url=self.url, headers=headers, timeout=30, trust_env=not _is_local(url)
        )

    def get(self, path: str, **query: Any) -> Any:
        return self._ask("GET", path, params={name: value for name, value in query.items() if value is not None})

    def post(self, path: str, body: Any, **headers: str) -> Any:
        return self._ask("POST", path, json=body, headers=headers)

    def stream(self, path: str, **query: Any) -> Any:
        """A streamed GET, as a context manager."""
        return self._client.stream("GET", path, params=query, timeout=None)

    def _ask(self, method: str, path: str, **arguments: Any) -> Any:
        import httpx2

        try:
            response = self._client.request(method, path, **arguments)
        except httpx2.ConnectError as err:
            raise click.ClickException(
                f"no server answers at {self.url}. Start one with `stepwell dev`, or name another with --url"
            ) from err
        except httpx2.HTTPError as err:
            raise click.ClickException(f"{self.url}{path}: {str(err) or type(err).__name__}") from err
        if response.status_code >= 400:
            raise click.ClickException(_error_text(response))
        return response.json() if response.content else None


def environment_url() -> str:
    return os.environ.get("STEPWELL_URL", DEFAULT_URL)


def _is_local(url: str) -> bool:
    return any(name in url for name in ("//localhost", "//127.0.0.1", "//[::1]"))


def _error_text(response: httpx2.Response) -> str:
    try:
        body = response.json()
        text = body.get("error") or body.get("message") or response.text
    except ValueError:
        text = response.text
    if response.status_code == 401:
        return f"the server wants a key: {text} (set STEPWELL_API_KEY or use --key)"
    return str(text or f"the server answered {response.status_code}")
