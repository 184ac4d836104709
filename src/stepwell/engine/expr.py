"""Expressions of triggers, waits, cancellations and keys: text in, one Python function out.

    text --lexer--> tokens --Pratt parser--> frozen tree --generator--> one function --> value

The language is the Inngest dialect of CEL. It forgives what CEL refuses, because events are plain JSON
that nobody declared: a missing attribute is null, unlike types are unequal, numbers compare by value,
text concatenates, `&&`, `||` and `?:` go by truthiness and return an operand as in JavaScript.

    null in ...          gives
    null == null         true; null equals nothing else, so `x != null` asks whether x is there
    null < 5, null > -1  compared as the zero of the other side's type
    missing < x, > x     true, false: what is not there sorts below everything
    null + x, x + null   x; the other arithmetic takes null as zero
    size(null)           0; any other function of null is false

Users write these texts, so a program is fenced rather than trusted. Generated code holds nothing of the
text but literals and field names that went through the lexer and `repr`; every variable in it is a
number we chose. It is straight-line statements over temporaries, so nothing is evaluated twice, `&&`
and `||` stop early, and deep text cannot exhaust Python's parser. Text and nesting are limited when
compiling; when running, loops and everything that grows with the data draw on one budget, counted and
not timed, sized so that it ends well within 50 ms. Regular expressions run in RE2, in linear time.

Two things are deliberately simpler than CEL: an error on the left of `||` is not rescued by a true on the
right, and timestamps are exact to a microsecond.

No clock is read: `now` is an argument. Elsewhere: which events are offered to which expression, and the
index kept over `Program.equality` (`match.py`); duration and date texts (`stepwell.model.duration`).
"""

from __future__ import annotations

import base64
import binascii
import builtins
import difflib
import functools
import hashlib
import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple, NoReturn, TypeVar
from zoneinfo import ZoneInfo

from stepwell.model.duration import parse_duration, parse_time

__all__ = ["BoundProgram", "EvaluationError", "ExpressionError", "Program", "compile", "equality_key"]

MAX_TEXT_LENGTH = 4096  # characters of an expression
MAX_DEPTH = 50  # levels of nesting, in the text and in the tree
MAX_LOOPS = 8  # macros inside macros; CPython itself stops at twenty nested blocks
MAX_COST = 250_000  # about one unit per generated statement or 50 to 100 ns of other work
MAX_RESULT_LENGTH = 100_000  # characters of a text, or items of a list, that an expression builds
MAX_PATTERN_LENGTH = 1000  # characters of a regular expression
PATTERN_MEMORY = 256 * 1024  # bytes RE2 may use for one; caps its compile time near 1 ms

_T = TypeVar("_T")


class ExpressionError(ValueError):
    """The text is not an expression; found when compiling, so at registration and not at three at night.

    Attributes:
        position: Offset of the offending character in the text, from 0. The message counts from 1.
    """

    def __init__(self, what: str, position: int, advice: str) -> None:
        self.position = position
        super().__init__(f"{what} at character {position + 1}: {advice}")


class EvaluationError(ValueError):
    """The expression has no value for these variables, or costs too much; the caller treats it as no match."""


def compile(text: str) -> Program:
    """Compile `text`; the last 2,048 programs are kept, so asking again is cheap.

    Raises:
        ExpressionError: Not an expression of the dialect, longer than 4,096 characters, nested deeper than 50
            levels, or with a regular expression that RE2 does not take.
    """
    if len(text) > MAX_TEXT_LENGTH:
        advice = f"at most {MAX_TEXT_LENGTH} are allowed; compute the value before sending the event"
        raise ExpressionError(f"the expression has {len(text)} characters and ends", MAX_TEXT_LENGTH, advice)
    return _compiled(text)


