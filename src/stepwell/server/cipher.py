"""Sealing with AES-256 in Galois/counter mode, and the keys for it.

    sealed text:  version (1 byte) | name of the key (4 bytes) | nonce (12 bytes) | encrypted text and its tag

A key is 32 bytes, written as 64 hexadecimal digits. The first one seals, the others only open: so a key is exchanged
by giving the new one beside the old one.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from stepwell.model.credential import CannotOpen
from stepwell.model.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_VERSION = b"\x01"
_NAME_BYTES = 4
_NONCE_BYTES = 12
_HEAD_BYTES = 1 + _NAME_BYTES + _NONCE_BYTES
_MAKE_ONE = "make one with `openssl rand -hex 32`"


class AesCipher:
    """A `Cipher` with one or more keys, the first of which seals. Its library is loaded when it is first needed.

    Raises:
        ConfigurationError: The library is not installed.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not installed():
            raise ConfigurationError('a secret key needs a library: pip install "stepwell[secrets]"')
        self._keys = {_name_of(key): key for key in keys}
        self._first = _name_of(keys[0])
        self._loaded: dict[bytes, AESGCM] = {}

    def __repr__(self) -> str:
        return f"AesCipher({', '.join(name.hex() for name in self._keys)})"

    @property
    def key(self) -> str:
        return self._first.hex()

    def key_of(self, sealed: bytes) -> str:
        return sealed[1 : 1 + _NAME_BYTES].hex()

    def seal(self, text: bytes, bound: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + self._first + nonce + self._with(self._first).encrypt(nonce, text, bound)

    def open(self, sealed: bytes, bound: bytes) -> bytes:
        if len(sealed) < _HEAD_BYTES or sealed[:1] != _VERSION:
            raise CannotOpen("what is stored of it was written by another version of Stepwell, or is damaged")
        name = sealed[1 : 1 + _NAME_BYTES]
        if name not in self._keys:
            raise CannotOpen(
                f"it was sealed with the key {name.hex()}, which this server has not got; it has "
                f"{', '.join(name.hex() for name in self._keys)}. Give the other one as STEPWELL_SECRET_KEY_FALLBACK"
            )
        from cryptography.exceptions import InvalidTag

        nonce, text = sealed[1 + _NAME_BYTES : _HEAD_BYTES], sealed[_HEAD_BYTES:]
        try:
            return self._with(name).decrypt(nonce, text, bound)
        except InvalidTag as err:
            raise CannotOpen("what is stored of it was changed since it was sealed, or is damaged") from err

    def _with(self, name: bytes) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        loaded = self._loaded.get(name)
        if loaded is None:
            loaded = self._loaded[name] = AESGCM(self._keys[name])
        return loaded


def installed() -> bool:
    """Whether the library is there."""
    return find_spec("cryptography") is not None


def _name_of(key: bytes) -> bytes:
    return hashlib.sha256(b"stepwell secret key" + key).digest()[:_NAME_BYTES]


def read_key(text: str, where: str) -> bytes:
    """A key as people write it; `where` says which one it is. Raises `ConfigurationError`, without the key."""
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigurationError(f"{where} must be {2 * KEY_BYTES} hexadecimal digits; {_MAKE_ONE}")
    return key


def read_key_file(path: Path) -> list[bytes]:
    """The keys in a file, one a line; the first one seals.

    Raises:
        ConfigurationError: It cannot be read, others than its owner may read it, or a line is no key.
    """
    try:
        with path.open(encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            lines = [line for line in file.read().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as err:
        why = err.strerror if isinstance(err, OSError) else "it is no text"
        raise ConfigurationError(f"the key file {path} cannot be read: {why} (--secret-key-file)") from err
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(
            f"the key file {path} may be read by others than its owner; change that with `chmod 600 {path}`"
        )
    if not lines:
        raise ConfigurationError(f"the key file {path} is empty; {_MAKE_ONE}")
    return [read_key(line, f"line {number} of the key file {path}") for number, line in enumerate(lines, 1)]


def key_file_of(data: Path) -> Path:
    """The key file that `stepwell dev` makes beside its state."""
    return data / "secret.key"


def make_key_file(path: Path) -> None:
    """Make a key file that only its owner may read, unless there is one. Raises `ConfigurationError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(f"{secrets.token_hex(KEY_BYTES)}\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        pass
    except OSError as err:
        raise ConfigurationError(f"the key file {path} cannot be made: {err.strerror}") from err
