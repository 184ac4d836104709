"""`stepwell credential set`, `list`, `remove` and `rotate`: keys that the server keeps for functions.

A value never stands in the command: others could see it there, and shells keep what was typed.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from stepwell.cli.api import Api, piece, url_option, utf8
from stepwell.cli.output import ago_text, dim, instant_of, print_json, printable, say, table

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOCAL = ("localhost", "127.0.0.1", "::1")


@click.group()
def credential() -> None:
    """Keys that the server keeps for functions."""


@credential.command(name="set")
@click.argument("name")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    required=True,
    metavar="HOST",
    help="Where it may be sent: api.openai.com, or http://localhost:8080 where there is no TLS; repeatable.",
)
@click.option("--header", metavar="NAME", help="Header to send it in  [default: what the API of the host wants]")
@click.option("--prefix", metavar="TEXT", help='What stands before it in that header  [Authorization: "Bearer "]')
@click.option("--query", metavar="NAME", help="Parameter of the address to send it in, instead of a header.")
@click.option("--from-env", "variable", metavar="VARIABLE", help="Take the value from this variable.")
@url_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def set_(
    name: str,
    hosts: tuple[str, ...],
    header: str | None,
    prefix: str | None,
    query: str | None,
    variable: str | None,
    url: str,
    key: str | None,
    as_json: bool,
) -> None:
    """Keep a credential under NAME, or exchange its value.

    The value is asked for, or read from what is piped in (`... < key.txt`), or taken from a variable (--from-env).
    Functions use it with credential="NAME".
    """
    if prefix is None and header is not None and header.lower() == "authorization":
        prefix = "Bearer "
    _warn_of_plain_http(url)
    body: dict[str, Any] = {"name": utf8(name, "NAME"), "hosts": [utf8(host, "--host") for host in hosts]}
    for member, given in (("header", header), ("prefix", prefix), ("query", query)):
        if given is not None:
            body[member] = utf8(given, f"--{member}")
    api = Api(url, key)
    kept = api.post("/api/credentials", body | {"value": _value(name, variable)})
    if as_json:
        print_json(kept)
        return
    say(f"{printable(kept['name'])} is kept, for {_hosts(kept['hosts'])} {dim(_place(kept))}", mark="✓", colour="green")


@credential.command(name="list")
@url_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(url: str, key: str | None, as_json: bool) -> None:
    """The credentials that the server keeps. Their values are never shown."""
    found = Api(url, key).get("/api/credentials")
    if as_json:
        print_json(found)
        return
    if not found["credentials"]:
        say("no credentials yet. Keep one:  stepwell credential set NAME --host HOST")
        return
    table((_line(one, found["key"]) for one in found["credentials"]), ("name", "hosts", "place", "changed", "key"))


def _line(kept: dict[str, Any], current: str) -> dict[str, str]:
    key = printable(kept["key"])
    if not kept["usable"]:
        key = click.style(f"{key} is not there: it cannot be used".strip(), fg="red")
    elif kept["key"] != current:
        key = f"{key} {dim('(older)')}"
    return {
        "name": printable(kept["name"]),
        "hosts": _hosts(kept["hosts"]),
        "place": _place(kept),
        "changed": ago_text(instant_of(kept["changed_at"])),
        "key": key,
    }


@credential.command()
@click.argument("name")
@url_option
def remove(name: str, url: str, key: str | None) -> None:
    """Forget the credential NAME. Requests that name it fail from then on."""
    Api(url, key).delete(f"/api/credentials/{piece(name, 'NAME')}")
    say(f"{printable(name)} is gone", mark="✓", colour="green")


@credential.command()
@url_option
def rotate(url: str, key: str | None) -> None:
    """Seal every credential anew with the server's current secret key.

    Start the servers with the new key and the old one as its fallback, rotate, then leave the old one out.
    """
    done = Api(url, key).post("/api/credentials/rotate", {})
    say(
        f"{done['changed']} sealed anew; all are sealed with the key {printable(done['key'])}", mark="✓", colour="green"
    )


def _value(name: str, variable: str | None) -> str:
    """The value, from wherever it was given but the command line."""
    if variable is not None:
        value = os.environ.get(variable, "")
        if not value:
            raise click.UsageError(f"the variable {variable} (--from-env) is not set")
        return value
    if _piped():
        try:
            value = sys.stdin.read().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as err:
            raise click.UsageError("the value that was piped in is not UTF-8 text") from err
        if not value:
            raise click.UsageError("no value was piped in; give it there, or name a variable with --from-env")
        return value
    asked: str = click.prompt(f"Value of {name}", hide_input=True, err=True)
    return asked.strip()


def _piped() -> bool:
    return not sys.stdin.isatty()


def _warn_of_plain_http(urls: str) -> None:
    for url in urls.split(","):
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname not in _LOCAL:
            say(
                f"the value goes to {printable(url)} unencrypted; use https where others may listen",
                mark="!",
                colour="yellow",
            )


def _hosts(origins: Sequence[str]) -> str:
    return printable(", ".join(origin.removeprefix("https://") for origin in origins))


def _place(kept: dict[str, Any]) -> str:
    """Where in a request it stands."""
    if kept["query"]:
        return printable(f"in the parameter {kept['query']}")
    if kept["header"]:
        return printable(f"in the header {kept['header']}: {kept['prefix']}…")
    return "where the API wants it"