@functools.lru_cache(maxsize=2048)
def _compiled(text: str) -> Program:
    tree = _Parser(text).whole()
    generator = _Generator()
    run = generator.function(tree)
    conjuncts = tree.parts if isinstance(tree, Logic) and tree.operator == "&&" else (tree,)
    return Program(
        text=text,
        uses_calls=generator.uses_calls,
        variables=frozenset(generator.variables),
        _run=run,
        _conjuncts=conjuncts,
        _indexable=tuple(pair for conjunct in conjuncts for pair in _indexable(conjunct)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A compiled expression. Immutable and free of state: share it between threads, evaluate it at will.

    Attributes:
        text: What it was compiled from.
        uses_calls: It has a macro or a function call. `cancel[].if` may not.
        variables: The names it reads, such as `event` and `async`. A name nobody supplies is null, not an
            error, so a registration that wants to catch a typing mistake compares this set.
    """

    text: str
    uses_calls: bool
    variables: frozenset[str]
    _run: Callable[[Mapping[str, object], int], object]
    _conjuncts: tuple[Node, ...]
    _indexable: tuple[tuple[tuple[str, ...], Literal | tuple[str, ...]], ...]

    def evaluate(self, variables: Mapping[str, object], now: int = 0) -> object:
        """The value: JSON types, or a `datetime` or `timedelta` where the expression ends in a time.

        Args:
            variables: Decoded JSON by name: `{"event": {...}, "async": {...}}`. Never changed.
            now: Milliseconds since 1970, read by `now()`, `now_plus()` and `now_minus()`.

        Raises:
            EvaluationError: Types that do not fit (`"a" < 1`), division by zero, or a limit.
        """
        return self._run(variables, now)

    def matches(self, variables: Mapping[str, object], now: int = 0) -> bool:
        """Whether it is true; like `evaluate`, and any value but a boolean is an `EvaluationError`."""
        result = self._run(variables, now)
        if result is True:
            return True
        if result is False:
            return False
        advice = 'compare it with something, such as "== true" or "!= null"'
        raise EvaluationError(f"the expression gave {_kind(result)} where true or false is needed; {advice}")

    def bind(self, event: Mapping[str, object]) -> BoundProgram:
        """For a wait or a cancellation: `event` is fixed to what triggered the run, only `async` varies."""
        return BoundProgram(self, event)

    def equality(self, event: Mapping[str, object]) -> tuple[str, str] | None:
        """What a candidate must carry to match: a path in it and the key of the value there.

        Taken from the first top-level conjunct `async.<path> == <literal or event.<path>>`, either way round,
        whose value can be a key. A candidate for which `equality_key(candidate, path)` differs cannot match;
        one for which it is the same still has to be evaluated. `None`: evaluate every candidate.

        A null value gives no key: it equals every candidate that lacks the path. Nor do lists and objects.
        """
        for path, value in self._indexable:
            key = _key(value.value if isinstance(value, Literal) else _walk(event, value))
            if key is not None:
                return ".".join(path), key
        return None

    def explain(self, variables: Mapping[str, object], now: int = 0) -> str | None:
        """Why these variables do not match, for a person; `None` if they do.

        Names the first top-level condition that fails and the types found, never the values. Compiles
        that condition anew, so it costs a fraction of a millisecond: ask only when someone wants to know.
        """
        try:
            if self.matches(variables, now):
                return None
        except EvaluationError as err:
            return str(err)
        for number, conjunct in enumerate(self._conjuncts, start=1):
            if not _truthy(_Generator().function(conjunct)(variables, now)):
                detail = _operands(conjunct, variables, now)
                place = f"condition {number} of {len(self._conjuncts)}" if len(self._conjuncts) > 1 else "the condition"
                return f"{place} is false{detail}"
        raise AssertionError("a conjunction is false though every part of it is true")


@dataclass(frozen=True, slots=True)
class BoundProgram:
    """A program whose `event` is fixed. The event is kept, not copied: do not change it afterwards."""

    program: Program
    event: Mapping[str, object]

    def evaluate(self, candidate: Mapping[str, object], now: int = 0) -> object:
        """`Program.evaluate` with the candidate as `async`."""
        return self.program.evaluate({"event": self.event, "async": candidate}, now)

    def matches(self, candidate: Mapping[str, object], now: int = 0) -> bool:
        """`Program.matches` with the candidate as `async`."""
        return self.program.matches({"event": self.event, "async": candidate}, now)

    def explain(self, candidate: Mapping[str, object], now: int = 0) -> str | None:
        """`Program.explain` with the candidate as `async`."""
        return self.program.explain({"event": self.event, "async": candidate}, now)

    def equality(self) -> tuple[str, str] | None:
        """`Program.equality` for the fixed event."""
        return self.program.equality(self.event)


def equality_key(candidate: Mapping[str, object], path: str) -> str | None:
    """The key of `candidate` under a path that `Program.equality` gave; `None` where it has none."""
    return _key(_walk(candidate, path.split(".")))


def _key(value: object) -> str | None:
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


def _walk(value: Any, path: Iterable[str]) -> object:
    # As generated code does it, so that the index and the evaluation see the same value.
    try:
        for segment in path:
            value = value[segment]
    except _MISSES:
        return None
    return value


def _indexable(conjunct: Node) -> Iterable[tuple[tuple[str, ...], Literal | tuple[str, ...]]]:
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


def _operands(conjunct: Node, variables: Mapping[str, object], now: int) -> str:
    if not isinstance(conjunct, Binary):
        return ""
    found = [_Generator().function(side)(variables, now) for side in (conjunct.left, conjunct.right)]
    kinds = [_kind(value) for value in found]
    names = [_name(conjunct.left) or "the left side", _name(conjunct.right) or "the right side"]
    unlike = ", and unlike types are never equal" if kinds[0] != kinds[1] and conjunct.operator == "==" else ""
    return f": {names[0]} is {kinds[0]}, {names[1]} is {kinds[1]}{unlike}"


def _name(node: Node) -> str | None:
    if isinstance(node, Variable):
        return node.name
    if isinstance(node, Field):
        target = _name(node.target)
        return target and f"{target}.{node.name}"
    return None


# ---------------------------------------------------------------------------------------------- tokens


class Token(NamedTuple):
    kind: str  # int, float, string, name, symbol or end
    text: str
    value: Any
    position: int


_SPACE = re.compile(r"(?:[ \t\r\n\f]+|//[^\n]*)*")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|(?:[0-9]+\.[0-9]+|\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]+)?")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SYMBOL = re.compile(r"[=!]==?|[<>]=?|&&?|\|\|?|=|[-+*/%!?:.,()\[\]{}]")
_QUOTE = re.compile(r"""([A-Za-z]{0,2})(\"{3}|'{3}|"|')""")
_ESCAPE = re.compile(
    r"""\\(?:([abfnrtv\\?"'`])|[xX]([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2}))"""
)
_ESCAPED = dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True))
_SYMBOL_ADVICE = {
    "===": 'write "==", which already tells types apart',
    "!==": 'write "!=", which already tells types apart',
    "=": 'write "==" to compare',
    "&": 'write "&&" for and',
    "|": 'write "||" for or',
}


def _tokens(text: str) -> list[Token]:
    tokens: list[Token] = []
    at = _space_end(text, 0)
    while at < len(text):
        quote = _QUOTE.match(text, at)
        if quote:
            token, at = _quoted(text, quote)
        elif found := _NUMBER.match(text, at):
            token, at = _number(text, found)
        elif found := _IDENTIFIER.match(text, at):
            token, at = Token("name", found[0], None, at), found.end()
        elif found := _SYMBOL.match(text, at):
            if advice := _SYMBOL_ADVICE.get(found[0]):
                raise ExpressionError(f'found "{found[0]}"', at, advice)
            token, at = Token("symbol", found[0], None, at), found.end()
        else:
            advice = 'it has no meaning here; a name with other characters is read as event.data["name"]'
            raise ExpressionError(f"found {text[at]!r}", at, advice)
        tokens.append(token)
        at = _space_end(text, at)
    tokens.append(Token("end", "", None, len(text)))
    return tokens


def _space_end(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None  # it matches the empty text too
    return found.end()


def _number(text: str, found: re.Match[str]) -> tuple[Token, int]:
    written, at, end = found[0], found.start(), found.end()
    if text[end : end + 1] in {"u", "U"}:
        end += 1  # CEL's unsigned integers: all our integers are one kind
    if following := _IDENTIFIER.match(text, end):
        raise ExpressionError(f'found "{following[0]}" after a number', end, "put an operator or a space between them")
    if written[:2] in {"0x", "0X"}:
        return Token("int", written, int(written, 16), at), end
    if written.isdigit():
        if len(written) > 30:
            raise ExpressionError("found a number with too many digits", at, "integers have 64 bits")
        return Token("int", written, int(written), at), end
    value = float(written)
    if math.isinf(value):
        raise ExpressionError(f"found {written}", at, "it is too large for a number")
    return Token("float", written, value, at), end


def _quoted(text: str, quote: re.Match[str]) -> tuple[Token, int]:
    prefix, mark, start = quote[1].lower(), quote[2], quote.start()
    if prefix not in {"", "r"}:
        raise ExpressionError(f'found "{quote[1]}" before a quote', start, "only r (raw text) is known there")
    raw = prefix == "r"
    pieces: list[str] = []
    at = quote.end()
    while not text.startswith(mark, at):
        character = text[at : at + 1]
        if not character or (character in "\r\n" and len(mark) == 1):
            advice = f"close it with {mark}" if not character else f"close it with {mark}, or use {mark * 3} for lines"
            raise ExpressionError("found a text that does not end", start, advice)
        if character != "\\":
            pieces.append(character)
            at += 1
        elif raw:
            pieces.append(text[at : at + 2])
            at += 2
        else:
            piece, at = _escape(text, at)
            pieces.append(piece)
    value = "".join(pieces)
    return Token("string", text[start : at + len(mark)], value, start), at + len(mark)


def _escape(text: str, at: int) -> tuple[str, int]:
    found = _ESCAPE.match(text, at)
    if found is None:
        advice = r"known are \n \t \r \a \b \f \v \\ \? \" \' \` \xHH \uHHHH \UHHHHHHHH and \NNN; or use r'...'"
        raise ExpressionError(f"found the escape {text[at : at + 2]!r}", at, advice)
    simple, *codes = found.groups()
    if simple:
        return _ESCAPED.get(simple, simple), found.end()
    code = int(codes[3], 8) if codes[3] else int(next(filter(None, codes)), 16)
    if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise ExpressionError(f"found the escape {found[0]}", at, "it is no Unicode character")
    return chr(code), found.end()


# ------------------------------------------------------------------------------------------------ tree


@dataclass(frozen=True, slots=True)
class Node:
    position: int
    height: int  # levels below and including this one; bounded, so that walking the tree may recurse


@dataclass(frozen=True, slots=True)
class Literal(Node):
    value: bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Variable(Node):
    name: str


@dataclass(frozen=True, slots=True)
class ListLiteral(Node):
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class MapLiteral(Node):
    entries: tuple[tuple[Node, Node], ...]


@dataclass(frozen=True, slots=True)
class Field(Node):
    """`target.name`, and `target["name"]`, which means the same."""

    target: Node
    name: str


@dataclass(frozen=True, slots=True)
class Index(Node):
    target: Node
    key: Node


@dataclass(frozen=True, slots=True)
class Unary(Node):
    operator: str  # ! or -
    operand: Node


@dataclass(frozen=True, slots=True)
class Binary(Node):
    operator: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Logic(Node):
    """`&&` or `||` over any number of parts: a long list of alternatives is wide, not deep."""

    operator: str
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Conditional(Node):
    condition: Node
    then: Node
    otherwise: Node


@dataclass(frozen=True, slots=True)
class Call(Node):
    """A function of the table below; of a method, the first argument is the receiver."""

    name: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Has(Node):
    target: Node
    name: str


@dataclass(frozen=True, slots=True)
class Loop(Node):
    """`source.macro(variable, [condition,] body)`."""

    macro: str
    source: Node
    variable: str
    condition: Node | None
    body: Node


_POWERS = {
    "?": 1,
    "||": 2,
    "&&": 3,
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">=", "in"), 4),
    **dict.fromkeys("+-", 5),
    **dict.fromkeys("*/%", 6),
}
_UNARY_POWER = 7
_MACROS = {"all": (2,), "exists": (2,), "exists_one": (2,), "map": (2, 3), "filter": (2,)}
_WORD_OPERATORS = {"and": "&&", "or": "||", "not": "!", "AND": "&&", "OR": "||", "NOT": "!", "is": "=="}
_CONSTANTS = {"true": True, "false": False, "null": None}


