"""A value out to JSON and back, by the annotation of the callable that made it.

A replay sees what was stored, so the first pass must see it too: every result is encoded and decoded
before the function gets it. With an annotation the value comes back as that type (dataclasses, TypedDict,
msgspec structs, enums, dates, unions of these; pydantic models when pydantic is installed). Without one it must be
what JSON can hold, exactly: `{1: (2, 3)}` would come back as `{"1": [2, 3]}`, and that is refused on the
spot with the fix in the message.

Elsewhere: the canonical text itself (`stepwell.model.payload`).
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin
from weakref import WeakKeyDictionary

import msgspec

from stepwell.model.payload import canonical
from stepwell.sdk.errors import StepResultNotPortable

UNTYPED: Any = inspect.Parameter.empty
"""No usable annotation: the value must be plain JSON."""

LARGEST_RESULT_BYTES = 32 * 1024 * 1024
"""Of JSON. Servers set lower limits and name them; this one keeps a frame within what a connection carries."""

_LARGEST_EXACT = 2**53
_SHOWN_CHARACTERS = 40
_AWAITABLES = (collections.abc.Awaitable, collections.abc.Coroutine, types.CoroutineType)


@dataclasses.dataclass(frozen=True, slots=True)
class Words:
    """How an error speaks of a value."""

    give: str
    given: str
    annotate: str


RETURNED = Words(
    "return", "returned", "annotate the return type of the callable (`-> {}`, with a type defined at module level)"
)
GIVEN = Words("give", "given", "declare the event with that type (`stepwell.event(name, {})`)")


def encode_result(value: object, annotation: Any, where: str, words: Words = RETURNED) -> tuple[bytes, Any]:
    """The JSON text of `value`, and `value` as a replay will read it.

    Args:
        annotation: Its type, or `UNTYPED`.
        where: Whose value this is, for the error: `step 'charge'`.
        words: `GIVEN` for data that goes out, which nobody returned.

    Raises:
        StepResultNotPortable: It would not read back as the same value.
    """
    if value is None and annotation in (None, types.NoneType, UNTYPED, Any):
        return b"null", None
    plain: Any = value
    try:
        plain = _codec(annotation).plain(value)
        refuse_large_integers(plain, where, words)
        text = canonical(plain)
    except StepResultNotPortable:
        raise
    except Exception as err:
        # Whatever a serializer of the user's type raises, the reason is the same: there is no JSON form.
        raise no_json_form(value, plain, annotation, where, err, words) from err
    if len(text) > LARGEST_RESULT_BYTES:
        raise StepResultNotPortable(
            where,
            f"its {len(text) >> 20} MiB of JSON are more than {LARGEST_RESULT_BYTES >> 20} MiB",
            f"store them elsewhere and {words.give} where",
        )
    if annotation is UNTYPED or annotation is Any:
        back = msgspec.json.decode(text)
        _refuse_changes(value, back, where, words)
    else:
        try:
            back = decode_result(text, annotation)
        except Exception as err:
            raise StepResultNotPortable(
                where,
                f"{_a(type(value))} was {words.given} and does not read back as {type_name(annotation)} ({err})",
                f"{words.give} what the annotation says, or change it",
            ) from err
    return text, back


def decode_result(text: bytes, annotation: Any) -> Any:
    """Read a stored value as `annotation`. Raises `ValueError` or `TypeError` if it is something else."""
    if annotation is UNTYPED or annotation is Any:
        return msgspec.json.decode(text)
    return _codec(annotation).read(text)


def plain(value: object) -> Any:
    """The JSON-like form of a value that is only shown or sent, never read back: dicts, lists and scalars."""
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_foreign)


# What a callable returns and takes


_hints: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
"""Resolved annotations. Weak, because a closure may hold anything."""
_returns: WeakKeyDictionary[types.FunctionType, Any] = WeakKeyDictionary()
"""What functions return: asked for each step, also of those that are only given their recorded results."""


def _hint_of_function(function: Any, parameter: str) -> Any:
    known = _hints.setdefault(function, {})
    if parameter not in known:
        known[parameter] = _resolved(function, parameter)
    return known[parameter]


def _resolved(function: Any, parameter: str) -> Any:
    try:
        annotation = function.__annotations__.get(parameter, UNTYPED)
        if annotation is UNTYPED:
            return UNTYPED
        namespace = dict(getattr(function, "__globals__", {}))
        code = getattr(function, "__code__", None)
        for name, cell in zip(
            getattr(code, "co_freevars", ()), getattr(function, "__closure__", None) or (), strict=False
        ):
            try:
                namespace[name] = cell.cell_contents
            except ValueError:  # assigned later
                continue
        holder = types.SimpleNamespace(__annotations__={parameter: annotation})
        hint = typing.get_type_hints(holder, globalns=namespace, include_extras=True)[parameter]
    except Exception:
        # The annotation names something that exists for the type checker only. Then the value must be plain.
        return UNTYPED
    return hint


def json_schema(annotation: Any) -> dict[str, Any] | None:
    """The JSON Schema of a type, for a model that is to fill it; None if there is none."""
    try:
        if _involves_pydantic(annotation, set()):
            from pydantic import TypeAdapter

            return TypeAdapter(annotation).json_schema()
        schema: dict[str, Any] = msgspec.json.schema(annotation)
    except Exception:
        # A type that cannot say what it looks like is read all the same.
        return None
    return schema


def return_type(function: Callable[..., Any]) -> Any:
    """What awaiting or calling `function` gives, or `UNTYPED` if its annotation does not say it."""
    if not isinstance(function, types.FunctionType):
        return _return_type(function)
    known = _returns.get(function, _returns)
    if known is _returns:
        known = _returns[function] = _return_type(function)
    return known


def _return_type(function: Callable[..., Any]) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, type):
        return function
    target: Any = inspect.unwrap(function)
    target = getattr(target, "__func__", target)
    if not hasattr(target, "__annotations__") or not callable(target):
        target = getattr(type(function), "__call__", target)  # noqa: B004 - an instance with `__call__`
    try:
        hint = _hint_of_function(target, "return")
    except TypeError:  # not hashable, or without weak references
        return UNTYPED
    if get_origin(hint) in _AWAITABLES:
        hint = get_args(hint)[-1]
    if hint in (NoReturn, typing.Never, object) or _has_type_variables(hint):
        return UNTYPED
    return hint


def parameter_type(function: Callable[..., Any], name: str) -> Any:
    """The annotation of one parameter, or `UNTYPED`."""
    target: Any = inspect.unwrap(function)
    try:
        return _hint_of_function(getattr(target, "__func__", target), name)
    except TypeError:
        return UNTYPED


def _has_type_variables(hint: Any) -> bool:
    return isinstance(hint, TypeVar) or any(_has_type_variables(part) for part in get_args(hint))


# Codecs


class _Codec:
    """How values of one annotation are written and read."""

    def plain(self, value: object) -> Any:
        return plain(value)

    def read(self, text: bytes) -> Any:
        raise NotImplementedError


class _Msgspec(_Codec):
    def __init__(self, annotation: Any) -> None:
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(annotation, dec_hook=_unreadable)

    def read(self, text: bytes) -> Any:
        return self._decoder.decode(text)


class _Pydantic(_Codec):
    def __init__(self, annotation: Any) -> None:
        from pydantic import TypeAdapter

        adapter: Any = TypeAdapter(annotation)
        self._dump = functools.partial(adapter.dump_python, mode="json", warnings="none")
        self._validate = adapter.validate_json

    def plain(self, value: object) -> Any:
        return self._dump(value)

    def read(self, text: bytes) -> Any:
        return self._validate(text)


class _AnyOf(_Codec):
    """A union that msgspec cannot tell apart: the first member that writes the very same text has it."""

    def __init__(self, members: tuple[Any, ...]) -> None:
        self._members: list[tuple[Any, _Codec]] = []
        for member in members:
            try:
                self._members.append((member, _codec(member)))
            except Exception:
                # A member that can never be stored, such as the stream of an overloaded client method. A value
                # of that class fails to encode, with an error that names it.
                continue

    def plain(self, value: object) -> Any:
        for member, codec in self._members:
            try:
                if isinstance(value, get_origin(member) or member):
                    return codec.plain(value)
            except TypeError:  # a Literal, a TypedDict
                continue
        return plain(value)

    def read(self, text: bytes) -> Any:
        fitting = None
        problem: Exception = ValueError("no member of the union fits")
        for _, codec in self._members:
            try:
                value = codec.read(text)
                if canonical(codec.plain(value)) == text:
                    return value
                fitting = fitting or (value,)
            except Exception as err:
                # Not this member; the last reason is told if none fits.
                problem = err
        if fitting is None:
            raise problem
        return fitting[0]


class _Untyped(_Codec):
    def read(self, text: bytes) -> Any:
        return msgspec.json.decode(text)


@functools.lru_cache(maxsize=4096)
def _cached_codec(annotation: Any) -> _Codec:
    if annotation is UNTYPED or annotation is Any or annotation is object:
        return _Untyped()
    if _involves_pydantic(annotation, set()):
        if get_origin(annotation) in (Union, types.UnionType):
            return _union(annotation)
        return _Pydantic(annotation)
    try:
        return _Msgspec(annotation)
    except TypeError:
        if get_origin(annotation) in (Union, types.UnionType):
            return _AnyOf(get_args(annotation))
        raise


def _codec(annotation: Any) -> _Codec:
    try:
        return _cached_codec(annotation)
    except TypeError as err:
        if "unhashable" in str(err):  # Annotated with a list, for instance
            return _cached_codec.__wrapped__(annotation)
        raise


def _union(annotation: Any) -> _Codec:
    try:
        return _Pydantic(annotation)
    except Exception:
        # pydantic refuses the whole union for one member that it has no schema for.
        return _AnyOf(get_args(annotation))


def _involves_pydantic(annotation: Any, seen: set[int]) -> bool:
    if "pydantic" not in sys.modules or id(annotation) in seen:
        return False
    seen.add(id(annotation))
    if hasattr(annotation, "__pydantic_validator__") or hasattr(annotation, "__get_pydantic_core_schema__"):
        return True
    parts: list[Any] = list(get_args(annotation))
    if isinstance(annotation, type) and (
        dataclasses.is_dataclass(annotation) or hasattr(annotation, "__annotations__")
    ):
        try:
            parts += typing.get_type_hints(annotation).values()
        except Exception:
            # Names that cannot be resolved; the decoder will say so in its own words.
            parts += []
    return any(_involves_pydantic(part, seen) for part in parts)


def _foreign(value: Any) -> Any:
    """Types that msgspec does not know."""
    if hasattr(value, "__pydantic_validator__") and hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "__pydantic_serializer__"):
        return value.__pydantic_serializer__.to_python(value, mode="json")
    raise TypeError(f"{type_name(type(value))} has no JSON form")


def _unreadable(kind: type, value: object) -> Any:
    raise TypeError(f"{type_name(kind)} cannot be read from JSON")


# What JSON would change


def no_json_form(
    value: object, plain: Any, annotation: Any, where: str, reason: Exception, words: Words
) -> StepResultNotPortable:
    """The error for a value of which there is no JSON text, with what to do about just that value.

    Args:
        plain: Its JSON-like form, or the value itself if it has none.
    """
    try:
        found = _culprit(plain, "")
    except RecursionError:  # it holds itself
        found = None
    if found is None:
        what = f"{_a(type(value))} cannot be stored as JSON ({reason})"
        return StepResultNotPortable(where, what, _fix(value, annotation, words))
    culprit, at = found
    if isinstance(culprit, float):
        what, fix = f"the number {culprit!r}{at} cannot be stored as JSON", f"{words.give} None or text in its place"
    else:
        shown = culprit if len(culprit) <= _SHOWN_CHARACTERS else f"{culprit[:_SHOWN_CHARACTERS]}..."
        what = f"the text {shown!r}{at} cannot be stored as JSON, because it has a lone surrogate"
        fix = 'replace that first, with text.encode("utf-8", "replace").decode()'
    return StepResultNotPortable(where, what, fix)


def _culprit(value: Any, path: str) -> tuple[float | str, str] | None:
    """The first number or text in `value` that JSON does not have, and where it is."""
    at = f" at {path}" if path else ""
    if isinstance(value, float):
        return None if math.isfinite(value) else (value, at)
    if isinstance(value, str):
        return (value, at) if any("\ud800" <= letter <= "\udfff" for letter in value) else None
    parts: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        parts = [part for key, item in value.items() for part in ((path, key), (f"{path}[{key!r}]", item))]
    elif isinstance(value, (list, tuple)):
        parts = ((f"{path}[{index}]", item) for index, item in enumerate(value))
    return next((found for where, part in parts if (found := _culprit(part, where)) is not None), None)


def refuse_large_integers(value: Any, where: str, words: Words) -> None:
    """Raise `StepResultNotPortable` if plain JSON has an integer that `canonical` may round."""
    if isinstance(value, int):
        if not -_LARGEST_EXACT <= value <= _LARGEST_EXACT:
            raise StepResultNotPortable(
                where, f"the integer {value} is beyond 2**53 and would be rounded", f"{words.give} it as text"
            )
    elif isinstance(value, dict):
        for item in value.values():
            refuse_large_integers(item, where, words)
    elif isinstance(value, (list, tuple)):
        for item in value:
            refuse_large_integers(item, where, words)


def _refuse_changes(value: object, back: object, where: str, words: Words, path: str = "") -> None:
    """Both are compared to the ground, because `(1, 2) != [1, 2]` but `{"a": (1,)}` prints alike."""
    at = f" at {path}" if path else ""
    if isinstance(value, dict) and isinstance(back, dict) and type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise StepResultNotPortable(
                    where,
                    f"the key {key!r}{at} would come back as text",
                    "use text as keys, or "
                    + ("annotate the return type" if words is RETURNED else "declare their type"),
                )
            _refuse_changes(item, back[key], where, words, f"{path}[{key!r}]")
    elif type(value) is list and isinstance(back, list):
        for index, item in enumerate(value):
            _refuse_changes(item, back[index], where, words, f"{path}[{index}]")
    elif type(value) in (int, float) and type(back) in (int, float):
        if value != back:  # 1.0 is written as 1 and is equal; a float beyond 2**53 may be another number as an integer
            raise StepResultNotPortable(
                where,
                f"the number {value!r}{at} would come back as {back!r}",
                f"annotate it as float, or {words.give} it as text",
            )
    elif type(value) is not type(back) or value != back:
        raise StepResultNotPortable(
            where,
            f"{_a(type(value))}{at} would come back as {_a(type(back))}",
            _fix(value, UNTYPED, words),
        )


def _fix(value: object, annotation: Any, words: Words) -> str:
    if (annotation is UNTYPED or annotation is Any) and _reads_back(value):
        return f"{words.annotate.format(type_name(type(value)))}, or {words.give} plain JSON values"
    return f"{words.give} a dataclass, a TypedDict, a pydantic model or plain JSON values, with what is needed of it"


def _reads_back(value: object) -> bool:
    """Whether it would survive if somebody said its type."""
    try:
        codec = _codec(type(value))
        codec.read(canonical(codec.plain(value)))
    except Exception:
        # Any reason will do.
        return False
    return True


def _a(kind: type) -> str:
    name = type_name(kind)
    return f"{'an' if name[:1].lower() in 'aeio' else 'a'} {name}"


def type_name(kind: Any) -> str:
    """A type as people write it."""
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")
