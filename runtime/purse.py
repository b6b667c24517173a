"""From the settings to a budget that works: prices, caps, and taking up again what may go on."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from runtime.config.settings import Settings
from runtime.errors import ConfigError
from runtime.models.budget import Budget, Caps
from runtime.models.prices import Price, PriceList
from store.database import Database
from store.deliveries import wake_deliveries
from store.spending import MICROS


def price_list(settings: Settings) -> PriceList:
    """The prices that the settings give."""
    return PriceList(
        {
            model: Price(prompt=price.prompt, completion=price.completion, cached=price.cached)
            for model, price in settings.prices.items()
        }
    )


def caps(settings: Settings, roles: Collection[str]) -> tuple[Caps, Caps]:
    """The caps of a run and of a task.

    Args:
        roles: those that are asked.

    Raises:
        ConfigError: there is a cap on cost, and a role's model has no price.
    """
    budget = settings.budget
    models = {str(getattr(settings.models, role).model) for role in roles}
    unpriced = sorted(models - settings.prices.keys())
    if unpriced and (budget.cost or budget.task_cost):
        raise ConfigError(
            f"budget.cost: no price is known for {', '.join(unpriced)}, so a cap on cost could not hold: "
            f'add [prices."{unpriced[0]}"] with prompt and completion, in {budget.currency} per million tokens'
        )
    return (
        Caps(calls=budget.calls, tokens=budget.tokens, micros=round(budget.cost * MICROS)),
        Caps(calls=budget.task_calls, tokens=budget.task_tokens, micros=round(budget.task_cost * MICROS)),
    )


async def open_budget(settings: Settings, roles: Collection[str], database: Database) -> Budget:
    """The budget of these settings, with what has been bought so far.

    Raises:
        ConfigError: see `caps`.
    """
    of_run, of_task = caps(settings, roles)
    budget = Budget(run=of_run, task=of_task)
    await budget.load(database)
    return budget


async def wake(database: Database, budget: Budget, runs: Collection[int]) -> None:
    """Let what rests in some runs be handed out again where it may go on under the caps as they are now."""
    for run in runs:
        await database.write(partial(wake_deliveries, run=run, but=budget.spent_tasks()))
