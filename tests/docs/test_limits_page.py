"""The page on limits is what the code says."""

import dataclasses
from pathlib import Path

from stepwell.api.body import Limits
from stepwell.engine.decide import Policy
from tests.docs import limits


def test_every_default_on_the_page_is_that_of_the_code() -> None:
    assert limits.PAGE.read_text(encoding="utf-8") == limits.written(), "run: python -m tests.docs.limits"


def test_no_limit_of_requests_is_left_out() -> None:
    page = limits.written()
    assert [one.name for one in dataclasses.fields(Limits) if f"limits.{one.name}" not in page] == []


def test_no_limit_of_runs_is_left_out() -> None:
    source = Path(limits.__file__).read_text(encoding="utf-8")
    assert [one.name for one in dataclasses.fields(Policy) if one.name not in source] == []
