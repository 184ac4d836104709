"""Texts between the servers of one store, for what is of use now or never.

Nothing of it is stored, and it may get lost. What must not get lost is a transition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Mail(Protocol):
    """The mail of one server.

    Attributes:
        address: Where others can reach this server alone.
        heard: Called with each text that others tell, in the order in which each of them told them.
        back: Called when the connection is made; what was told while there was none is lost.
    """

    address: str
    heard: Callable[[str], None] | None
    back: Callable[[], None] | None

    def tell(self, to: str | None, text: str) -> None:
        """Tell one server, by its address, or all others. The text is ASCII. Returns at once."""
