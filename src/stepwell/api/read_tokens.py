"""Tokens that let a browser read the stream of one run for a while, and nothing else.

    <seconds since 1970 until when>.<MAC of the run's id and that time>

They are made with the signing key, so every server that has it takes them, also after a restart. A server without keys
answers everybody who comes through the gate; there a token lets the pages of other ports of this machine read a run,
and proves no more than that they know its id, which cannot be guessed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence

from stepwell.model.errors import Unauthorized
from stepwell.model.ids import RunId
from stepwell.wire.signature import without_prefix

DEFAULT_LIFETIME_S = 600
LONGEST_LIFETIME_S = 86_400
_TOKEN = re.compile(r"([0-9]{1,12})\.([A-Za-z0-9_-]{43})")


class TokenRefused(Unauthorized):
    """A read token that is not one, not for this run, or not any more."""


def read_token(run: RunId, until_s: int, keys: Sequence[str]) -> str:
    """A token for a run. `until_s` is in seconds since 1970, `keys` are the signing keys, the current one first."""
    return f"{until_s}.{_mac(run, until_s, keys[0] if keys else '')}"


def check_read_token(token: str, run: RunId, now_s: float, keys: Sequence[str]) -> None:
    """Raises `TokenRefused` unless the token was made for this run, with one of the keys, and is still good."""
    match = _TOKEN.fullmatch(token)
    good = False
    if match is not None:
        for key in keys or ("",):
            good |= hmac.compare_digest(_mac(run, int(match[1]), key), match[2])
    if match is None or not good:
        raise TokenRefused("the token is not for the stream of this run; make one with POST /api/runs/{id}/token")
    if now_s >= int(match[1]):
        raise TokenRefused("the token has expired; make another with POST /api/runs/{id}/token")


def _mac(run: RunId, until_s: int, key: str) -> str:
    derived = hmac.new(without_prefix(key).encode(), b"stepwell: read one run", hashlib.sha256).digest()
    mac = hmac.new(derived, f"{run}.{until_s}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(mac).decode().rstrip("=")
