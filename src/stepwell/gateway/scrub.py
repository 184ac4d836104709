"""Takes credentials out of whatever comes back, as it passes: what a server repeats of a request is stored nowhere.

    answer, piece by piece ──▶ stream().feed ──▶ the same without credentials ──▶ result, trace, streams
                                   └─ holds back the end of a piece that may be the beginning of a credential

A value is found as it stands, as JSON or an address would write it, and within base64. In its place is a marker with
the name of the credential, which tells nothing.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

SHORTEST = 6
"""Shorter values are not looked for: they would take ordinary words out of a text."""
_SHORTEST_IN_BASE64 = 8  # of a shorter one too little is left that does not depend on its neighbours
_EVERYWHERE_ALIKE = re.compile("[A-Za-z0-9_.~-]+")  # letters that nobody writes in another way
_OF_ADDRESSES = str.maketrans("+/", "-_")


def marker(name: str) -> str:
    """What stands in the place of a credential."""
    return f"[credential:{name}]"


class Scrubber:
    """Knows the credentials of one request.

    Args:
        secrets: Name and value of each; values of fewer than `SHORTEST` letters are left alone.
    """

    def __init__(self, secrets: Iterable[tuple[str, str]] = ()) -> None:
        forms: dict[bytes, bytes] = {}
        for name, value in secrets:
            if len(value) >= SHORTEST:
                forms |= {form: name.encode() for form in _forms(value) if form not in forms}
        self._forms = sorted(forms.items(), key=lambda pair: len(pair[0]), reverse=True)
        self._found: set[bytes] = set()

    def __bool__(self) -> bool:
        return bool(self._forms)

    def __repr__(self) -> str:
        return f"Scrubber({len(self._forms)} forms)"

    @property
    def found(self) -> tuple[str, ...]:
        """The names of the credentials that were taken out of something so far."""
        return tuple(sorted(name.decode() for name in self._found))

    def holds(self, text: str) -> bool:
        """Whether there is a credential in a text."""
        encoded = text.encode()
        return any(form in encoded for form, _ in self._forms)

    def clean(self, text: bytes) -> bytes:
        """The text without credentials."""
        for form, name in self._forms:
            if form in text:
                text = text.replace(form, marker(name.decode()).encode())
                self._found.add(name)
        return text

    def clean_text(self, text: str) -> str:
        """The same of a `str`; one that is no UTF-8 stays what it is as far as it can."""
        if not self._forms:
            return text
        return self.clean(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def stream(self) -> Stream:
        """For a text that comes in pieces."""
        return Stream(self, [form for form, _ in self._forms])


class Stream:
    """One text in pieces. What is fed and what comes out is the same in the end, but for the credentials."""

    def __init__(self, scrubber: Scrubber, forms: list[bytes]) -> None:
        self._scrubber = scrubber
        self._forms = forms
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """What of the text is known to be clean by now."""
        if not self._forms:
            return piece
        text = self._scrubber.clean(self._held + piece if self._held else piece)
        begun = end = len(text)
        for form in self._forms:
            at = _begun(text, form)
            if at < begun:
                begun = at
        if begun == end:
            self._held = b""
            return text
        self._held = text[begun:]
        return text[:begun]

    def finish(self) -> bytes:
        """What was held back: the text is over, so it is no credential."""
        held, self._held = self._held, b""
        return held


def _begun(text: bytes, form: bytes) -> int:
    """Where the longest end of the text begins that the form begins with; the end of the text if there is none."""
    two, end = form[:2], len(text)
    at = text.find(two, max(0, end - len(form) + 1))
    while at >= 0:
        if form.startswith(text[at:]):
            return at
        at = text.find(two, at + 1)
    return end - 1 if text.endswith(two[:1]) else end


def _forms(value: str) -> set[bytes]:
    """A value as it may stand in a text."""
    raw = value.encode("utf-8", "surrogateescape")
    plain = {value}
    if not _EVERYWHERE_ALIKE.fullmatch(value):
        plain |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
        plain |= {form.replace("/", "\\/") for form in plain}
        plain |= {json.dumps(form)[1:-1] for form in plain}  # JSON within a text of JSON
        for written in (quote(raw), quote(raw, safe=""), quote_plus(raw)):
            plain |= {written, re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), written)}
    if len(raw) >= _SHORTEST_IN_BASE64:
        for within in _in_base64(raw):
            plain.add(within)
            if not within.isalnum():
                for form in (within, within.translate(_OF_ADDRESSES)):
                    plain |= {form, form.replace("/", "\\/"), quote(form, safe="")}
    return {form.encode("utf-8", "surrogateescape") for form in plain}


def _in_base64(raw: bytes) -> Iterable[str]:
    """The letters that a value always comes to within base64, for each of the three places where it can begin."""
    for before, first in ((0, 0), (1, 2), (2, 3)):
        whole = base64.b64encode(bytes(before) + raw).decode()
        yield whole[first : 8 * (before + len(raw)) // 6]
