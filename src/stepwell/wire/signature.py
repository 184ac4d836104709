"""Who sent this: request signatures and bearer credentials, both from one signing key.

A signing key reads `signkey-<env>-<hex>`. The text after the prefix signs bodies (its UTF-8 bytes are the HMAC
key, they are not decoded); its SHA-256, taken of the decoded hex, is the credential that clients send. A
signature covers the very bytes of the body and a time in seconds, so the sender makes the body canonical first.

Protocol: sections 1.3 and 1.4 of the Inngest wire protocol.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable

from stepwell.model.errors import Unauthorized

HEADER = "X-Inngest-Signature"
MAX_SKEW_S = 300
"""How old, or how far ahead, a signature may be: the SDKs' own five minutes (section 13)."""

_PREFIX = re.compile(r"^signkey-\w+-")
_SIGNATURE = re.compile(r"^t=([0-9]{1,15})&s=([0-9a-f]{64})$")


def check_key(key: str) -> str:
    """Return the key if it can be used.

    Raises:
        ValueError: Empty, or what follows the prefix is not an even number of hex digits. The message never
            repeats the key.
    """
    text = without_prefix(key)
    try:
        usable = bool(bytes.fromhex(text)) and " " not in text
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(
            "the signing key must be an even number of hex digits, perhaps after `signkey-<env>-`; "
            "make one with `openssl rand -hex 32`"
        )
    return key


def without_prefix(key: str) -> str:
    """The key without `signkey-<env>-`."""
    return _PREFIX.sub("", key, count=1)


def bearer_hash(key: str) -> str:
    """The credential of a signing key: SHA-256 of its decoded hex, in lower-case hex.

    Raises:
        ValueError: The key is not hex after its prefix.
    """
    return hashlib.sha256(bytes.fromhex(without_prefix(check_key(key)))).hexdigest()


def event_key_hash(key: str) -> str:
    """SHA-256 of an event key, as introspection shows it."""
    return hashlib.sha256(key.encode()).hexdigest()


def bearer_accepted(authorization: str | None, keys: Iterable[str]) -> bool:
    """Whether an `Authorization` header names one of the signing keys; true when no key is configured.

    Accepted: `Bearer <hash>`, `Bearer signkey-<env>-<hash>` and the raw key, with or without its prefix
    (section 1.3). Every key is compared in constant time.
    """
    keys = tuple(keys)
    if not keys:
        return True
    scheme, _, credential = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer":
        return False
    given = without_prefix(credential.strip()).encode()
    accepted = False
    for key in keys:
        accepted |= hmac.compare_digest(given, bearer_hash(key).encode())
        accepted |= hmac.compare_digest(given, without_prefix(key).encode())
    return accepted


def sign(body: bytes, key: str, at_s: int) -> str:
    """The value of `X-Inngest-Signature` for exactly these bytes at `at_s` (seconds since 1970)."""
    return f"t={at_s}&s={_mac(body, key, at_s)}"


def verify(
    body: bytes, signature: str | None, keys: Iterable[str], *, now_s: int, skew_s: int | None = MAX_SKEW_S
) -> str:
    """Return the key that signed `body`: keys are tried in order, so primary first, then the fallback.

    Args:
        now_s: Seconds since 1970.
        skew_s: How many seconds the signature may be off; None does not look, as the Python SDK does.

    Raises:
        SignatureRefused: Missing, malformed, too old, or made with another key or body.
    """
    if not signature:
        raise SignatureRefused(f"the {HEADER} header is missing; is the server started with a signing key?")
    match = _SIGNATURE.match(signature)
    if match is None:
        raise SignatureRefused(f"the {HEADER} header must read t=<seconds>&s=<64 hex digits>")
    at_s = int(match[1])
    if skew_s is not None and abs(now_s - at_s) > skew_s:
        raise SignatureRefused(
            f"the signature is {abs(now_s - at_s)} s off and may be {skew_s} s off; check the clocks of both machines"
        )
    found = None
    for key in keys:
        if hmac.compare_digest(_mac(body, key, at_s), match[2]) and found is None:
            found = key
    if found is None:
        raise SignatureRefused("the signature does not fit the body; are both sides using the same signing key?")
    return found


class SignatureRefused(Unauthorized):
    """A signature that does not prove anything."""


def _mac(body: bytes, key: str, at_s: int) -> str:
    mac = hmac.new(without_prefix(key).encode(), body, hashlib.sha256)
    mac.update(str(at_s).encode())
    return mac.hexdigest()
