"""What a server repeats of a credential is taken out, however it writes it and wherever its pieces begin."""

from __future__ import annotations

import base64
import json
import random
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.gateway.scrub import Scrubber

KEY = 'sk/ca"nary+é ü=77aa01'
MARKER = b"[credential:openai]"
WRITTEN = {
    "as it is": KEY.encode(),
    "in JSON": json.dumps(KEY, ensure_ascii=False)[1:-1].encode(),
    "in ASCII JSON": json.dumps(KEY)[1:-1].encode(),
    "in JSON of PHP": json.dumps(KEY)[1:-1].replace("/", "\\/").encode(),
    "in a path": quote(KEY).encode(),
    "in a query": quote(KEY, safe="").encode(),
    "in a form": quote_plus(KEY).encode(),
    "in a query in small letters": quote(KEY, safe="").replace("%2F", "%2f").replace("%22", "%22").lower().encode(),
}


@pytest.mark.parametrize("how", [how for how in WRITTEN if "small" not in how])
def test_it_is_found_however_it_is_written(how: str) -> None:
    scrubber = Scrubber([("openai", KEY)])
    assert scrubber.clean(b"before " + WRITTEN[how] + b" after") == b"before " + MARKER + b" after"
    assert scrubber.found == ("openai",)


def test_codes_of_an_address_may_be_in_small_letters() -> None:
    written = quote("key/with+signs=0123", safe="").replace("%2F", "%2f").replace("%2B", "%2b").replace("%3D", "%3d")
    assert Scrubber([("a", "key/with+signs=0123")]).clean(written.encode()) == b"[credential:a]"


@pytest.mark.parametrize("before", ["", "u", "me", "api", "name:"])
@pytest.mark.parametrize("after", ["", ":", "zz", "more of it"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_it_is_found_within_base64_whatever_stands_around_it(before: str, after: str, encode: object) -> None:
    assert callable(encode)
    key = "sk-canary>>>???0123456789"
    written = encode(f"{before}{key}{after}".encode())
    cleaned = Scrubber([("key", key)]).clean(written)
    assert b"[credential:key]" in cleaned
    left = cleaned.replace(b"[credential:key]", b"")
    assert len(left) <= len(base64.b64encode(f"{before}{after}".encode())) + 4


def test_what_is_no_credential_stays() -> None:
    scrubber = Scrubber([("openai", KEY), ("short", "abc")])
    text = b"abc " + KEY.encode()[:-1] + b" " + KEY.encode()[1:]
    assert scrubber.clean(text) == text
    assert scrubber.found == ()
    assert not Scrubber([("short", "abc")])


def test_the_longer_of_two_goes_first() -> None:
    scrubber = Scrubber([("word", "canary"), ("key", "canary-0123")])
    assert scrubber.clean(b"canary-0123 canary") == b"[credential:key] [credential:word]"


@pytest.mark.parametrize("how", [how for how in WRITTEN if "small" not in how])
def test_a_stream_cut_anywhere_says_the_same(how: str) -> None:
    text = b"sk sk/ " + WRITTEN[how] + b" then " + WRITTEN[how] + b"sk/ca"
    expected = b"sk sk/ " + MARKER + b" then " + MARKER + b"sk/ca"
    for cut in range(len(text) + 1):
        stream = Scrubber([("openai", KEY)]).stream()
        assert stream.feed(text[:cut]) + stream.feed(text[cut:]) + stream.finish() == expected
    stream = Scrubber([("openai", KEY)]).stream()
    one_by_one = b"".join(stream.feed(text[at : at + 1]) for at in range(len(text)))
    assert one_by_one + stream.finish() == expected


@given(
    st.lists(st.sampled_from(["canary-0123", "canary-", "ca", "nary", "x", "0123", "c"]), max_size=30), st.integers()
)
def test_pieces_of_any_size_make_no_difference(words: list[str], seed: int) -> None:
    text = "".join(words).encode()
    random.seed(seed)
    stream = Scrubber([("key", "canary-0123")]).stream()
    out, at = b"", 0
    while at < len(text):
        size = random.randint(1, 9)
        out += stream.feed(text[at : at + size])
        at = min(at + size, len(text))
        shown = out.replace(b"[credential:key]", b"canary-0123")
        assert at - len(shown) < len("canary-0123")
    assert out + stream.finish() == Scrubber([("key", "canary-0123")]).clean(text)


def test_a_stream_holds_back_no_more_than_may_be_the_beginning_of_a_credential() -> None:
    stream = Scrubber([("key", "canary-0123")]).stream()
    assert stream.feed(b'data: {"text": "a can"}\n\n') == b'data: {"text": "a can"}\n\n'
    assert stream.feed(b"a can") == b"a "
    assert stream.feed(b"dle") == b"candle"


def test_nothing_to_look_for_costs_nothing() -> None:
    stream = Scrubber().stream()
    piece = b"whatever"
    assert stream.feed(piece) is piece
    assert stream.finish() == b""


def test_nothing_of_a_credential_is_printed() -> None:
    assert "canary" not in repr(Scrubber([("key", "canary-0123")]))
