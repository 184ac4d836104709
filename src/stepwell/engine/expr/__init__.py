"""Expressions of triggers, waits, cancellations and keys: text in, one Python function out.

    text --lexer--> tokens --Pratt parser--> frozen tree --generator--> one function --> value
    `--------------- language.py ---------------------'   compiler.py   runtime.py, functions.py

The language is the Inngest dialect of CEL. It forgives what CEL refuses, because events are plain JSON
that nobody declared: a missing attribute is null, unlike types are unequal, numbers compare by value,
text concatenates, `&&`, `||` and `?:` go by truthiness and return an operand as in JavaScript.

    null in ...          gives
    null == null         true; null equals nothing else, so `x != null` asks whether x is there
    null < 5, null > -1  compared as the zero of the other side's type
    missing < x, > x     true, false: what is not there sorts below everything
    null + x, x + null   x; the other arithmetic takes null as zero
    size(null)           0; any other function of null is false

Users write these texts, so a program is fenced rather than trusted: `compiler.py` says how. Text and nesting
are limited when compiling; when running, loops and everything that grows with the data draw on one budget,
counted and not timed, sized so that it ends well within 50 ms (`limits.py`). Regular expressions run in RE2,
in linear time.

Two things are deliberately simpler than CEL: an error on the left of `||` is not rescued by a true on the
right, and timestamps are exact to a microsecond.

No clock is read: `now` is an argument. Start in `program.py`. Elsewhere: which events are offered to which
expression, and the index kept over `Program.equality` (`stepwell.engine.match`, `index.py`); duration and date
texts (`stepwell.model.duration`).
"""

from stepwell.engine.expr.index import equality_key, lookalike_keys
from stepwell.engine.expr.limits import (
    MAX_COST,
    MAX_DEPTH,
    MAX_LOOPS,
    MAX_PATTERN_LENGTH,
    MAX_RESULT_LENGTH,
    MAX_TEXT_LENGTH,
    EvaluationError,
    ExpressionError,
)
from stepwell.engine.expr.mismatch import Mismatch, MismatchKind
from stepwell.engine.expr.program import BoundProgram, Program, compile

__all__ = [
    "BoundProgram",
    "EvaluationError",
    "ExpressionError",
    "MAX_COST",
    "MAX_DEPTH",
    "MAX_LOOPS",
    "MAX_PATTERN_LENGTH",
    "MAX_RESULT_LENGTH",
    "MAX_TEXT_LENGTH",
    "Mismatch",
    "MismatchKind",
    "Program",
    "compile",
    "equality_key",
    "lookalike_keys",
]
