"""The page for those who come from inference.sh names every route of that surface, and what each does here."""

from __future__ import annotations

import re

from stepwell.api.infsh import absent, surface
from stepwell.api.routes import Route
from tests.docs.pages import DOCS

TEXT = (DOCS / "coming-from-inference-sh.md").read_text(encoding="utf-8")
_METHODS = "GET|POST|PUT|PATCH|DELETE"


def shown() -> dict[tuple[str, str], str]:
    """What the page says of each method and path."""
    found: dict[tuple[str, str], str] = {}
    table = TEXT[TEXT.index("| endpoint |") :].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        _, endpoints, said, _ = re.split(r"(?<!\\)\|", line)[:4]
        for method, path in re.findall(rf"`({_METHODS}) (/\S+)`", endpoints):
            assert (method, path) not in found, f"{method} {path} is there twice"
            found[method, path] = said.split(":")[0].strip()
    return found


def is_refused(route: Route) -> bool:
    return route.handler.__name__ == "refuse"


def test_every_route_is_on_the_page_and_offered_if_the_page_says_so() -> None:
    of_areas = {(route.method, route.path) for route in absent.routes()}
    routes = {
        (route.method, route.path): "not offered" if is_refused(route) else "offered"
        for route in surface.routes()
        if not route.path.startswith("/v1/") and (route.method, route.path) not in of_areas
    }
    said = {key: "offered" if what == "differs" else what for key, what in shown().items()}
    assert said == routes


def test_what_is_not_offered_at_all_is_named() -> None:
    sentence = TEXT[TEXT.index("<!-- areas -->") :].partition("\n\n")[0]
    named = set(re.findall(r"`/([a-z-]+)`", sentence))
    assert named == {area for area, what in absent._AREAS.items() if what != absent._THAT}