class _Parser:
    """A Pratt parser: an operator binds its operands by its power, and the loop in `_expression` is all of it."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._next = 0
        self._depth = 0

    def whole(self) -> Node:
        if self._peek.kind == "end":
            raise ExpressionError("the expression is empty", 0, "write a condition such as event.data.amount > 10")
        tree = self._expression(0)
        if self._peek.kind != "end":
            raise self._unexpected("an operator or the end")
        return tree

    @property
    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._tokens[self._next]
        self._next += 1
        return token

    def _accept(self, symbol: str) -> bool:
        if self._peek.kind == "symbol" and self._peek.text == symbol:
            self._next += 1
            return True
        return False

    def _expect(self, symbol: str, why: str) -> None:
        if not self._accept(symbol):
            raise self._unexpected(f'"{symbol}" {why}')

    def _unexpected(self, wanted: str) -> ExpressionError:
        token = self._peek
        found = "found the end" if token.kind == "end" else f'found "{token.text[:40]}"'
        if token.kind == "name" and token.text in _WORD_OPERATORS:
            return ExpressionError(found, token.position, f'write "{_WORD_OPERATORS[token.text]}"')
        return ExpressionError(found, token.position, f"expected {wanted}")

    def _height(self, position: int, *children: Node) -> int:
        height = 1 + max((child.height for child in children), default=0)
        if height > MAX_DEPTH:
            raise _too_deep(position)
        return height

    def _expression(self, power: int) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _too_deep(self._peek.position)
        left = self._prefix()
        while True:
            operator_ = self._peek
            its_power = _POWERS.get(operator_.text, -1) if operator_.kind in {"symbol", "name"} else -1
            if its_power < max(power, 1):
                break
            self._next += 1
            left = self._infix(left, operator_, its_power)
        self._depth -= 1
        return left

    def _infix(self, left: Node, token: Token, power: int) -> Node:
        position = token.position
        if token.text == "?":
            then = self._expression(0)
            self._expect(":", "and the other value of ?:")
            otherwise = self._expression(power)  # the same power: `a ? b : c ? d : e` nests to the right
            return Conditional(position, self._height(position, left, then, otherwise), left, then, otherwise)
        right = self._expression(power + 1)
        if token.text in {"&&", "||"}:
            parts = (*_parts(left, token.text), *_parts(right, token.text))
            return Logic(position, self._height(position, *parts), token.text, parts)
        return Binary(position, self._height(position, left, right), token.text, left, right)

    def _prefix(self) -> Node:
        token = self._peek
        if self._accept("!"):
            operand = self._expression(_UNARY_POWER)
            return Unary(token.position, self._height(token.position, operand), "!", operand)
        if self._accept("-"):
            return self._negative(token.position)
        return self._postfix(self._primary())

    def _negative(self, position: int) -> Node:
        if self._peek.kind == "int" and self._peek.value == 2**63:
            self._next += 1  # the one integer that exists only with its sign
            return Literal(position, 1, -(2**63))
        operand = self._expression(_UNARY_POWER)
        if (
            isinstance(operand, Literal)
            and isinstance(operand.value, int | float)
            and not isinstance(operand.value, bool)
        ):
            return Literal(position, 1, -operand.value)
        return Unary(position, self._height(position, operand), "-", operand)

    def _primary(self) -> Node:
        token = self._peek
        position = token.position
        if token.kind in {"int", "float", "string"}:
            if token.kind == "int" and token.value >= 2**63:
                raise ExpressionError(f"found {token.text}", position, "integers have 64 bits; write it as a text")
            self._next += 1
            return Literal(position, 1, token.value)
        if token.kind == "name" and token.text not in {"in", *_WORD_OPERATORS}:
            self._next += 1
            if token.text in _CONSTANTS:
                return Literal(position, 1, _CONSTANTS[token.text])
            return self._call(token, None) if self._accept("(") else Variable(position, 1, token.text)
        if self._accept("("):
            inner = self._expression(0)
            self._expect(")", "to close the parenthesis")
            return inner
        if self._accept("["):
            items = self._until("]", lambda: self._expression(0))
            return ListLiteral(position, self._height(position, *items), items)
        if self._accept("{"):
            entries = self._until("}", self._entry)
            children = (node for entry in entries for node in entry)
            return MapLiteral(position, self._height(position, *children), entries)
        raise self._unexpected("a value: a name such as event.data.id, a text, a number, a list or a map")

    def _until(self, close: str, element: Callable[[], _T]) -> tuple[_T, ...]:
        elements: list[_T] = []
        while not self._accept(close):
            elements.append(element())
            if not self._accept(","):
                self._expect(close, 'or "," here')
                break
        return tuple(elements)

    def _entry(self) -> tuple[Node, Node]:
        key = self._expression(0)
        self._expect(":", "between the key and the value of a map")
        return key, self._expression(0)

    def _postfix(self, node: Node) -> Node:
        while True:
            position = self._peek.position
            if self._accept("."):
                name = self._peek
                if name.kind != "name":
                    raise self._unexpected('a name after "."')
                self._next += 1
                if self._accept("("):
                    node = self._call(name, node)
                else:
                    node = Field(position, self._height(position, node), node, name.text)
            elif self._accept("["):
                key = self._expression(0)
                self._expect("]", "to close the index")
                height = self._height(position, node, key)
                if isinstance(key, Literal) and isinstance(key.value, str):
                    node = Field(position, height, node, key.value)
                else:
                    node = Index(position, height, node, key)
            else:
                return node

    def _call(self, name: Token, receiver: Node | None) -> Node:
        arguments = self._until(")", lambda: self._expression(0))
        if receiver is None and name.text == "has":
            return self._has(name, arguments)
        if receiver is not None and name.text in _MACROS:
            return self._loop(name, receiver, arguments)
        function = _FUNCTIONS.get(name.text)
        if function is None:
            raise _unknown_function(name)
        if function.form != "both" and (function.form == "method") != (receiver is not None):
            raise ExpressionError(f'found "{name.text}"', name.position, f"it is called as {function.usage}")
        if receiver is not None:
            arguments = (receiver, *arguments)
        if not function.least <= len(arguments) <= function.most:
            what = f'"{name.text}" has the wrong number of arguments'
            raise ExpressionError(what, name.position, f"it is called as {function.usage}")
        return Call(name.position, self._height(name.position, *arguments), name.text, arguments)

    def _has(self, name: Token, arguments: tuple[Node, ...]) -> Node:
        if len(arguments) != 1 or not isinstance(arguments[0], Field):
            raise ExpressionError('"has" needs one field', name.position, "it is called as has(event.data.id)")
        field = arguments[0]
        return Has(name.position, field.height, field.target, field.name)

    def _loop(self, name: Token, source: Node, arguments: tuple[Node, ...]) -> Node:
        if len(arguments) not in _MACROS[name.text] or not isinstance(arguments[0], Variable):
            usage = f"items.{name.text}(x, x.price > 10)"
            raise ExpressionError(f'"{name.text}" needs a name and an expression', name.position, f"as in {usage}")
        condition = arguments[1] if len(arguments) == 3 else None
        height = self._height(name.position, source, *arguments)
        return Loop(name.position, height, name.text, source, arguments[0].name, condition, arguments[-1])


def _parts(node: Node, symbol: str) -> tuple[Node, ...]:
    return node.parts if isinstance(node, Logic) and node.operator == symbol else (node,)


def _too_deep(position: int) -> ExpressionError:
    return ExpressionError(f"the expression nests deeper than {MAX_DEPTH} levels", position, "take it apart")


def _unknown_function(name: Token) -> ExpressionError:
    known = [*_FUNCTIONS, *_MACROS, "has"]
    close = difflib.get_close_matches(name.text, known, n=1, cutoff=0.5)
    advice = f'did you mean "{close[0]}"?' if close else f"known are {', '.join(sorted(known))}"
    return ExpressionError(f'found the unknown function "{name.text[:40]}"', name.position, advice)


# ------------------------------------------------------------------------------------------- generator


class _Atom(NamedTuple):
    """What a subexpression became: the name of a temporary, or a literal."""

    code: str
    is_boolean: bool = False
    literal: Literal | None = None


def _literal_pattern(text: str, position: int) -> Any:
    try:
        return _pattern(text)
    except EvaluationError as err:
        raise ExpressionError("found a bad regular expression", position, str(err)) from err


class _Generator:
    """Writes one function for one tree: a statement per node, results in temporaries."""

    def __init__(self) -> None:
        self.uses_calls = False
        self.variables: set[str] = set()
        self._lines: list[str] = []
        self._indent = 1
        self._names = 0
        self._loops = 0
        self._scope: dict[str, str] = {}
        self._constants: dict[str, object] = {}

    def function(self, tree: Node) -> Callable[[Mapping[str, object], int], object]:
        result = self._emit(tree)
        self._line(f"return {result.code}" if result.is_boolean else f"return finished(meter, {result.code})")
        source = "\n".join(["def program(variables, now):", f" meter = [{MAX_COST}]", *self._lines])
        space: dict[str, Any] = {**_RUNTIME, **self._constants}
        exec(builtins.compile(source, "<expression>", "exec"), space)
        return space["program"]  # type: ignore[no-any-return]

    def _line(self, code: str) -> None:
        self._lines.append(" " * self._indent + code)

    def _fresh(self) -> str:
        self._names += 1
        return f"t{self._names}"

    def _assign(self, code: str, *, is_boolean: bool = False) -> _Atom:
        name = self._fresh()
        self._line(f"{name} = {code}")
        return _Atom(name, is_boolean)

    def _constant(self, value: object) -> str:
        name = f"c{len(self._constants)}"
        self._constants[name] = value
        return name

    def _emit(self, node: Node) -> _Atom:
        match node:
            case Literal(value=value):
                return _Atom(repr(value), isinstance(value, bool), node)
            case Variable() | Field():
                return self._access(node, "None")
            case Index():
                return self._index(node, "None")
            case ListLiteral(items=items):
                return self._assign(f"[{', '.join(self._emit(item).code for item in items)}]")
            case MapLiteral(entries=entries):
                pairs = [f"({self._emit(key).code}, {self._emit(value).code})" for key, value in entries]
                return self._assign(f"mapping([{', '.join(pairs)}])")
            case Unary(operator="!", operand=operand):
                return self._assign(f"not {self._test(self._emit(operand))}", is_boolean=True)
            case Unary(operand=operand):
                return self._assign(f"negative({self._emit(operand).code})")
            case Binary():
                return self._binary(node)
            case Logic():
                return self._logic(node)
            case Conditional():
                return self._conditional(node)
            case Has(target=target, name=name):
                self.uses_calls = True
                return self._assign(f"has({self._emit(target).code}, {name!r})", is_boolean=True)
            case Call():
                self.uses_calls = True
                return self._call(node)
            case Loop():
                self.uses_calls = True
                return self._loop(node)
            case _:
                raise AssertionError(f"no code for {node}")

    def _test(self, atom: _Atom) -> str:
        return atom.code if atom.is_boolean else f"truthy({atom.code})"

    def _access(self, node: Node, absent: str) -> _Atom:
        """A variable and the fields behind it, in one go: `try` costs nothing unless something is missing."""
        segments: list[str] = []
        while isinstance(node, Field):
            segments.append(node.name)
            node = node.target
        if isinstance(node, Variable) and node.name in self._scope:
            root = self._scope[node.name]
        elif isinstance(node, Variable) and node.name in _TYPES:
            root = self._constant(_TYPES[node.name])
        elif isinstance(node, Variable):
            self.variables.add(node.name)
            root = "variables"
            segments.append(node.name)
        else:
            value = self._emit(node)
            root = value.code if value.literal is None else self._assign(value.code).code
        if not segments:
            return _Atom(root)
        name = self._fresh()
        self._line("try:")
        self._line(f" {name} = {root}{''.join(f'[{segment!r}]' for segment in reversed(segments))}")
        self._line("except MISSES:")
        self._line(f" {name} = {absent}")
        return _Atom(name)

    def _index(self, node: Index, absent: str) -> _Atom:
        target, key = self._emit(node.target), self._emit(node.key)
        return self._assign(f"index(meter, {target.code}, {key.code}, {absent})")

    def _binary(self, node: Binary) -> _Atom:
        symbol = node.operator
        if symbol in _ORDER:
            return self._order(node)
        left, right = self._emit(node.left), self._emit(node.right)
        match symbol:
            case "==":
                return self._assign(self._equality(left, right), is_boolean=True)
            case "!=":
                return self._assign(f"not ({self._equality(left, right)})", is_boolean=True)
            case "in":
                return self._assign(f"contained(meter, {left.code}, {right.code})", is_boolean=True)
            case "+":
                return self._assign(f"add(meter, {left.code}, {right.code})")
            case "-":
                return self._assign(f"subtract({left.code}, {right.code})")
            case _:
                return self._assign(f"calculate({symbol!r}, {left.code}, {right.code})")

    def _equality(self, left: _Atom, right: _Atom) -> str:
        """With one literal, Python's `==` agrees with the dialect, but for true and 1; else it is not trusted."""
        if (left.literal is None) == (right.literal is None):
            return f"equal(meter, {left.code}, {right.code})"
        if left.literal is not None:
            left, right = right, left
        value = right.literal.value if right.literal else None
        if value is None or isinstance(value, bool):
            return f"{left.code} is {right.code}"
        if value in (0, 1):
            return f"{left.code} == {right.code} and {left.code} is not {bool(value)}"
        return f"{left.code} == {right.code}"

    def _order(self, node: Binary) -> _Atom:
        left, right = self._order_operand(node.left), self._order_operand(node.right)
        general = f"order(meter, {node.operator!r}, {left.code}, {right.code})"
        for side, other in ((left, right), (right, left)):
            number = other.literal is not None and type(other.literal.value) in (int, float)
            if number and side.literal is None:
                is_number = f"{side.code}.__class__ is int or {side.code}.__class__ is float"
                quick = f"{left.code} {node.operator} {right.code}"
                return self._assign(f"{quick} if {is_number} else {general}", is_boolean=True)
        return self._assign(general, is_boolean=True)

    def _order_operand(self, node: Node) -> _Atom:
        # Only an ordering tells a missing attribute from a null one, so the difference exists only here.
        match node:
            case Variable() | Field():
                return self._access(node, "MISSING")
            case Index():
                return self._index(node, "MISSING")
            case _:
                return self._emit(node)

    def _logic(self, node: Logic) -> _Atom:
        """Each part runs only under a test of the previous one: flat, however many there are."""
        result = self._fresh()
        first, *others = node.parts
        part = self._emit(first)
        self._line(f"{result} = {part.code}")
        is_boolean = part.is_boolean
        for other in others:
            test = result if is_boolean else f"truthy({result})"
            self._line(f"if {test}:" if node.operator == "&&" else f"if not {test}:")
            self._indent += 1
            part = self._emit(other)
            self._line(f"{result} = {part.code}")
            self._indent -= 1
            is_boolean = is_boolean and part.is_boolean
        return _Atom(result, is_boolean)

    def _conditional(self, node: Conditional) -> _Atom:
        result = self._fresh()
        branches: list[_Atom] = []
        condition = self._emit(node.condition)
        for head, branch in ((f"if {self._test(condition)}:", node.then), ("else:", node.otherwise)):
            self._line(head)
            self._indent += 1
            branches.append(self._emit(branch))
            self._line(f"{result} = {branches[-1].code}")
            self._indent -= 1
        return _Atom(result, all(branch.is_boolean for branch in branches))

    def _call(self, node: Call) -> _Atom:
        function = _FUNCTIONS[node.name]
        arguments = [self._emit(argument) for argument in node.arguments]
        name, codes = f"{node.name}_", [argument.code for argument in arguments]
        if node.name == "matches" and (pattern := arguments[1].literal) and isinstance(pattern.value, str):
            name, codes[1] = "search", self._constant(_literal_pattern(pattern.value, pattern.position))
        call = f"{name}({', '.join(['meter', 'now', *codes])})"
        if function.takes_null:
            return self._assign(call)
        if any(atom.code == "None" for atom in arguments):
            return _Atom("False", is_boolean=True)
        if tests := [f"{atom.code} is None" for atom in arguments if atom.literal is None]:
            call = f"False if {' or '.join(tests)} else {call}"
        return self._assign(call, is_boolean=function.is_boolean)

    def _loop(self, node: Loop) -> _Atom:
        source = self._emit(node.source)
        self._loops += 1
        if self._loops > MAX_LOOPS:
            raise ExpressionError(f"found more than {MAX_LOOPS} nested loops", node.position, "take them apart")
        starts = {"all": f"{source.code} is not None", "exists": "False", "exists_one": "0"}
        if source.literal is not None:
            starts["all"] = str(source.literal.value is not None)
        result = self._assign(starts.get(node.macro, "[]"))
        item = self._fresh()
        self._line(f"for {item} in each({source.code}):")
        self._indent += 1
        body_start = len(self._lines)
        outer = self._scope
        self._scope = {**outer, node.variable: item}
        self._loop_body(node, result.code, item)
        self._scope = outer
        # An iteration costs what it runs: the statements of its body.
        cost = len(self._lines) - body_start + 2
        self._lines.insert(body_start, " " * self._indent + "if meter[0] < 0: overrun()")
        self._lines.insert(body_start, " " * self._indent + f"meter[0] -= {cost}")
        self._indent -= 1
        self._loops -= 1
        if node.macro == "exists_one":
            return self._assign(f"{result.code} == 1", is_boolean=True)
        return _Atom(result.code, node.macro in {"all", "exists"})

    def _loop_body(self, node: Loop, result: str, item: str) -> None:
        if node.condition is not None:
            self._line(f"if not {self._test(self._emit(node.condition))}: continue")
        body = self._emit(node.body)
        test = self._test(body)
        match node.macro:
            case "all":
                self._line(f"if not {test}: {result} = False; break")
            case "exists":
                self._line(f"if {test}: {result} = True; break")
            case "exists_one":
                self._line(f"if {test}: {result} += 1")
            case "filter":
                self._line(f"if {test}: {result}.append({item})")
            case "map":
                self._line(f"{result}.append({body.code})")


