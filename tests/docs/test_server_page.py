"""The page on the server has every route that it answers, and the ports that it looks at."""

from __future__ import annotations

import re

from stepwell.api.app import table
from stepwell.api.infsh.answers import ERRORS
from stepwell.api.inngest import later
from stepwell.api.inngest.sync import PORTS
from tests.docs import running
from tests.docs.pages import DOCS

TEXT = (DOCS / "server.md").read_text(encoding="utf-8")


def test_it_has_every_route_and_no_other() -> None:
    with running.running_server(poll=False) as server:
        ours = [route for route in table(server.site) if route.errors is not ERRORS]  # which are of another page
    there = {(route.method, route.path.replace(":path", "")) for route in ours}
    there -= {(method, path.replace(":path", "")) for method, path, _ in later._NOT_YET}
    there = {("POST", "/e/{key}") if route == ("POST", "/e") else route for route in there}
    written = set(re.findall(r"`(GET|POST|DELETE) (/[^`?]*)`", TEXT[TEXT.index("## HTTP API") :]))
    assert written == there


def test_it_names_what_is_not_served_yet() -> None:
    listed = TEXT[TEXT.index("not served yet answer 501") :].partition("\n\n")[0].lower()
    for _, _, what in later._NOT_YET:
        if not what.startswith(("a step", "a state", "traces")):  # of one function; of no use to people
            assert what.lower() in " ".join(listed.split()), what


def test_it_has_the_ports_that_are_looked_at() -> None:
    shown = re.search(r"<!-- ports -->\n```text\n(.*)\n```", TEXT)
    assert shown is not None
    ports: list[int] = []
    for piece in shown[1].split(", "):
        first, _, last = piece.partition("-")
        ports += range(int(first), int(last or first) + 1)
    assert tuple(ports) == PORTS
