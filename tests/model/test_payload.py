"""Canonical JSON: the quick way and the long way write the same bytes."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import math
import struct
import uuid
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.model import payload
from stepwell.model.payload import canonical

LETTERS = st.sampled_from([*'aBe09.,:[]{}"\\\n\t\x00\x1f\x7f/-éü€\u2028\ue000\uffff😀𝒳'])
TEXTS = st.text(LETTERS, max_size=12) | st.text(max_size=6) | st.sampled_from(["1.0", ",2.0,", ":3e5,", "0" * 20])
DOUBLES = st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0])
NUMBERS = (
    st.integers(-(2**70), 2**70)
    | st.integers(-20, 20)
    | st.sampled_from([2**53, 2**53 + 1, 10**15, 10**16 - 1, 2**63, -(2**64)])
    | DOUBLES.filter(math.isfinite)
    | st.floats(-1e6, 1e6)
    | st.decimals(-(10**6), 10**6, places=3).map(float)
    | st.sampled_from([0.0, -0.0, 1e-6, 1e-7, 1e15, 1e16, 1e20, 1e21, 100.0, 5e-324])
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    TEXTS | NUMBERS | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def the_long_way(value: object) -> bytes:
    pieces: list[str] = []
    payload._write(value, pieces.append)
    return "".join(pieces).encode()


@settings(max_examples=3000, deadline=None)
@given(VALUES)
def test_both_ways_write_the_same_bytes(value: Any) -> None:
    text = canonical(value)
    assert text == the_long_way(value)
    assert canonical(json.loads(text)) == text


@pytest.mark.parametrize(
    "value",
    [
        {"id": "o-4711", "total": 129.5, "items": [{"sku": f"s-{n}", "n": n} for n in range(6)]},
        {"rows": [{"n": n, "share": n / 7 + 0.001} for n in range(500)]},
        {"name": "Größe, 1,5 m", "tags": [None, True, "a\nb"]},
        {"at": "version 2.0, of 3e5"},
    ],
)
def test_ordinary_values_go_the_quick_way(value: dict[str, Any]) -> None:
    assert payload._encoded_at_once(value) == the_long_way(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [1.0, -0.0, 1e21, 1e-7, 0.000001]}, b'{"a":[1,0,1e+21,1e-7,0.000001],"b":1}'),
        ({"\ue000": 1, "😀": 2}, '{"😀":2,"\ue000":1}'.encode()),  # by UTF-16 code unit
        ([2**53 + 1, 2**60], b"[9007199254740992,1152921504606847000]"),
        ((1, (2,)), b"[1,[2]]"),
        ({"a": ()}, b'{"a":[]}'),
    ],
)
def test_what_others_write_otherwise(value: object, text: bytes) -> None:
    assert canonical(value) == text


class Number(enum.IntEnum):
    ONE = 1


class Share(float):
    def __repr__(self) -> str:
        return "half"


def test_a_kind_of_number_is_a_number() -> None:
    assert canonical([Number.ONE, Share(0.5), Share(0.125)]) == b"[1,0.5,0.125]"


@dataclasses.dataclass
class Record:
    a: int


class Struct(msgspec.Struct):
    a: int


@pytest.mark.parametrize(
    "wrong",
    [
        math.nan,
        math.inf,
        "\ud800",
        b"bytes",
        {1: "a name that is no text"},
        {1, 2},
        datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        uuid.UUID(int=1),
        Decimal(1),
        Record(1),
        Struct(1),
        msgspec.Raw(b"1"),
        object(),
    ],
)
def test_what_json_does_not_have_is_refused_wherever_it_is(wrong: object) -> None:
    for value in (wrong, [wrong], {"a": wrong}, {"a": [{"b": wrong}]}):
        with pytest.raises(ValueError, match=r"JSON|Unicode"):
            canonical(value)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_depth_is_judged_alike() -> None:
    assert canonical(nested(200)) == b"[" * 201 + b"]" * 201
    assert payload._encoded_at_once(nested(200)) is None
    assert payload._encoded_at_once([nested(10)] * 100) is not None
    with pytest.raises(RecursionError):
        canonical(nested(5000))
