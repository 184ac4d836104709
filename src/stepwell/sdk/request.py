"""What the code asks for when it calls a step: either a body to run, or an op for the server to wait on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property, partial
from typing import Any, TypeAlias

import msgspec

from stepwell.model.ids import StepId
from stepwell.model.op import Op
from stepwell.model.payload import canonical
from stepwell.sdk.errors import FunctionError
from stepwell.sdk.types import UNTYPED, decode_result, parameter_type, plain, return_type, type_name

MAX_SHOWN_INPUT_BYTES = 16 * 1024
"""The arguments of a step are recorded up to this size; beyond it the step has no input to show or edit."""
MAX_WRAPPED_INPUT_BYTES = 1024 * 1024
"""The same of `step.ai.wrap`, whose prompts are long."""
_MAX_REASON_LETTERS = 300

Waiting: TypeAlias = Callable[[StepId, str, int], Op]
"""Makes the op, given the step's id, name and index."""


@dataclass(frozen=True, eq=False)
class Body:
    """A callable with its arguments, to be run as a step."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    kind: str = "step.run"
    retries: int | None = None
    timeout: timedelta | None = None
    result: Any = None  # how to read the result, if not by the callable's annotation
    shows_input: bool = True

    @cached_property
    def annotation(self) -> Any:
        return return_type(self.function) if self.result is None else self.result

    @cached_property
    def is_coroutine(self) -> bool:
        """Whether calling it gives a coroutine at once. Some async callables do not look like it."""
        function = self.function
        while isinstance(function, partial):
            function = function.func
        called = getattr(type(function), "__call__", None)  # noqa: B004 - the method itself is asked
        return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)

    def written_input(self) -> bytes | None:
        """The arguments as a JSON array, with an object at the end for keywords; None if JSON cannot show them."""
        return self.shown_input()[0]

    def shown_input(self) -> tuple[bytes | None, str]:
        """`written_input`, and why it is None if there are arguments."""
        if not self.shows_input or not (self.arguments or self.options):
            return None, ""
        try:
            text = canonical(
                [*(plain(item) for item in self.arguments), *([plain(self.options)] if self.options else [])]
            )
        except Exception:
            # Only shown: arguments may be anything, and a failing serializer is not the step's failure.
            return None, self._blocking()
        most = MAX_WRAPPED_INPUT_BYTES if self.kind == "step.ai.wrap" else MAX_SHOWN_INPUT_BYTES
        if len(text) > most:
            return None, f"its arguments have {len(text)} bytes as JSON, and are recorded up to {most}"
        return text, ""

    def _blocking(self) -> str:
        """Which argument JSON cannot show."""
        named = [(self._name_of(at) or f"number {at + 1}", item) for at, item in enumerate(self.arguments)]
        for name, item in (*named, *self.options.items()):
            try:
                canonical(plain(item))
            except Exception:
                # Without the error's text, which may show the value.
                reason = f"its argument {name!r} is of the type {type_name(type(item))} and has no JSON form"
                return reason[:_MAX_REASON_LETTERS]
        return "its arguments have no JSON form together"

    def _name_of(self, at: int) -> str:
        """The parameter that takes an argument by its place; empty if that cannot be told."""
        names = self._places()
        return names[at] if at < len(names) else ""

    def _places(self) -> list[str]:
        try:
            parameters = list(inspect.signature(self.function).parameters.values())
        except (TypeError, ValueError):
            return []
        return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]

    def read_input(self, text: bytes) -> tuple[list[Any], dict[str, Any]]:
        """Arguments that somebody edited, in the form of `written_input`, read by the parameters' annotations."""
        items = msgspec.json.decode(text)
        values = items if isinstance(items, list) else [items]
        options = dict(self.options)
        if self.options and len(values) > len(self.arguments) and isinstance(values[-1], dict):
            options = {name: self._read(name, value) for name, value in values.pop().items()}
        names = self._places()
        arguments = [self._read(names[at], value) if at < len(names) else value for at, value in enumerate(values)]
        return arguments, options

    def _read(self, name: str, value: Any) -> Any:
        annotation = parameter_type(self.function, name)
        return value if annotation is UNTYPED else decode_result(canonical(value), annotation)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Body)
            and _same_callable(self.function, other.function)
            and _same(self.arguments, other.arguments)
            and _same(self.options, other.options)
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Request:
    """One call of a step. `signature` is its input: two that wait at the same time under one name must be equal.

    `displaced` is asked about each result that the function did not come to, when this request has none: whether that
    was the result of this very request, as an earlier execution made it. The error it returns ends the function.
    """

    name: str
    read: Callable[[bytes], Any]
    signature: object
    body: Body | None = None
    waiting: Waiting | None = None
    displaced: Callable[[bytes], FunctionError | None] | None = None


def run_request(name: str, body: Body) -> Request:
    """A request to run `body`."""
    return Request(name, partial(_read_result, body), body, body=body)


def _read_result(body: Body, text: bytes) -> Any:
    return decode_result(text, body.annotation)


def _same(one: object, other: object) -> bool:
    if one is other:
        return True
    try:
        return bool(one == other)
    except Exception:
        # An array, for instance, has no single answer. Then they count as different.
        return False


def _same_callable(one: Any, other: Any) -> bool:
    if isinstance(one, partial) and isinstance(other, partial):
        return (
            _same_callable(one.func, other.func) and _same(one.args, other.args) and _same(one.keywords, other.keywords)
        )
    if _same(one, other):
        return True
    code = getattr(one, "__code__", None)
    if code is None or code is not getattr(other, "__code__", None):
        return False
    return _same(one.__defaults__, other.__defaults__) and _same(_captured(one), _captured(other))


def _captured(function: Any) -> list[Any]:
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            cells.append(None)
    return cells
