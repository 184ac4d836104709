"""The page on Inngest's SDKs names what is refused, and the versions that the tests run."""

from __future__ import annotations

import json
import re

from stepwell.wire.inngest import ops
from stepwell.wire.inngest.register import _DENIED_JS, unsupported_options
from tests.docs.pages import DOCS, ROOT

TEXT = (DOCS / "inngest-sdks.md").read_text(encoding="utf-8")
FUNCTIONS = (DOCS / "functions.md").read_text(encoding="utf-8")


def after(mark: str) -> set[str]:
    """The words in code in the first sentence after a comment."""
    return set(re.findall(r"`([A-Za-z]+)`", TEXT[TEXT.index(mark) :].partition(".\n")[0].partition(". ")[0]))


def test_it_names_the_options_that_are_refused() -> None:
    assert after("<!-- refused options -->") == set(unsupported_options())


def test_it_names_the_ops_that_are_refused() -> None:
    assert after("<!-- refused ops -->") == set(ops._LATER.values())


def test_the_options_of_our_own_sdk_that_are_refused_are_named_too() -> None:
    table = FUNCTIONS[FUNCTIONS.index("| refused option |") :].partition("\n\n")[0]
    ours = {"batch": "batchEvents", "rate_limit": "rateLimit"}
    found = {
        ours.get(name, name) for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert found == set(unsupported_options())


def test_it_names_the_versions_that_the_tests_run() -> None:
    package = json.loads((ROOT / "tests/official/typescript/package.json").read_text(encoding="utf-8"))
    locked = re.search(r"^inngest==(\S+)", (ROOT / "requirements/dev.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert locked is not None
    assert package["dependencies"]["inngest"] in TEXT
    assert locked[1] in TEXT


def test_it_names_the_releases_that_are_refused() -> None:
    first, last = (".".join(map(str, version)) for version in _DENIED_JS)
    assert f"{first} to {last}" in TEXT
