"""Our own REST for named credentials: set, list, remove. A value comes in and is never told again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.responses import Response

from stepwell.api import answers
from stepwell.api.answers import instant
from stepwell.api.routes import Ask, Route
from stepwell.model.credential import Credential, check_name
from stepwell.model.errors import InvalidInput
from stepwell.wire.offload import is_plain_header

if TYPE_CHECKING:
    from stepwell.node.credentials import Credentials

MAX_VALUE_LETTERS = 8 * 1024
MIN_VALUE_LETTERS = 8
"""A shorter value could not be told from the words of an answer, from which values are taken out."""
MAX_HOSTS = 20
_MAX_LETTERS = 256  # of a header's or a parameter's name, and of a prefix
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\]")
_OF_THE_CONNECTION = frozenset(
    {"host", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "stepwell-credential"}
)


def routes() -> list[Route]:
    return [
        Route("GET", "/api/credentials", credentials),
        Route("POST", "/api/credentials", put),
        Route("POST", "/api/credentials/rotate", rotate),
        Route("DELETE", "/api/credentials/{name}", remove),
    ]


async def credentials(ask: Ask) -> Response:
    """The credentials that the server keeps, without their values."""
    kept = ask.site.node.credentials
    found = [_shown(one, kept) for one in await kept.all(ask.site.env)]
    return answers.json({"credentials": found, "key": kept.key})


async def put(ask: Ask) -> Response:
    """Keep a credential, in the place of the one with its name."""
    site = ask.site
    body = await ask.json()
    value = _text(body, "value", MAX_VALUE_LETTERS)
    if len(value) < MIN_VALUE_LETTERS:
        raise InvalidInput(
            f"value has {len(value)} letters and must have {MIN_VALUE_LETTERS} at least; a shorter one cannot be told "
            "from ordinary words",
            field="value",
        )
    if any(not " " <= letter <= "~" for letter in value):
        raise InvalidInput("value has letters that no header can have: only printable ASCII goes", field="value")
    credential = _read(body, site.env, site.node.world.now())
    kept = await site.node.credentials.put(credential, value)
    return answers.json(_shown(kept, site.node.credentials), 201 if kept.created_at == kept.changed_at else 200)


async def rotate(ask: Ask) -> Response:
    """Seal every value anew with the server's current key."""
    kept = ask.site.node.credentials
    return answers.json({"changed": await kept.rotate(), "key": kept.key})


async def remove(ask: Ask) -> Response:
    """Forget a credential."""
    await ask.site.node.credentials.remove(ask.site.env, ask.part("name"))
    return Response(status_code=204)


def _shown(credential: Credential, kept: Credentials) -> dict[str, Any]:
    return {
        "name": credential.name,
        "hosts": list(credential.origins),
        "header": credential.header,
        "query": credential.query,
        "prefix": credential.prefix,
        "key": kept.key_of(credential),
        "usable": kept.usable(credential),
        "created_at": instant(credential.created_at),
        "changed_at": instant(credential.changed_at),
    }


def _read(body: dict[str, Any], env: str, now: int) -> Credential:
    name = _text(body, "name", _MAX_LETTERS)
    try:
        check_name(name)
    except ValueError as err:
        raise InvalidInput(str(err), field="name") from None
    hosts = body.get("hosts")
    if not isinstance(hosts, list) or not hosts or not all(isinstance(one, str) for one in hosts):
        raise InvalidInput(
            "hosts must be a list of the places that the credential may be sent to, such as api.openai.com",
            field="hosts",
        )
    if len(hosts) > MAX_HOSTS:
        raise InvalidInput(f"hosts has {len(hosts)} places and may have {MAX_HOSTS}", field="hosts")
    header, query = _text(body, "header", _MAX_LETTERS), _text(body, "query", _MAX_LETTERS)
    prefix = _text(body, "prefix", _MAX_LETTERS)
    if header and query:
        raise InvalidInput("header and query are both given; a credential goes into one of them", field="query")
    if header and (not _TOKEN.fullmatch(header) or header.lower() in _OF_THE_CONNECTION or is_plain_header(header)):
        raise InvalidInput(f"header {header[:80]!r} is no header that holds a credential", field="header")
    if prefix and not header:
        raise InvalidInput("prefix goes before the value in a header; give header, too", field="prefix")
    if any(not " " <= letter <= "~" for letter in prefix + query):
        raise InvalidInput("prefix and query may have printable ASCII only", field="prefix")
    return Credential(
        name=name,
        env=env,
        origins=tuple(dict.fromkeys(map(read_host, hosts))),
        header=header,
        query=query,
        prefix=prefix,
        changed_at=now,
    )


def read_host(text: str) -> str:
    """`api.openai.com`, `api.example.com:8443` or `http://localhost:8080` as an origin. Raises `InvalidInput`."""
    scheme, separator, rest = text.strip().lower().partition("://")
    if not separator:
        scheme, rest = "https", text.strip().lower()
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        port = parts.port
        known = scheme in {"http", "https"} and parts.netloc == rest.rstrip("/") and "@" not in rest
        host = parts.netloc.removesuffix(f":{port}") if port is not None else parts.netloc
    except ValueError:
        known, port, host = False, None, ""
    if not known or port == 0 or not _HOST.fullmatch(host):
        raise InvalidInput(
            f"{text[:120]!r} is no host; write api.example.com, api.example.com:8443, or http://localhost:8080 where "
            "there is no TLS",
            field="hosts",
        )
    usual = {"http": 80, "https": 443}[scheme]
    return f"{scheme}://{host}" if port in (None, usual) else f"{scheme}://{host}:{port}"


def _text(body: dict[str, Any], name: str, most: int) -> str:
    value = body.get(name, "")
    if not isinstance(value, str):
        raise InvalidInput(f"{name} must be text", field=name)
    if len(value) > most:
        raise InvalidInput(f"{name} has {len(value)} letters and may have {most}", field=name)
    return value
