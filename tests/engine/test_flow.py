"""Keys, numbers and rates: what runs share, by the event that starts them."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.engine.flow import holds_of, limits_of, next_turn, priority_of, rate_key, slots_of
from stepwell.model.function import Concurrency, Function, Rate

MINUTE = 60_000


def function(*limits: Concurrency, slug: str = "f", env: str = "e", **fields: Any) -> Function:
    return Function(slug=slug, name=slug, service="s", triggers=(), env=env, concurrency=limits, **fields)


def keys(one: Function, **data: Any) -> list[str]:
    return [limit.key for limit in limits_of(one, {"data": data}, 0)]


def test_a_key_counts_by_its_value_and_not_by_how_an_event_spells_it() -> None:
    one = function(Concurrency(1, "event.data.user"))
    assert keys(one, user="x") == keys(one, user="x", more=1)
    assert len({*keys(one, user="x"), *keys(one, user="y"), *keys(one, user=None), *keys(one, user=1)}) == 4
    assert keys(one, user="1") != keys(one, user=1)


def test_a_key_that_cannot_be_evaluated_is_one_of_its_own() -> None:
    one = function(Concurrency(1, "1 / event.data.zero"))
    assert keys(one, zero=0) == keys(one, zero=0) != keys(one, zero=1)


@pytest.mark.parametrize(
    ("scope", "functions", "environments"), [("fn", False, False), ("env", True, False), ("account", True, True)]
)
def test_the_scope_says_who_shares_a_key(scope: str, functions: bool, environments: bool) -> None:
    limit = Concurrency(1, "event.data.user", scope)
    here = keys(function(limit), user="x")
    assert (keys(function(limit, slug="g"), user="x") == here) is functions
    assert (keys(function(limit, env="other"), user="x") == here) is environments


def test_slots_of_few_are_taken_before_slots_of_many() -> None:
    one = function(
        Concurrency(1, "event.data.a", "account"),
        Concurrency(1, "event.data.a", "env"),
        Concurrency(1),
        Concurrency(1, "event.data.a"),
    )
    account, env, whole, keyed = keys(one, a=1)
    assert sorted([account, env, whole, keyed]) == [keyed, whole, env, account]


def test_the_number_is_the_one_that_the_function_has_now() -> None:
    limits = limits_of(function(Concurrency(1), Concurrency(2, "event.data.a")), {"data": {}}, 0)
    now = function(Concurrency(9, "event.data.a"), Concurrency(4, "event.data.b"))
    assert [(slot.key, slot.limit) for slot in slots_of(limits, now.concurrency)] == [(limits[1].key, 9)]
    assert slots_of(limits, ()) == ()


def test_whole_runs_and_steps_are_counted_apart() -> None:
    one = function(Concurrency(1), run_concurrency=(Concurrency(1),))
    assert holds_of(one, {}, 0)[0].key != limits_of(one, {}, 0)[0].key


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(5, 5), (-5, -5), (2.0, 2), (2.5, 0), ("5", 0), (True, 0), (None, 0), (10**9, 43_200), (-(10**9), -43_200)],
)
def test_a_priority_is_a_whole_number_of_seconds(value: object, seconds: int) -> None:
    assert priority_of(function(priority="event.data.p"), {"data": {"p": value}}, 0) == seconds


def test_without_a_priority_or_with_a_broken_one_it_is_0() -> None:
    assert priority_of(function(), {}, 0) == 0
    assert priority_of(function(priority="1 / 0"), {}, 0) == 0


def starts(rate: Rate, *asked: int) -> list[int]:
    """When events that came at these milliseconds may start."""
    state, found = None, []
    for now in asked:
        turn = next_turn(rate, "k", state, now)
        found.append(turn.start_at)
        state = turn.state
    return found


def test_starts_are_evenly_spread() -> None:
    assert starts(Rate(1, MINUTE), 0, 0, 0) == [0, MINUTE, 2 * MINUTE]
    assert starts(Rate(4, MINUTE), 0, 0, 0) == [0, 15_000, 30_000]


def test_a_burst_is_how_many_more_may_start_at_once() -> None:
    assert starts(Rate(1, MINUTE, 1), 0, 0, 0, 0) == [0, 0, MINUTE, 2 * MINUTE]
    assert starts(Rate(10, 60 * MINUTE, 1), *[0] * 4) == [0, 0, 6 * MINUTE, 12 * MINUTE]


def test_a_time_without_events_is_not_saved_up_beyond_the_burst() -> None:
    assert starts(Rate(1, MINUTE), 0, 10 * MINUTE, 10 * MINUTE) == [0, 10 * MINUTE, 11 * MINUTE]


def test_a_state_may_be_forgotten_once_it_says_nothing() -> None:
    turn = next_turn(Rate(3, 10_000), "k", None, 0)
    assert (turn.state, turn.until) == ("3333333", 3334)
    again = next_turn(Rate(3, 10_000), "k", turn.state, turn.until)
    assert again == next_turn(Rate(3, 10_000), "k", None, turn.until)


def test_a_key_that_is_false_means_no_limit() -> None:
    rate = Rate(1, MINUTE, key="event.data.paying")
    assert rate_key(function(), "rate", rate, {"data": {"paying": False}}, 0) is None
    assert rate_key(function(), "rate", rate, {"data": {"paying": True}}, 0) is not None
    assert rate_key(function(), "rate", Rate(1, MINUTE), {}, 0) is not None
