"""What a call of a model costs: the price list of `genai-prices`, as it was installed.

The list is a file of that package and is never fetched, so the same version gives the same cost everywhere, and each
cost names its version. A model that the list does not know has no cost: unknown is not free.

Reading the list takes half a second; `Prices.load` can be called in a thread before it is first needed. The rates of a
model for plain text are kept for the minute: to look them up costs as much as to read a short answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from stepwell.wire.models.dialect import Usage


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one call in US dollars, exact.

    Attributes:
        provider, model: Whose price was taken, in the list's words.
        version: Of the list, `genai-prices 0.2.3`.
    """

    usd: Decimal
    input_usd: Decimal
    output_usd: Decimal
    provider: str
    model: str
    version: str


_PER = 1_000_000  # tokens
_PER_SEARCH = {"web_searches_kcount": 1000, "storage_searches_kcount": 1000}
_MOST_RATES = 1000
_LONGEST_NAME = 1000  # of an address and a model, for their rates to be kept


@dataclass(frozen=True, slots=True)
class _Rates:
    """What a model costs in one minute, per million tokens, for calls of which nothing has a price of its own.

    They hold for `up_to` tokens of input, if that is not None. `rest` is what all else costs of which such a call has
    nothing: zero, with as many digits as the list gives it.
    """

    minute: datetime
    found: Cost
    input: Decimal
    output: Decimal
    rest: Decimal
    up_to: int | None

    def cost(self, usage: Usage, minute: datetime) -> Cost | None:
        if minute != self.minute or (self.up_to is not None and usage.input_tokens > self.up_to):
            return None
        asked, told = self.input * usage.input_tokens / _PER, self.output * usage.output_tokens / _PER
        found = self.found
        return Cost(asked + told + self.rest, asked, told, found.provider, found.model, found.version)


class Prices:
    """The price list."""

    def __init__(self) -> None:
        self._rates: dict[tuple[str, str, str], _Rates] = {}

    def load(self) -> None:
        """Read the list and index it: half a second the first time, nothing later."""
        _indexed()

    def cost(self, provider: str, url: str, model: str, usage: Usage | None, *, at: datetime) -> Cost | None:
        """What a call cost.

        Args:
            provider: Of the dialect; used when the address is not one that the list knows, a proxy's say.
            url: Where the call went. Only its scheme, host and path are looked at.
            model: As the answer names it.
            usage: None if the provider told none.
            at: When the call was made, for prices that change with the date or the hour. Has a time zone.

        Returns:
            None if the model, or what it used, is unknown.
        """
        if usage is None or not model:
            return None
        address = _address(url)
        minute = at.replace(second=0, microsecond=0)
        plain = _is_plain(usage) and len(model) + len(address) <= _LONGEST_NAME
        rates = self._rates.get((provider, address, model)) if plain else None
        if rates is not None and (known := rates.cost(usage, minute)) is not None:
            return known
        found = self._calculated(usage, model, at, provider_api_url=address)
        if found is None and provider:
            found = self._calculated(usage, model, at, provider_id=provider)
        if found is None:
            return None
        cost = Cost(
            usd=found.total_price,
            input_usd=found.input_price,
            output_usd=found.output_price,
            provider=found.provider.id,
            model=found.model.id,
            version=f"genai-prices {_version()}",
        )
        if plain and (rates := _rates(minute, cost, vars(found.model_price))) is not None:
            if len(self._rates) >= _MOST_RATES:
                self._rates.clear()
            self._rates[provider, address, model] = rates
        return cost

    def _calculated(self, usage: Usage, model: str, at: datetime, **whose: str) -> Any:
        import genai_prices

        told = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cache_read_tokens": usage.cached_read_tokens,
            "cache_write_tokens": usage.cached_write_tokens,
            "cache_write_1h_tokens": usage.cached_write_long_tokens,
            "output_reasoning_tokens": usage.reasoning_tokens,
            "input_audio_tokens": usage.input_audio_tokens,
            "output_audio_tokens": usage.output_audio_tokens,
            "web_searches": usage.web_searches,
        }
        counted = genai_prices.Usage(**{name: count for name, count in told.items() if count})
        try:
            return genai_prices.calc_price(counted, model, genai_request_timestamp=at, **whose)  # type: ignore[call-overload]
        except (LookupError, ValueError):  # not in the list, or counts that contradict one another
            return None


def _is_plain(usage: Usage) -> bool:
    """Whether a call was text for text and nothing else. Reasoning is a part of the output."""
    return (
        usage.input_tokens > 0
        and usage.output_tokens > 0
        and 0 <= usage.reasoning_tokens <= usage.output_tokens
        and not usage.cached_read_tokens
        and not usage.cached_write_tokens
        and not usage.cached_write_long_tokens
        and not usage.input_audio_tokens
        and not usage.output_audio_tokens
        and not usage.web_searches
    )


def _rates(minute: datetime, found: Cost, prices: Mapping[str, object]) -> _Rates | None:
    """What can be reckoned with by itself. None where reasoning has a price of its own, or the call itself has one."""
    from genai_prices.types import TieredPrices

    given = {name: price for name, price in prices.items() if price is not None}
    if "output_reasoning_mtok" in given or not given.keys() >= {"input_mtok", "output_mtok"}:
        return None
    bounds: list[int] = []
    known: dict[str, Decimal] = {}
    for name, price in given.items():
        per = _PER if name.endswith("_mtok") else _PER_SEARCH.get(name)
        if isinstance(price, TieredPrices):
            bounds += [tier.start for tier in price.tiers]
            price = price.base
        if per is None or not isinstance(price, Decimal):
            return None
        known[name] = price if name in ("input_mtok", "output_mtok") else price * 0 / per
    asked, told = known.pop("input_mtok"), known.pop("output_mtok")
    return _Rates(minute, found, asked, told, sum(known.values(), Decimal(0)), min(bounds, default=None))


@cache
def _indexed() -> None:
    import genai_prices

    genai_prices.calc_price(genai_prices.Usage(input_tokens=1), "gpt-4o", provider_id="openai")


@cache
def _version() -> str:
    return version("genai-prices")


def _address(url: str) -> str:
    """The URL without what may be secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
