"""Sealed texts open with their own key and what they are bound to, and say why not otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stepwell.model.credential import CannotOpen
from stepwell.model.errors import ConfigurationError
from stepwell.server import ServerSettings
from stepwell.server.cipher import AesCipher, make_key_file, read_key_file

OLD, NEW = bytes(range(32)), bytes(range(1, 33))
KEY = OLD.hex()


def test_what_was_sealed_opens_with_the_same_key_only() -> None:
    cipher = AesCipher([OLD])
    sealed = cipher.seal(b"canary", b"bound")
    assert b"canary" not in sealed
    assert sealed != cipher.seal(b"canary", b"bound")
    assert AesCipher([OLD]).open(sealed, b"bound") == b"canary"
    with pytest.raises(CannotOpen, match=f"the key {cipher.key}, which this server has not got; it has "):
        AesCipher([NEW]).open(sealed, b"bound")


@pytest.mark.parametrize("at", [0, 3, 10, 20, -1])
def test_what_was_changed_does_not_open(at: int) -> None:
    cipher = AesCipher([OLD])
    sealed = bytearray(cipher.seal(b"canary", b"bound"))
    sealed[at] ^= 1
    with pytest.raises(CannotOpen):
        cipher.open(bytes(sealed), b"bound")


def test_nor_what_is_bound_to_something_else_or_is_too_short() -> None:
    cipher = AesCipher([OLD])
    with pytest.raises(CannotOpen, match="changed since"):
        cipher.open(cipher.seal(b"canary", b"bound"), b"other")
    with pytest.raises(CannotOpen, match="damaged"):
        cipher.open(b"\x01", b"bound")


def test_a_key_is_exchanged_by_giving_both() -> None:
    sealed = AesCipher([OLD]).seal(b"canary", b"")
    both = AesCipher([NEW, OLD])
    assert both.open(sealed, b"") == b"canary"
    again = both.seal(b"canary", b"")
    assert both.key_of(again) == both.key == AesCipher([NEW]).key
    assert AesCipher([NEW]).open(again, b"") == b"canary"


def test_no_key_is_printed() -> None:
    assert KEY[:16] not in repr(AesCipher([OLD]))
    assert KEY not in repr(ServerSettings(secret_key=KEY, secret_key_fallback=KEY))


def test_a_key_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "secret.key"
    make_key_file(path)
    (key,) = read_key_file(path)
    make_key_file(path)
    assert read_key_file(path) == [key]
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match=f"chmod 600 {path}"):
        read_key_file(path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty; make one with `openssl rand -hex 32`"),
        (f"{KEY}\nabcd\n", "line 2 of the key file .* must be 64 hexadecimal digits"),
        (f"{KEY[:-2]}zz", "line 1"),
    ],
)
def test_a_file_that_is_no_key_file_is_refused_without_showing_it(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match=why) as refused:
        read_key_file(path)
    assert KEY[:16] not in str(refused.value)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_key_file(tmp_path / "none")


def settings(**given: object) -> ServerSettings:
    return ServerSettings(**({"dev": True, "data": None} | given))  # type: ignore[arg-type]


def check(given: ServerSettings) -> None:
    given.check()
    given.cipher()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"secret_key": "abcd"}, "STEPWELL_SECRET_KEY must be 64 hexadecimal digits"),
        ({"secret_key": KEY, "secret_key_fallback": "x"}, "STEPWELL_SECRET_KEY_FALLBACK must be"),
        ({"secret_key": KEY, "secret_key_file": Path("k")}, "give only one of them"),
        ({"secret_key_fallback": KEY}, "needs STEPWELL_SECRET_KEY"),
        ({"seal_credentials": True}, "--seal-credentials needs a key"),
        ({"secret_key_file": Path(os.devnull).parent / "none"}, "cannot be read"),
    ],
)
def test_keys_that_cannot_work_are_refused_at_the_start(given: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        check(settings(**given))


def test_development_makes_a_key_beside_its_state_and_production_does_not(tmp_path: Path) -> None:
    made = settings(data=tmp_path / "data").cipher()
    assert made is not None
    assert (tmp_path / "data" / "secret.key").is_file()
    again = settings(data=tmp_path / "data").cipher()
    assert again is not None
    assert again.key == made.key
    assert settings(data=tmp_path / "other", dev=False).cipher() is None
    assert not (tmp_path / "other").exists()
    assert settings(db="postgresql://x").cipher() is None
    given = settings(secret_key=NEW.hex(), secret_key_fallback=KEY, data=tmp_path / "third").cipher()
    assert given is not None
    assert given.open(AesCipher([OLD]).seal(b"x", b""), b"") == b"x"
    assert not (tmp_path / "third").exists()


def test_without_the_library_a_key_is_refused_and_development_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepwell.server.cipher.find_spec", lambda name: None)
    assert settings(data=tmp_path).cipher() is None
    for given in ({"secret_key": KEY}, {"data": tmp_path, "seal_credentials": True}):
        with pytest.raises(ConfigurationError, match=r'pip install "stepwell\[secrets\]"'):
            settings(**given).cipher()
