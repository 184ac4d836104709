"""A compiled expression, and everything that can be asked of it.

Compiled once for a text and kept, since the same few conditions meet every event. A program has no state and reads
no clock, so one object serves every thread.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stepwell.engine.expr.compiler import Generator
from stepwell.engine.expr.index import Indexable, indexable, key_of, walk
from stepwell.engine.expr.language import Literal, Logic, Node, parse
from stepwell.engine.expr.limits import MAX_TEXT_LENGTH, EvaluationError, ExpressionError
from stepwell.engine.expr.mismatch import Condition, Mismatch, MismatchKind
from stepwell.engine.expr.runtime import kind_of


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
    tree = parse(text)
    generator = Generator()
    run = generator.function(tree)
    conjuncts = tree.parts if isinstance(tree, Logic) and tree.operator == "&&" else (tree,)
    return Program(
        text=text,
        uses_calls=generator.uses_calls,
        variables=frozenset(generator.variables),
        _run=run,
        _conjuncts=conjuncts,
        _indexable=tuple(pair for conjunct in conjuncts for pair in indexable(conjunct)),
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
    _indexable: tuple[Indexable, ...]

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
        raise EvaluationError(f"the expression gave {kind_of(result)} where true or false is needed; {advice}")

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
            key = key_of(value.value if isinstance(value, Literal) else walk(event, value))
            if key is not None:
                return ".".join(path), key
        return None

    def explain(self, variables: Mapping[str, object], now: int = 0) -> str | None:
        """Why these variables do not match, for a person; `None` if they do.

        Names the first top-level condition that fails and the types found, never the values. Compiles that
        condition once more, the first time it is asked about: a fraction of a millisecond.
        """
        try:
            if self.matches(variables, now):
                return None
        except EvaluationError as err:
            return str(err)
        place, condition = self._first_false(variables, now)
        return f"{place} is false{condition.operands(variables, now)}"

    def mismatch(self, variables: Mapping[str, object], now: int = 0) -> Mismatch | None:
        """Why these variables do not match, where that looks like a mistake; `None` if they do, or are just different.

        It costs two to three evaluations, and a fraction of a millisecond the first time.
        """
        try:
            if self.matches(variables, now):
                return None
        except EvaluationError as err:
            return Mismatch(MismatchKind.FAILED, str(err))
        place, condition = self._first_false(variables, now)
        if (found := condition.mistake(variables, now)) is None:
            return None
        kind, detail = found
        return Mismatch(kind, f"{place} is false{detail}")

    def _first_false(self, variables: Mapping[str, object], now: int) -> tuple[str, Condition]:
        conditions = _conditions(self)
        for number, condition in enumerate(conditions, start=1):
            if not condition.is_true(variables, now):
                return f"condition {number} of {len(conditions)}" if len(conditions) > 1 else "the condition", condition
        raise AssertionError("a conjunction is false though every part of it is true")


@functools.lru_cache(maxsize=1024)
def _conditions(program: Program) -> tuple[Condition, ...]:
    return tuple(Condition(conjunct) for conjunct in program._conjuncts)


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

    def mismatch(self, candidate: Mapping[str, object], now: int = 0) -> Mismatch | None:
        """`Program.mismatch` with the candidate as `async`."""
        return self.program.mismatch({"event": self.event, "async": candidate}, now)

    def equality(self) -> tuple[str, str] | None:
        """`Program.equality` for the fixed event."""
        return self.program.equality(self.event)
