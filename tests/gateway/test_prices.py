"""What a call costs: by the list, streamed or not, and never a guess."""

import socket
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from genai_prices.data_snapshot import get_snapshot

from stepwell.gateway.prices import Prices, _address
from stepwell.testing.provider import say
from stepwell.wire.models.dialect import Usage
from tests.wire.models.cases import FORMATS, URLS, USED, read_plain, read_stream, written

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
LOCAL = "http://127.0.0.1:8000/v1/chat/completions"
PRICES = Prices()


def usd(provider: str, url: str, model: str, usage: Usage | None) -> Decimal | None:
    cost = PRICES.cost(provider, url, model, usage, at=AT)
    return None if cost is None else cost.usd


@pytest.mark.parametrize("format", FORMATS)
def test_a_streamed_answer_costs_what_the_plain_one_costs(format: str) -> None:
    answer = written(format, say("Hello there", reasoning="Hm.", usage=USED))
    plain = read_plain(answer.dialect, answer.plain).answer
    streamed = read_stream(answer.dialect, [answer.stream])[1].answer
    cost = PRICES.cost(answer.dialect.provider, URLS[format], plain.model, plain.usage, at=AT)

    assert plain.usage == streamed.usage == USED
    assert cost is not None
    assert cost.usd > 0
    assert cost.usd == cost.input_usd + cost.output_usd
    assert cost.version.startswith("genai-prices ")
    assert cost == PRICES.cost(answer.dialect.provider, URLS[format], streamed.model, streamed.usage, at=AT)
    assert cost.usd == usd(answer.dialect.provider, LOCAL, plain.model, plain.usage)  # through a proxy


def test_the_address_decides_whose_price_it_is_and_the_dialect_where_it_cannot() -> None:
    usage = Usage(input_tokens=1_000_000)
    groq = PRICES.cost("openai", "https://api.groq.com/openai/v1/x", "llama-3.3-70b-versatile", usage, at=AT)
    local = PRICES.cost("openai", LOCAL, "gpt-4o-2024-08-06", usage, at=AT)
    assert groq is not None
    assert groq.provider == "groq"
    assert local is not None
    assert (local.provider, local.model) == ("openai", "gpt-4o")


@pytest.mark.parametrize(
    ("provider", "model", "usage"),
    [
        ("openai", "my-own-model", Usage(input_tokens=5)),
        ("openai", "", Usage(input_tokens=5)),
        ("", "gpt-4o", Usage(input_tokens=5)),
        ("nobody", "gpt-4o", Usage(input_tokens=5)),
        ("openai", "gpt-4o", None),
        ("openai", "gpt-4o", Usage(input_tokens=5, cached_read_tokens=50)),  # contradicts itself
    ],
)
def test_what_is_unknown_has_no_cost_and_not_a_cost_of_zero(provider: str, model: str, usage: Usage | None) -> None:
    assert PRICES.cost(provider, LOCAL, model, usage, at=AT) is None


def test_cached_tokens_are_cheaper_and_long_kept_ones_dearer() -> None:
    def cost(**told: int) -> Decimal:
        found = usd("anthropic", URLS["anthropic"], "claude-sonnet-4-5", Usage(input_tokens=1000, **told))
        assert found is not None
        return found

    assert cost(cached_read_tokens=1000) < cost() < cost(cached_write_tokens=1000)
    assert cost(cached_write_tokens=1000) < cost(cached_write_tokens=1000, cached_write_long_tokens=1000)


def test_the_list_is_never_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("the price list went to the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    PRICES.load()
    assert usd("openai", LOCAL, "gpt-4o", Usage(input_tokens=1)) is not None


def test_a_key_in_the_address_is_not_looked_at() -> None:
    keyed = URLS["gemini"].replace("https://", "https://user:pass@") + "?key=secret"
    assert usd("google", keyed, "gemini-2.5-flash", USED) == usd("google", URLS["gemini"], "gemini-2.5-flash", USED)


def test_rates_that_were_kept_give_what_the_list_gives_to_the_last_digit() -> None:
    providers = get_snapshot().providers
    models = [(provider.id, model.id) for provider in providers for model in provider.models]
    prices, kept = Prices(), 0
    for number, (provider, model) in enumerate(models):
        usages = [
            Usage(input_tokens=10 + number, output_tokens=7, reasoning_tokens=number % 7),
            Usage(input_tokens=1 + 97 * number, output_tokens=3 + number, reasoning_tokens=number % 2),
            Usage(input_tokens=1 + 97 * number, output_tokens=3 + number, cached_read_tokens=number % 50),
            Usage(input_tokens=400_000, output_tokens=3 + number),
        ]
        costs = [prices.cost(provider, LOCAL, model, usage, at=AT) for usage in usages]
        fresh = [Prices().cost(provider, LOCAL, model, usage, at=AT) for usage in usages]
        assert costs == fresh
        assert [str(cost and cost.usd) for cost in costs] == [str(cost and cost.usd) for cost in fresh]
        kept += (provider, _address(LOCAL), model) in prices._rates
    assert kept > len(models) // 2


def test_rates_are_kept_for_the_minute_for_which_they_hold() -> None:
    prices, usage = Prices(), Usage(input_tokens=1_000_000, output_tokens=1_000_000)

    def cost(hour: int, minute: int) -> str:
        at = datetime(2025, 6, 1, hour, minute, tzinfo=UTC)  # by night it cost less then
        return str(prices.cost("deepseek", LOCAL, "deepseek-chat", usage, at=at))

    assert cost(16, 29) == cost(16, 28) == cost(12, 0)
    assert cost(16, 30) == cost(17, 0) != cost(16, 29)
