"""The `[prices]` and `[budget]` sections: what models cost, and how much may be bought.

Neither is part of a run's identity: a run goes on under another budget, and a price counts from when it was set.
"""

from typing import Self

from pydantic import model_validator

from runtime.config.fields import free
from runtime.config.section import Section, conflict

_MOST = 9_999_999_999


class Price(Section):
    """What one model costs, in money per million tokens."""

    prompt: float = free(0.0, "Price of prompt tokens.", ge=0, le=1e6)
    completion: float = free(0.0, "Price of completion tokens, reasoning included.", ge=0, le=1e6)
    cached: float = free(0.0, "Price of prompt tokens from the endpoint's cache; left out: as others.", ge=0, le=1e6)

    @model_validator(mode="before")
    @classmethod
    def _fill_cached(cls, values: object) -> object:
        return {"cached": values["prompt"], **values} if isinstance(values, dict) and "prompt" in values else values

    @model_validator(mode="after")
    def _both_are_given(self) -> Self:
        # Half a price would make a cost that is too low, and look like a whole one.
        given = self.model_fields_set
        for key, other in (("completion", "prompt"), ("prompt", "completion")):
            if key not in given:
                raise conflict(key, other, "must be set as well as")
        return self


class Budget(Section):
    """How much may be bought, by all tasks of a run together and by each; 0 is no cap."""

    currency: str = free("USD", "What prices and costs are counted in; a label only.")
    calls: int = free(0, "Model calls of a run; at a cap nothing new starts, raised it goes on.", ge=0, le=_MOST)
    tokens: int = free(0, "Tokens of a run, prompts and completions together.", ge=0, le=_MOST)
    cost: float = free(0.0, "Cost of a run; needs the price of every model in [prices].", ge=0, le=1e9)
    task_calls: int = free(0, "Model calls of one task.", ge=0, le=_MOST)
    task_tokens: int = free(0, "Tokens of one task.", ge=0, le=_MOST)
    task_cost: float = free(0.0, "Cost of one task.", ge=0, le=1e9)