# --------------------------------------------------------------------------------------------- runtime


@dataclass(frozen=True, slots=True)
class TypeName:
    """What `type(x)` gives, and what a bare `int` or `string` means."""

    name: str


class _Missing:
    """An attribute that is not there, as an operand of an ordering."""


_Meter = list[int]  # one number: the cost still allowed
_MISSING = _Missing()
_MISSES = (KeyError, IndexError, TypeError)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TYPE_OF_CLASS = {
    type(None): "null_type",
    bool: "bool",
    int: "int",
    float: "double",
    str: "string",
    list: "list",
    dict: "map",
    datetime: "timestamp",
    timedelta: "duration",
    TypeName: "type",
}
_TYPES = {name: TypeName(name) for name in _TYPE_OF_CLASS.values()}
_ZERO_OF_CLASS: dict[type, object] = {
    bool: False,
    int: 0,
    float: 0,
    str: "",
    datetime: datetime.min.replace(tzinfo=UTC),
    timedelta: timedelta(0),
}
_NUMBERS = (int, float)
_INTEGER_TEXT = re.compile(r"[+-]?[0-9]{1,19}")
_DOUBLE_TEXT = re.compile(
    r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf|infinity|nan)", re.IGNORECASE
)
_BOOLEAN_TEXTS = {
    **dict.fromkeys(("1", "t", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "false", "FALSE", "False"), False),
}


