"""Named credentials: keys that the server keeps for functions, each bound to the places that may see it.

A value is kept sealed: encrypted with a key of the server's that is in no database, together with what it is bound to,
so that neither a copy of the database nor a change in it gets at a value. Elsewhere: keeping them
(`stepwell.node.credentials`), sealing (`stepwell.server.cipher`), sending them (`stepwell.gateway`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import msgspec

from stepwell.model.errors import StepwellError
from stepwell.model.event import DEV_ENV
from stepwell.model.ids import Instant
from stepwell.model.payload import canonical


class Credential(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A named credential as it is stored.

    `origins` are the only places that it is sent to: `https://api.openai.com`, `http://localhost:8080`. It goes into
    `header` after `prefix`, or into the parameter `query` of the address; with neither to where the API of the place
    wants it.
    """

    name: str
    env: str = DEV_ENV
    origins: tuple[str, ...] = ()
    header: str = ""
    query: str = ""
    prefix: str = ""
    sealed: bytes = b""  # the value
    created_at: Instant = 0
    changed_at: Instant = 0

    @property
    def bound(self) -> bytes:
        """What the value is sealed together with."""
        return canonical(["named", self.env, self.name, list(self.origins), self.header, self.query, self.prefix])


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a credential may be called."""


def check_name(name: str) -> None:
    """Raises `ValueError` for what cannot be the name of a credential."""
    if not NAME.fullmatch(name):  # which is not shown: it may be a key, given here by mistake
        raise ValueError(
            "the name of a credential has up to 64 letters, digits, dots, dashes and underscores, and begins with a "
            "letter or a digit"
        )


@dataclass(frozen=True, slots=True, repr=False)
class Opened:
    """A named credential with its value, to be sent and not to be stored or shown."""

    credential: Credential
    value: str


class Cipher(Protocol):
    """Seals texts with keys of the server's."""

    @property
    def key(self) -> str:
        """The name of the key that seals. It tells nothing of the key itself."""

    def key_of(self, sealed: bytes) -> str:
        """The name of the key that a text was sealed with."""

    def seal(self, text: bytes, bound: bytes) -> bytes:
        """Encrypt; opening takes the same `bound`."""

    def open(self, sealed: bytes, bound: bytes) -> bytes:
        """Decrypt. Raises `CannotOpen`."""


class CannotOpen(StepwellError):
    """A sealed text cannot be opened: the key is not there, or it is not what was sealed."""

    code = "CANNOT_OPEN"
    http_status = 409


class NoSecretKey(StepwellError):
    """The server has no key to seal credentials with."""

    code = "NO_SECRET_KEY"
    http_status = 409

    def __init__(self) -> None:
        super().__init__(
            "this server has no key to keep credentials with: install the library for it (pip install "
            '"stepwell[secrets]"), make a key with `openssl rand -hex 32` and start the server with it as '
            "STEPWELL_SECRET_KEY, or with --secret-key-file; `stepwell dev` makes a key by itself"
        )


class CredentialRefused(StepwellError):
    """A named credential cannot be used for a request."""

    code = "CREDENTIAL_REFUSED"
