"""A result is the same value on the first pass and on a replay, or it is refused."""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Generic, Literal, NamedTuple, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

import stepwell
from stepwell.sdk.client.run import data_text
from stepwell.sdk.types import GIVEN, UNTYPED, decode_result, encode_result, return_type

pydantic = pytest.importorskip("pydantic")
T = TypeVar("T")


@dataclass
class Order:
    id: str
    at: datetime | None = None


@dataclass
class Refund:
    amount: int


class Paid(TypedDict):
    amount: int


class Point(NamedTuple):
    x: int
    y: int


class Colour(Enum):
    RED = "red"


class Struct(msgspec.Struct):
    tags: set[int]


class Ticket(pydantic.BaseModel):  # type: ignore[misc,name-defined,unused-ignore]
    id: str
    at: datetime


@dataclass
class Holder:
    ticket: Ticket


class Reply(pydantic.BaseModel, Generic[T]):  # type: ignore[misc,name-defined,unused-ignore]
    output: T


class Stream:
    """Something that an overloaded client method may also return."""


NOON = datetime(2026, 9, 1, 12, tzinfo=UTC)
TICKET = Ticket(id="t", at=NOON)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (None, None),
        (1, int),
        (1.0, float),
        ("ü\u2028", str),
        (b"\x00\xff", bytes),
        ((1, "a"), tuple[int, str]),
        ({1: (2, 3)}, dict[int, tuple[int, ...]]),
        ({1, 2}, set[int]),
        (NOON, datetime),
        (date(2026, 9, 1), date),
        (timedelta(seconds=90), timedelta),
        (Decimal("1.10"), Decimal),
        (UUID(int=7), UUID),
        (Colour.RED, Colour),
        (Point(1, 2), Point),
        (Order("o", NOON), Order),
        ([Order("o")], list[Order]),
        (Order("o"), Order | Refund),
        (Refund(1), Order | Refund),
        (None, Order | Refund | None),
        ({"amount": 1}, Paid),
        (Struct({1}), Struct),
        ("low", Literal["low", "high"]),
        (TICKET, Ticket),
        ([TICKET], list[Ticket]),
        (TICKET, Ticket | Order),
        (Order("o"), Ticket | Order),
        (TICKET, Ticket | Stream),
        (Holder(TICKET), Holder),
        (Reply[int](output=1), Reply[int]),
        ({"a": [1, None, True, "x"]}, UNTYPED),
        ({"a": 1}, Any),
        ([7.06509002979191e16], list[float]),
    ],
)
def test_a_value_comes_back_as_it_was(value: Any, annotation: Any) -> None:
    text, back = encode_result(value, annotation, "step 'x'")
    assert back == value
    assert type(back) is type(value)
    assert decode_result(text, annotation) == value


@pytest.mark.parametrize(
    ("value", "annotation", "says"),
    [
        ((1,), UNTYPED, "step 'x': a tuple would come back as a list; annotate the return type"),
        ({1: 2}, UNTYPED, "the key 1 would come back as text"),
        ([{"a": {1}}], UNTYPED, r"a set at \[0\]\['a'\] would come back as a list"),
        (
            Order("o"),
            UNTYPED,
            "an Order would come back as a dict; annotate the return type of the callable .`-> Order`",
        ),
        (TICKET, UNTYPED, "a Ticket would come back as a dict"),
        (Stream(), UNTYPED, "a Stream cannot be stored as JSON"),
        (Stream(), Ticket | Stream, "a Stream cannot be stored as JSON"),
        (float("nan"), float, "cannot be stored as JSON"),
        (2**53 + 1, int, r"beyond 2\*\*53 and would be rounded; return it as text"),
        ({"a": [2**60]}, UNTYPED, r"beyond 2\*\*53"),
        ("text", int, "a str was returned and does not read back as int"),
        (7, str, "an int was returned and does not read back as str"),
        (
            {"a": [float("nan")]},
            UNTYPED,
            r"the number nan at \['a'\]\[0\] cannot be stored as JSON; return None or text in its place$",
        ),
        (Order("\ud800"), Order, r"the text '.ud800' at \['id'\] cannot .* surrogate; replace that first, with text"),
        ({"\udfff": 1}, UNTYPED, "the text '.udfff' cannot .* surrogate; replace that first, with text"),
        (
            object(),
            UNTYPED,
            "an object cannot be stored as JSON .* form.; return a dataclass, a TypedDict, .* is needed",
        ),
        ({"a": object()}, UNTYPED, "a dict cannot be stored as JSON .object has .* form.; return a dataclass, a Typed"),
        ("\ud800", str, "cannot be stored as JSON"),
    ],
)
def test_a_value_that_would_change_is_refused_with_the_fix(value: Any, annotation: Any, says: str) -> None:
    with pytest.raises(stepwell.StepResultNotPortable, match=says):
        encode_result(value, annotation, "step 'x'")


