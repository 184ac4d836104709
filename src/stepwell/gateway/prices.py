"""What a call of a model costs: the price list of `genai-prices`, as it was installed.

The list is a file of that package and is never fetched, so the same version gives the same cost everywhere, and each
cost names its version. A model that the list does not know has no cost: unknown is not free.

Reading the list takes half a second; `Prices.load` can be called in a thread before it is first needed.
"""

from __future__ import annotations

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


class Prices:
    """The price list."""

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
        found = self._calculated(usage, model, at, provider_api_url=_address(url))
        if found is None and provider:
            found = self._calculated(usage, model, at, provider_id=provider)
        if found is None:
            return None
        return Cost(
            usd=found.total_price,
            input_usd=found.input_price,
            output_usd=found.output_price,
            provider=found.provider.id,
            model=found.model.id,
            version=f"genai-prices {_version()}",
        )

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
