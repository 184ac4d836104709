"""Which conditions can be looked up instead of evaluated: equality keys.

Ten thousand runs may wait for the same event, each for another order. A condition `async.data.id == event.data.id`
lets a store keep the waits under (path, key of the value), and an event finds its own by the key of what it has at
that path. A key stands for a value exactly as the dialect's `==` does: 1 and 1.0 share one, 1 and "1" do not.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from stepwell.engine.expr.language import Binary, Field, Literal, Node, Variable
from stepwell.engine.expr.runtime import MISSES, text_of

_NUMBER_TEXT = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?")
Indexable = tuple[tuple[str, ...], Literal | tuple[str, ...]]


def equality_key(candidate: Mapping[str, object], path: str) -> str | None:
    """The key of `candidate` under a path that `Program.equality` gave; `None` where it has none."""
    return key_of(walk(candidate, path.split(".")))


def lookalike_keys(candidate: Mapping[str, object], path: str) -> tuple[str, ...]:
    """The keys of what reads the same in another type: "5" for 5 and 5 for "5".

    They never match. Whoever wonders why finds there the conditions that compare unlike types.
    """
    match walk(candidate, path.split(".")):
        case bool() as value:
            found: tuple[object, ...] = ("true" if value else "false",)
        case int() | float() as number:
            found = (text_of(number),) if abs(number) < 2**63 else ()
        case "true" | "false" as word:
            found = (word == "true",)
        case str() as text if _NUMBER_TEXT.fullmatch(text):
            found = (float(text) if "." in text else int(text),)
        case _:
            found = ()
    return tuple(key for value in found if (key := key_of(value)) is not None)


def key_of(value: object) -> str | None:
    """A text that two values share exactly when the dialect calls them equal; `None` for what is not indexed."""
    match value:
        case bool():
            return "b:1" if value else "b:0"
        case float() if value.is_integer():
            return f"n:{int(value):x}"
        case float():
            return None if math.isnan(value) else f"n:{value!r}"
        case int():
            return f"n:{value:x}"  # hexadecimal: Python limits the decimal digits it prints
        case str() if len(value) <= 100 and value.isprintable():
            return f"s:{value}"
        case str():  # long, or with characters that a database may refuse
            return f"h:{hashlib.sha256(value.encode('utf-8', 'surrogatepass')).hexdigest()}"
        case _:
            return None


def walk(value: Any, path: Iterable[str]) -> object:
    # As generated code does it, so that the index and the evaluation see the same value.
    try:
        for segment in path:
            value = value[segment]
    except MISSES:
        return None
    return value


def indexable(conjunct: Node) -> Iterable[Indexable]:
    if not isinstance(conjunct, Binary) or conjunct.operator != "==":
        return
    for candidate, other in ((conjunct.left, conjunct.right), (conjunct.right, conjunct.left)):
        path = _path(candidate, "async")
        if not path or any("." in segment for segment in path):
            continue  # the path is stored as dotted text, so a dot inside a name would be read as two
        if isinstance(other, Literal):
            yield path, other
        elif value_path := _path(other, "event"):
            yield path, value_path


def _path(node: Node, root: str) -> tuple[str, ...] | None:
    segments: list[str] = []
    while isinstance(node, Field):
        segments.append(node.name)
        node = node.target
    return tuple(reversed(segments)) if isinstance(node, Variable) and node.name == root else None
