"""From text to a frozen tree: the lexer, the nodes and a Pratt parser.

    "a.b > 1 && c"  ->  Logic("&&", Binary(">", Field(a, "b"), 1), c)

Everything about the text is settled here, with advice for whoever wrote it: tokens, precedence, names of
functions and how many arguments they take, and a bound on the height of the tree, so that whoever walks it may
recurse. What the tree means is left to `compiler.py` and `runtime.py`.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from stepwell.engine.expr.functions import FUNCTIONS
from stepwell.engine.expr.limits import MAX_DEPTH, ExpressionError

_T = TypeVar("_T")


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
    """A function of the table in `functions.py`; of a method, the first argument is the receiver."""

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
MACROS = {"all": (2,), "exists": (2,), "exists_one": (2,), "map": (2, 3), "filter": (2,)}
_WORD_OPERATORS = {"and": "&&", "or": "||", "not": "!", "AND": "&&", "OR": "||", "NOT": "!", "is": "=="}
_CONSTANTS = {"true": True, "false": False, "null": None}


def parse(text: str) -> Node:
    """The tree of a text.

    Raises:
        ExpressionError: It is no expression of the dialect.
    """
    return _Parser(text).whole()


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
        if receiver is not None and name.text in MACROS:
            return self._loop(name, receiver, arguments)
        function = FUNCTIONS.get(name.text)
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
        if len(arguments) not in MACROS[name.text] or not isinstance(arguments[0], Variable):
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
    known = [*FUNCTIONS, *MACROS, "has"]
    close = difflib.get_close_matches(name.text, known, n=1, cutoff=0.5)
    advice = f'did you mean "{close[0]}"?' if close else f"known are {', '.join(sorted(known))}"
    return ExpressionError(f'found the unknown function "{name.text[:40]}"', name.position, advice)