def _kind(value: object) -> str:
    if value is None or value is _MISSING:
        return "missing or null"
    name = _TYPE_OF_CLASS.get(type(value), "unknown")
    words = {"bool": "boolean", "int": "number", "double": "number", "string": "text"}
    return f"a {words.get(name, name)}"


def _overrun() -> NoReturn:
    raise EvaluationError("the expression costs too much to evaluate; loop over fewer items or shorten the texts")


def _spend(meter: _Meter, cost: int) -> None:
    meter[0] -= cost
    if meter[0] < 0:
        _overrun()


def _spend_on_text(meter: _Meter, text: object) -> None:
    """Comparing or looking up a text reads it all; for the usual short one that costs nothing to speak of."""
    if isinstance(text, str) and len(text) > 256:
        _spend(meter, len(text) // 256)


def _finished(meter: _Meter, value: object) -> object:
    """Let a value out. Lists that share their parts are small here and huge once written out as JSON."""
    pending = [value]
    while pending:
        current = pending.pop()
        _spend(meter, 3)
        if isinstance(current, str):
            _spend(meter, len(current) // 64)
        elif isinstance(current, list):
            _spend(meter, len(current) // 8)
            pending.extend(current)
        elif isinstance(current, dict):
            _spend(meter, len(current) // 8)
            pending.extend(current.values())
    return value


def _truthy(value: object) -> bool:
    if isinstance(value, float):
        return value != 0 and not math.isnan(value)
    return bool(value) or isinstance(value, list | dict | timedelta)


def _equal(meter: _Meter, left: object, right: object) -> bool:
    kind = left.__class__
    if kind is not right.__class__:
        return kind in _NUMBERS and right.__class__ in _NUMBERS and left == right
    if isinstance(left, str) and isinstance(right, str):
        _spend_on_text(meter, left)
        return left == right
    if kind is not list and kind is not dict:
        return left == right
    pending: list[tuple[Any, Any]] = [(left, right)]
    while pending:
        one, other = pending.pop()
        _spend(meter, 2)
        if one.__class__ is list and other.__class__ is list:
            if len(one) != len(other):
                return False
            _spend(meter, len(one) // 2)
            pending.extend(zip(one, other, strict=True))
        elif one.__class__ is dict and other.__class__ is dict:
            _spend(meter, len(one))
            if len(one) != len(other) or not all(key in other for key in one):
                return False
            pending.extend((value, other[key]) for key, value in one.items())
        elif not _equal(meter, one, other):
            return False
    return True


def _order(meter: _Meter, symbol: str, left: Any, right: Any) -> bool:
    compare = _ORDER[symbol]
    if left is _MISSING or right is _MISSING:
        return compare(left is not _MISSING and left is not None, right is not _MISSING and right is not None)
    if left is None and right is None:
        return compare(0, 0)
    if left is None:
        left = _ZERO_OF_CLASS.get(right.__class__)
    elif right is None:
        right = _ZERO_OF_CLASS.get(left.__class__)
    alike = left.__class__ is right.__class__ and left.__class__ in _ZERO_OF_CLASS
    if alike or (left.__class__ in _NUMBERS and right.__class__ in _NUMBERS):
        _spend_on_text(meter, left)
        return compare(left, right)
    raise EvaluationError(f"cannot order {_kind(left)} and {_kind(right)} by {symbol}; convert one of them")


def _contained(meter: _Meter, item: object, container: object) -> bool:
    if container is None:
        return False
    if isinstance(container, list):
        for element in container:
            _spend(meter, 2)
            if _equal(meter, item, element):
                return True
        return False
    if isinstance(container, dict):
        _spend_on_text(meter, item)
        return item.__class__ in (str, int, float) and item in container
    raise EvaluationError(f'the right side of "in" is {_kind(container)}; it must be a list or a map')


def _index(meter: _Meter, target: Any, key: Any, absent: object) -> object:
    if key.__class__ is float and key.is_integer():
        key = int(key)
    if isinstance(target, list):
        return target[key] if key.__class__ is int and 0 <= key < len(target) else absent
    if isinstance(target, Mapping) and key.__class__ in (str, int, float):
        _spend_on_text(meter, key)
        return target.get(key, absent)
    return absent


def _has(target: object, name: str) -> bool:
    return isinstance(target, Mapping) and name in target


def _each(source: object) -> Iterable[object]:
    if isinstance(source, list | dict):
        return source
    if source is None:
        return ()
    raise EvaluationError(f"cannot loop over {_kind(source)}; it must be a list or a map")


def _mapping(entries: list[tuple[object, object]]) -> dict[object, object]:
    built: dict[object, object] = {}
    for key, value in entries:
        if key.__class__ not in (str, int):
            raise EvaluationError(f"a key of a map is {_kind(key)}; it must be a text or a whole number")
        if key in built:
            raise EvaluationError("a map has the same key twice; remove one")
        built[key] = value
    return built


def _add(meter: _Meter, left: Any, right: Any) -> object:
    if left is None:
        return right
    if right is None:
        return left
    kinds = (left.__class__, right.__class__)
    if str in kinds:
        return _bounded(meter, _text(left) + _text(right))
    if kinds == (list, list):
        return _bounded(meter, left + right)
    if datetime in kinds or timedelta in kinds:
        if kinds != (datetime, datetime):
            return _in_time("+", operator.add, left, right)
        raise EvaluationError("cannot add two timestamps; subtract them, or add a duration")
    return _calculate("+", left, right)


def _subtract(left: Any, right: Any) -> object:
    kinds = (left.__class__, right.__class__)
    if datetime in kinds or timedelta in kinds:
        return _in_time("-", operator.sub, left, right)
    return _calculate("-", left, right)


def _in_time(symbol: str, calculate: Callable[[Any, Any], object], left: object, right: object) -> object:
    try:
        return calculate(left, right)
    except TypeError as err:
        raise EvaluationError(f'cannot use "{symbol}" on {_kind(left)} and {_kind(right)}') from err
    except OverflowError as err:
        raise EvaluationError(f'"{symbol}" leaves the years 1 to 9999') from err


def _bounded(meter: _Meter, value: Any) -> object:
    _spend(meter, 1 + len(value) // 64)
    if len(value) > MAX_RESULT_LENGTH:
        unit = "characters" if isinstance(value, str) else "items"
        raise EvaluationError(f"the expression builds {_kind(value)} of more than {MAX_RESULT_LENGTH} {unit}")
    return value


def _calculate(symbol: str, left: Any, right: Any) -> object:
    left = 0 if left is None else left
    right = 0 if right is None else right
    if left.__class__ not in _NUMBERS or right.__class__ not in _NUMBERS:
        raise EvaluationError(
            f'cannot use "{symbol}" on {_kind(left)} and {_kind(right)}; convert with int() or double()'
        )
    if left.__class__ is int and right.__class__ is int:
        return _in_64_bits(_calculate_integers(symbol, left, right))
    try:
        return _calculate_doubles(symbol, float(left), float(right))
    except OverflowError as err:
        raise EvaluationError(f'"{symbol}" got a number too large to calculate with') from err


def _calculate_integers(symbol: str, left: int, right: int) -> int:
    match symbol:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
    if right == 0:
        raise EvaluationError(f'cannot use "{symbol}" with zero on its right')
    # CEL rounds towards zero and gives the remainder the sign of the left side; Python does neither.
    quotient = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
    return quotient if symbol == "/" else left - quotient * right


def _calculate_doubles(symbol: str, left: float, right: float) -> float:
    match symbol:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/" if right == 0:
            return (
                math.nan if left == 0 or math.isnan(left) else math.copysign(math.inf, left) * math.copysign(1, right)
            )
        case "/":
            return left / right
    if right == 0 or math.isinf(left):
        raise EvaluationError(f'cannot use "{symbol}" with zero on its right or an infinite left')
    return math.fmod(left, right)


def _in_64_bits(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise EvaluationError("an integer leaves 64 bits; calculate with double()")
    return value


def _negative(value: Any) -> object:
    if value.__class__ is timedelta:
        return _in_time("-", operator.sub, timedelta(0), value)
    return -value if value.__class__ is float else _calculate("-", 0, value)


def _text(value: object) -> str:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(_in_64_bits(value))
        case float() if value.is_integer() and abs(value) < 1e21:
            return str(int(value))  # as Go writes a double, and JSON after it
        case float() if math.isfinite(value):
            return repr(value)
        case float():
            return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
        case datetime():
            return value.isoformat().removesuffix("+00:00") + "Z" if not value.microsecond else _with_fraction(value)
        case timedelta():
            return f"{_decimal_seconds(value)}s"
        case _:
            raise EvaluationError(f"cannot turn {_kind(value)} into text")


def _with_fraction(value: datetime) -> str:
    return value.isoformat(timespec="microseconds").removesuffix("+00:00").rstrip("0") + "Z"


def _decimal_seconds(value: timedelta) -> str:
    seconds, rest = divmod(abs(value) // _MICROSECOND, 1_000_000)
    fraction = f".{rest:06d}".rstrip("0") if rest else ""
    return f"{'-' if value < timedelta(0) else ''}{seconds}{fraction}"


def _string_argument(meter: _Meter, function: str, value: object) -> str:
    if not isinstance(value, str):
        raise EvaluationError(f"{function} needs a text and got {_kind(value)}; convert it with string()")
    _spend(meter, 1 + len(value) // 64)
    return value


# ------------------------------------------------------------------------------------------- functions


def _size(meter: _Meter, now: int, value: Any) -> int:
    if value is None:
        return 0
    if value.__class__ not in (str, list, dict):
        raise EvaluationError(f"size needs a text, a list or a map and got {_kind(value)}")
    return len(value)


def _contains(meter: _Meter, now: int, text: object, part: object) -> bool:
    whole = _string_argument(meter, "contains", text)
    _spend(meter, len(whole) // 32)
    return _string_argument(meter, "contains", part) in whole


def _starts_with(meter: _Meter, now: int, text: object, start: object) -> bool:
    return _string_argument(meter, "startsWith", text).startswith(_string_argument(meter, "startsWith", start))


def _ends_with(meter: _Meter, now: int, text: object, end: object) -> bool:
    return _string_argument(meter, "endsWith", text).endswith(_string_argument(meter, "endsWith", end))


def _matches(meter: _Meter, now: int, text: object, pattern: object) -> bool:
    compiled = _pattern(_string_argument(meter, "matches", pattern))
    # Its compilation, which the cache may have spared us: a cost must not depend on what ran before.
    _spend(meter, 150 + compiled.programsize)
    return _search(meter, now, text, compiled)


def _search(meter: _Meter, now: int, text: object, compiled: Any) -> bool:
    searched = _string_argument(meter, "matches", text)
    # RE2 may step through its whole program at each byte, in about 2 ns a step.
    _spend(meter, 60 + len(searched) * compiled.programsize // 32)
    try:
        return compiled.search(searched) is not None
    except UnicodeEncodeError as err:
        raise EvaluationError("matches got a text that is not valid Unicode") from err


@functools.lru_cache(maxsize=256)
def _pattern(pattern: str) -> Any:
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise EvaluationError(f"the regular expression is longer than {MAX_PATTERN_LENGTH} characters; shorten it")
    try:
        import re2  # here, because it comes with the server and most programs never need it
    except ImportError as err:
        raise EvaluationError('matches() needs RE2; install "stepwell[server]"') from err
    options = re2.Options()
    options.max_mem = PATTERN_MEMORY
    options.log_errors = False
    try:
        return re2.compile(pattern, options=options)
    except re2.error as err:
        reason = err.args[0].decode(errors="replace") if isinstance(err.args[0], bytes) else err
        raise EvaluationError(f"RE2 does not take the regular expression {pattern[:60]!r}: {reason}") from err
    except UnicodeEncodeError as err:
        raise EvaluationError("the regular expression is not valid Unicode") from err


def _int(meter: _Meter, now: int, value: object) -> int:
    match value:
        case bool():
            pass
        case int():
            return _in_64_bits(value)
        case float() if math.isfinite(value):
            return _in_64_bits(int(value))
        case str() if _INTEGER_TEXT.fullmatch(value):
            return _in_64_bits(int(value))
        case datetime():
            return (value - _EPOCH) // timedelta(seconds=1)
    shown = "a text that is no whole number" if isinstance(value, str) else _kind(value)
    raise EvaluationError(f"int() cannot convert {shown}")


def _double(meter: _Meter, now: int, value: object) -> float:
    match value:
        case bool():
            pass
        case int() | float():
            try:
                return float(value)
            except OverflowError as err:
                raise EvaluationError("double() got a number that is too large") from err
        case str() if len(value) <= 400 and _DOUBLE_TEXT.fullmatch(value):
            return float(value)
    shown = "a text that is no number" if isinstance(value, str) else _kind(value)
    raise EvaluationError(f"double() cannot convert {shown}")


def _bool(meter: _Meter, now: int, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in _BOOLEAN_TEXTS:
        return _BOOLEAN_TEXTS[value]
    raise EvaluationError(f"bool() cannot convert {_kind(value)}; compare it instead")


def _string(meter: _Meter, now: int, value: object) -> str:
    return _text(value)


def _type(meter: _Meter, now: int, value: object) -> TypeName:
    return _TYPES[_TYPE_OF_CLASS.get(type(value), "null_type")]


def _dyn(meter: _Meter, now: int, value: object) -> object:
    return value


def _timestamp(meter: _Meter, now: int, value: object) -> datetime:
    match value:
        case datetime():
            return value
        case int() if not isinstance(value, bool):
            return _instant(value, 1000)
        case str():
            _spend(meter, 50 + len(value) // 64)
            if found := parse_time(value):
                return found
    raise EvaluationError(f'timestamp() cannot convert {_kind(value)}; write it as "2026-01-31T12:00:00Z"')


def _date(meter: _Meter, now: int, value: object) -> datetime:
    # Numbers are milliseconds as in event.ts; below 1e11 (March 1973) they can only be meant as seconds.
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return _instant(value, 1000 if abs(value) < 1e11 else 1)
    return _timestamp(meter, now, value)


def _instant(number: int | float, milliseconds: int) -> datetime:
    try:
        return _EPOCH + timedelta(milliseconds=number * milliseconds)
    except OverflowError as err:
        raise EvaluationError("a time leaves the years 1 to 9999") from err


def _duration(meter: _Meter, now: int, value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    _spend(meter, 150)
    try:
        return parse_duration(_string_argument(meter, "duration", value))
    except EvaluationError:
        raise
    except ValueError as err:
        raise EvaluationError(str(err)) from err


def _now(meter: _Meter, now: int) -> datetime:
    return _instant(now, 1)


def _now_plus(meter: _Meter, now: int, value: object) -> object:
    return _in_time("+", operator.add, _instant(now, 1), _duration(meter, now, value))


def _now_minus(meter: _Meter, now: int, value: object) -> object:
    return _in_time("-", operator.sub, _instant(now, 1), _duration(meter, now, value))


def _lowercase(meter: _Meter, now: int, value: object) -> object:
    return _bounded(meter, _string_argument(meter, "lowercase", value).lower())


def _uppercase(meter: _Meter, now: int, value: object) -> object:
    return _bounded(meter, _string_argument(meter, "uppercase", value).upper())


def _b64decode(meter: _Meter, now: int, value: object) -> object:
    encoded = _string_argument(meter, "b64decode", value)
    try:
        return _bounded(meter, base64.b64decode(encoded, validate=True).decode())
    except (binascii.Error, UnicodeError) as err:
        raise EvaluationError("b64decode got a text that is not base64 of UTF-8") from err
    except EvaluationError:
        raise
    except ValueError as err:  # characters outside ASCII
        raise EvaluationError("b64decode got a text that is not base64 of UTF-8") from err


def _json_parse(meter: _Meter, now: int, value: object) -> object:
    encoded = _string_argument(meter, "json_parse", value)
    _spend(meter, 10 + len(encoded) // 4)
    try:
        return json.loads(encoded)
    except (ValueError, RecursionError) as err:
        raise EvaluationError("json_parse got a text that is not JSON, or nests too deep") from err


_Part = Callable[[datetime], int]
_PARTS_OF_DATE: dict[str, _Part] = {
    "getFullYear": lambda at: at.year,
    "getMonth": lambda at: at.month - 1,
    "getDate": lambda at: at.day,
    "getDayOfMonth": lambda at: at.day - 1,
    "getDayOfWeek": lambda at: at.isoweekday() % 7,
    "getDayOfYear": lambda at: at.timetuple().tm_yday - 1,
    "getHours": lambda at: at.hour,
    "getMinutes": lambda at: at.minute,
    "getSeconds": lambda at: at.second,
    "getMilliseconds": lambda at: at.microsecond // 1000,
}
_UNIT_OF_DURATION = {
    "getHours": timedelta(hours=1),
    "getMinutes": timedelta(minutes=1),
    "getSeconds": timedelta(seconds=1),
    "getMilliseconds": timedelta(milliseconds=1),
}


def _accessor(name: str) -> Callable[..., int]:
    part, unit = _PARTS_OF_DATE[name], _UNIT_OF_DURATION.get(name)

    def read(meter: _Meter, now: int, value: object, zone: object = None) -> int:
        if isinstance(value, datetime):
            return part(value if zone is None else _in_zone(meter, value, zone))
        if isinstance(value, timedelta) and unit is not None and zone is None:
            whole = abs(value) // unit  # towards zero: -90 s is -1 minute
            return whole if value >= timedelta(0) else -whole
        raise EvaluationError(f"{name} cannot read {_kind(value)}; convert it with timestamp() or date()")

    return read


def _in_zone(meter: _Meter, value: datetime, zone: object) -> datetime:
    name = _string_argument(meter, "a time zone", zone)
    _spend(meter, 50)
    try:
        if offset := re.fullmatch(r"([+-]?)([0-9]{2}):([0-5][0-9])", name):
            shift = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
            return value.astimezone(timezone(-shift if offset[1] == "-" else shift))
        return value.astimezone(ZoneInfo(name))
    except (KeyError, ValueError, OSError, OverflowError) as err:
        advice = 'write it as "Europe/Paris" or "+02:00"'
        raise EvaluationError(f"{name[:40]!r} is no time zone for this time; {advice}") from err


class _Function(NamedTuple):
    """A row of the table: how a function is called, and what runs it as (meter, now, *arguments)."""

    form: str  # global, method or both
    usage: str
    least: int
    most: int
    run: Callable[..., object]
    is_boolean: bool = False
    takes_null: bool = False  # the others are false when any argument is null


_FUNCTIONS = {
    "size": _Function("both", "size(value)", 1, 1, _size, takes_null=True),
    "contains": _Function("method", 'text.contains("part")', 2, 2, _contains, is_boolean=True),
    "startsWith": _Function("method", 'text.startsWith("start")', 2, 2, _starts_with, is_boolean=True),
    "endsWith": _Function("method", 'text.endsWith("end")', 2, 2, _ends_with, is_boolean=True),
    "matches": _Function("both", 'text.matches("^a+$")', 2, 2, _matches, is_boolean=True),
    "int": _Function("global", "int(value)", 1, 1, _int),
    "uint": _Function("global", "uint(value)", 1, 1, _int),
    "double": _Function("global", "double(value)", 1, 1, _double),
    "bool": _Function("global", "bool(value)", 1, 1, _bool, is_boolean=True),
    "string": _Function("global", "string(value)", 1, 1, _string),
    "type": _Function("global", "type(value)", 1, 1, _type, takes_null=True),
    "dyn": _Function("global", "dyn(value)", 1, 1, _dyn, takes_null=True),
    "timestamp": _Function("global", 'timestamp("2026-01-31T12:00:00Z")', 1, 1, _timestamp),
    "duration": _Function("global", 'duration("1h30m")', 1, 1, _duration),
    "date": _Function("global", "date(event.ts)", 1, 1, _date),
    "now": _Function("global", "now()", 0, 0, _now),
    "now_plus": _Function("global", 'now_plus("1h")', 1, 1, _now_plus),
    "now_minus": _Function("global", 'now_minus("1h")', 1, 1, _now_minus),
    "lowercase": _Function("global", "lowercase(text)", 1, 1, _lowercase),
    "uppercase": _Function("global", "uppercase(text)", 1, 1, _uppercase),
    "b64decode": _Function("global", "b64decode(text)", 1, 1, _b64decode),
    "json_parse": _Function("global", "json_parse(text)", 1, 1, _json_parse),
    **{name: _Function("method", f"date(event.ts).{name}()", 1, 2, _accessor(name)) for name in _PARTS_OF_DATE},
}

# All that generated code can reach: no builtins, nothing with a door to the outside.
_RUNTIME: dict[str, object] = {
    "__builtins__": {},
    "MISSES": _MISSES,
    "MISSING": _MISSING,
    "int": int,
    "float": float,
    "str": str,
    "add": _add,
    "calculate": _calculate,
    "contained": _contained,
    "each": _each,
    "equal": _equal,
    "finished": _finished,
    "has": _has,
    "index": _index,
    "mapping": _mapping,
    "negative": _negative,
    "order": _order,
    "overrun": _overrun,
    "search": _search,
    "subtract": _subtract,
    "truthy": _truthy,
    **{f"{name}_": function.run for name, function in _FUNCTIONS.items()},
}
