"""What a run has bought, for people: by role, by stage and for each pair. What is not known is said, and is not 0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from store.spending import Sum, add_up, by_role, by_stage
from store.summary import Summary


def spending_rows(summary: Summary, currency: str) -> Iterator[tuple[str, str]]:
    """Rows of the report, a name and a text each; `currency` is a label, which may be empty."""
    spending = summary.spending
    roles, stages, in_all = by_role(spending), by_stage(spending), add_up(spending)
    yield "model calls", _each(f"{in_all.calls:,}", {role: f"{one.calls:,}" for role, one in roles.items()})
    yield "tokens", _each(f"{in_all.tokens:,}", {role: f"{one.tokens:,}" for role, one in roles.items()})
    if spending:
        yield "cost", _cost(summary, currency)
        for stage, one in stages.items():
            yield f"  {stage}", _sum(one, currency)
    if summary.pairs and spending:
        tokens = {role: f"{one.per(summary.pairs).tokens:,.0f}" for role, one in roles.items()}
        yield "per pair", _each(_sum(in_all.per(summary.pairs), currency), tokens)


def money(amount: float, currency: str) -> str:
    """An amount with as many decimals as it takes to see it."""
    digits = 2 if amount >= 10 or amount == 0 else 4
    return f"{amount:,.{digits}f} {currency}".rstrip()


def _cost(summary: Summary, currency: str) -> str:
    spent = add_up(summary.spending)
    unknown = _unknown(summary)
    if spent.cost is None:
        return f"unknown: {unknown}"
    roles = {role: money(one.cost, "") for role, one in by_role(summary.spending).items() if one.cost is not None}
    text = _each(money(spent.cost, currency), roles)
    calls = sum(one.unpriced for one in summary.spending)
    return f"{text}, and {calls:,} calls of unknown cost: {unknown}" if calls else text


def _unknown(summary: Summary) -> str:
    """Why the cost of some calls is not known, and what to do."""
    roles = sorted({one.role for one in summary.spending if one.unpriced > one.unmetered})
    models = dict.fromkeys(summary.models.get(role, role) for role in roles)
    reasons = [f"[prices] has none for {', '.join(models)}"] if models else []
    unmetered = sum(one.unmetered for one in summary.spending)
    if unmetered:
        reasons.append(f"{unmetered:,} replies came without token counts")
    return "; ".join(reasons)


def _each(total: str, parts: Mapping[str, str]) -> str:
    return f"{total} ({', '.join(f'{name} {part}' for name, part in parts.items())})" if parts else total


def _sum(one: Sum, currency: str) -> str:
    calls = f"{one.calls:,.0f}" if one.calls >= 10 or one.calls == int(one.calls) else f"{one.calls:,.1f}"
    text = f"{calls} calls, {one.tokens:,.0f} tokens"
    return text if one.cost is None else f"{text}, {money(one.cost, currency)}"
