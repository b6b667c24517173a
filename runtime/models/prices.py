"""What a reply costs, in millionths of the currency of the prices.

A price is money per million tokens, so tokens times price are millionths. A cost that is not known is None, never 0:
there is no price for the model, or the endpoint did not say how many tokens it counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.models.chat import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Of one model, in money per million tokens; `cached` is for prompt tokens from the endpoint's cache."""

    prompt: float
    completion: float
    cached: float

    def cost(self, usage: Usage) -> int | None:
        """Millionths of the currency, rounded once; None where the endpoint did not report its tokens."""
        if not usage.prompt:  # no prompt is empty
            return None
        cached = min(usage.cached, usage.prompt)
        return round(
            (usage.prompt - cached) * self.prompt + cached * self.cached + usage.completion * self.completion
        )


@dataclass(frozen=True, slots=True)
class PriceList:
    """The known prices, by model name as it is sent with requests."""

    prices: Mapping[str, Price] = field(default_factory=lambda: MappingProxyType({}))

    def cost(self, model: str, usage: Usage) -> int | None:
        """What a reply of a model cost, None if that is not known."""
        price = self.prices.get(model)
        return None if price is None else price.cost(usage)
