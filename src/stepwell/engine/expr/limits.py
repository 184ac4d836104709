"""What an expression may cost, and the two ways in which it is refused.

The limits on the text hold when compiling: a text beyond them is no expression. Those on the work hold when
evaluating. They are counts, never times, so an expression is refused on every machine or on none.
"""

from __future__ import annotations

MAX_TEXT_LENGTH = 4096  # characters of an expression
MAX_DEPTH = 50  # levels of nesting, in the text and in the tree
MAX_LOOPS = 8  # macros inside macros; CPython itself stops at twenty nested blocks
MAX_COST = 250_000  # about one unit per generated statement or 50 to 100 ns of other work
MAX_RESULT_LENGTH = 100_000  # characters of a text, or items of a list, that an expression builds
MAX_PATTERN_LENGTH = 1000  # characters of a regular expression
PATTERN_MEMORY = 256 * 1024  # bytes RE2 may use for one; caps its compile time near 1 ms


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
