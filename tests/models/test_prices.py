"""What a reply costs."""

from __future__ import annotations

from runtime.models.chat import Usage
from runtime.models.prices import Price, PriceList

PRICE = Price(prompt=2.0, completion=8.0, cached=0.5)


def test_a_million_tokens_of_each_sort_cost_what_the_price_says() -> None:
    assert PRICE.cost(Usage(prompt=1_000_000, completion=0)) == 2_000_000
    assert PRICE.cost(Usage(prompt=1_000_000, completion=0, cached=1_000_000)) == 500_000
    assert PRICE.cost(Usage(prompt=1, completion=1_000_000)) == 8_000_002


def test_cached_tokens_are_part_of_the_prompt_even_where_an_endpoint_reports_more_of_them() -> None:
    assert PRICE.cost(Usage(prompt=10, completion=0, cached=4)) == 14
    assert PRICE.cost(Usage(prompt=10, completion=0, cached=40)) == 5


def test_fractions_are_rounded_once_for_a_call() -> None:
    cheap = Price(prompt=0.15, completion=0.6, cached=0.075)
    assert cheap.cost(Usage(prompt=3, completion=1, cached=1)) == 1


def test_what_is_not_known_is_not_zero() -> None:
    assert PRICE.cost(Usage(prompt=0, completion=0)) is None
    assert PriceList({"m": PRICE}).cost("other", Usage(prompt=1, completion=1)) is None
    assert PriceList({"m": PRICE}).cost("m", Usage(prompt=1, completion=1)) == 10
    free = PriceList({"free": Price(prompt=0, completion=0, cached=0)})
    assert free.cost("free", Usage(prompt=9, completion=1)) == 0
