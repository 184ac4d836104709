"""Signatures and bearer forms, with the vectors of sections 1.3 and 1.4."""

import pytest

from stepwell.wire.signature import (
    SignatureRefused,
    bearer_accepted,
    bearer_hash,
    check_key,
    event_key_hash,
    sign,
    verify,
)

KEY = "signkey-test-12345678"
BODY = b'{"a":1,"b":[true,null,"x"]}'
SIGNED = "t=1700000000&s=c798276f40c7abb1ddc1f5cc432deafa7908499cf3d699fc0804640d81e0ab94"
HASH = "b2ed992186a5cb19f6668aade821f502c1d00970dfd0e35128d51bac4649916c"


def test_a_signature_is_that_of_the_vector() -> None:
    assert sign(BODY, KEY, 1700000000) == SIGNED


def test_an_empty_body_signs_as_the_empty_string() -> None:
    assert sign(b"", KEY, 1700000000).endswith("189656184e486419febc1f6fd73e1c45bc8595c99633a32ebe1ea40ac8adf630")


def test_the_bearer_hash_is_that_of_the_vector() -> None:
    assert bearer_hash("signkey-prod-12345678") == HASH
    assert bearer_hash("12345678") == HASH
    assert event_key_hash("my-event-key") == "756db3455bd70816c089ed7fcd514ab0e66cf5cdf62ccb7a3bca66d96ee3132c"


@pytest.mark.parametrize(
    "header",
    [
        f"Bearer {HASH}",
        f"Bearer signkey-prod-{HASH}",
        f"bearer {HASH}",
        "Bearer signkey-prod-12345678",
        "Bearer 12345678",
    ],
)
def test_every_bearer_form_of_the_sdks_is_accepted(header: str) -> None:
    assert bearer_accepted(header, ["signkey-prod-abcd", "signkey-prod-12345678"])


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer x", HASH, f"Basic {HASH}", f"Bearer {HASH}0", "Bearer é"]
)
def test_other_credentials_are_not(header: str | None) -> None:
    assert not bearer_accepted(header, ["signkey-prod-12345678"])


def test_without_a_key_nothing_is_asked_for() -> None:
    assert bearer_accepted("Bearer ", [])
    assert bearer_accepted(None, ())


def test_the_key_that_matched_is_returned_so_that_the_answer_is_signed_with_it() -> None:
    assert verify(BODY, SIGNED, ["signkey-test-9999", KEY], now_s=1700000300) == KEY


@pytest.mark.parametrize(
    ("body", "signature", "now_s", "says"),
    [
        (BODY + b" ", SIGNED, 1700000000, "does not fit the body"),
        (BODY, SIGNED, 1700000301, "301 s off and may be 300"),
        (BODY, SIGNED, 1699999000, "check the clocks"),
        (BODY, None, 1700000000, "missing"),
        (BODY, "", 1700000000, "missing"),
        (BODY, "s=1&t=2", 1700000000, "must read"),
        (BODY, SIGNED.upper(), 1700000000, "must read"),
    ],
)
def test_a_signature_that_proves_nothing_says_why(body: bytes, signature: str | None, now_s: int, says: str) -> None:
    with pytest.raises(SignatureRefused, match=says):
        verify(body, signature, [KEY], now_s=now_s)


def test_the_skew_can_be_left_unchecked() -> None:
    assert verify(BODY, SIGNED, [KEY], now_s=1, skew_s=None) == KEY


@pytest.mark.parametrize("key", ["", "signkey-prod-", "signkey-prod-abc", "signkey-prod-xyz1", "ab cd"])
def test_a_key_that_is_not_hex_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(ValueError, match="even number of hex digits") as refused:
        check_key(key)
    assert not key or key not in str(refused.value)
