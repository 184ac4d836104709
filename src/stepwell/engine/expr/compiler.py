"""From a tree to one Python function, so that evaluating costs about as much as the same condition by hand.

    event.data.n > 1        try:
                             t1 = variables['event']['data']['n']
                            except MISSES:
                             t1 = MISSING
                            t2 = t1 > 1 if t1.__class__ is int or ... else order(meter, '>', t1, 1)
                            return t2

Users write the texts, so the code is fenced: it holds nothing of the text but literals and field names that went
through the lexer and `repr`, every variable is a number we chose, and it can reach only the names in `_RUNTIME`.
It is straight-line statements over temporaries: nothing is evaluated twice, `&&` and `||` stop early, and deep
text cannot exhaust Python's parser.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from stepwell.engine.expr.functions import FUNCTIONS, compiled_pattern, search
from stepwell.engine.expr.language import (
    Binary,
    Call,
    Conditional,
    Field,
    Has,
    Index,
    ListLiteral,
    Literal,
    Logic,
    Loop,
    MapLiteral,
    Node,
    Unary,
    Variable,
)
from stepwell.engine.expr.limits import MAX_COST, MAX_LOOPS, EvaluationError, ExpressionError
from stepwell.engine.expr.runtime import MISSES, MISSING, OPERATORS, ORDER, TYPES


class _Atom(NamedTuple):
    """What a subexpression became: the name of a temporary, or a literal."""

    code: str
    is_boolean: bool = False
    literal: Literal | None = None


def _literal_pattern(text: str, position: int) -> Any:
    try:
        return compiled_pattern(text)
    except EvaluationError as err:
        raise ExpressionError("found a bad regular expression", position, str(err)) from err


class Generator:
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
        elif isinstance(node, Variable) and node.name in TYPES:
            root = self._constant(TYPES[node.name])
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
        if symbol in ORDER:
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
        function = FUNCTIONS[node.name]
        arguments = [self._emit(argument) for argument in node.arguments]
        name, codes = f"{node.name}_", [argument.code for argument in arguments]
        if node.name == "matches" and (pattern := arguments[1].literal) and isinstance(pattern.value, str):
            name, codes[1] = "search", self._constant(_literal_pattern(pattern.value, pattern.position))
        call = f"{name}({', '.join(['meter', 'now', *codes])})"
        if function.takes_null:
            return self._assign(call)
        if any(atom.code == "None" for atom in arguments):
            return _Atom("False", is_boolean=True, literal=Literal(node.position, 1, False))
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


# All that generated code can reach: no builtins, nothing with a door to the outside.
_RUNTIME: dict[str, object] = {
    "__builtins__": {},
    "MISSES": MISSES,
    "MISSING": MISSING,
    "int": int,
    "float": float,
    "str": str,
    **OPERATORS,
    "search": search,
    **{f"{name}_": function.run for name, function in FUNCTIONS.items()},
}