class Selfish(list[Any]):
    def __init__(self) -> None:
        self.append(self)


@pytest.mark.parametrize(
    ("value", "annotation", "says"),
    [
        (7, Order, "the data: an int was given and does not read back as Order .*; give what the annotation says"),
        ((1,), UNTYPED, r"a tuple would come back as a list; declare the event with that type .*, or give plain JSON"),
        ({1: 2}, UNTYPED, "the key 1 would come back as text; use text as keys, or declare their type"),
        (2**60, UNTYPED, "would be rounded; give it as text"),
        (float("inf"), UNTYPED, "the number inf cannot be stored as JSON; give None or text in its place"),
        (object(), UNTYPED, "an object cannot be stored as JSON .*; give a dataclass"),
        (Selfish(), list[Any], "a Selfish cannot be stored as JSON"),
    ],
)
def test_data_that_goes_out_was_given_and_not_returned(value: Any, annotation: Any, says: str) -> None:
    with pytest.raises(stepwell.StepResultNotPortable, match=says) as caught:
        encode_result(value, annotation, "the data", GIVEN)
    assert "return" not in str(caught.value)


@pytest.mark.parametrize("data", [float("nan"), "\ud800", object()])
def test_data_for_a_function_by_name_is_refused_in_the_same_words(data: object) -> None:
    with pytest.raises(stepwell.StepResultNotPortable, match=r"the data for shop-pack: .* cannot be stored as JSON"):
        data_text("shop/pack", {"a": data})


json_values = some.recursive(
    some.none() | some.booleans() | some.integers(-(2**53), 2**53) | some.floats(allow_nan=False, allow_infinity=False)
    | some.text(some.characters(exclude_categories=["Cs"])),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(json_values)
def test_whatever_passes_without_annotation_is_equal_after_a_replay(value: Any) -> None:
    try:
        text, back = encode_result(value, UNTYPED, "step 'x'")
    except stepwell.StepResultNotPortable:
        return
    assert back == value == decode_result(text, UNTYPED)


async def coroutine() -> Order: ...  # type: ignore[empty-body]
def plain() -> dict[str, int]: ...  # type: ignore[empty-body]
def awaitable() -> Awaitable[Order]: ...  # type: ignore[empty-body]
def unknown() -> Missing: ...  # type: ignore[name-defined]  # noqa: F821
def anything() -> object: ...
def generic(value: T) -> T: ...  # type: ignore[empty-body]


class Callables:
    async def method(self) -> Order: ...  # type: ignore[empty-body]
    def __call__(self) -> int: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (coroutine, Order),
        (plain, dict[str, int]),
        (awaitable, Order),
        (functools.partial(plain), dict[str, int]),
        (Callables().method, Order),
        (Callables(), int),
        (Order, Order),
        (stepwell.step(coroutine), Order),
        (lambda: 1, UNTYPED),
        (unknown, UNTYPED),
        (anything, UNTYPED),
        (generic, UNTYPED),
        (len, UNTYPED),
    ],
)
def test_the_annotation_of_every_kind_of_callable_is_found(function: Callable[..., Any], expected: Any) -> None:
    assert return_type(function) == expected


def test_pydantic_is_not_needed_for_anything_but_its_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic", None)

    @dataclass
    class Local:
        id: str

    text, back = encode_result(Local("o"), Local, "step 'x'")
    assert (text, back) == (b'{"id":"o"}', Local("o"))
