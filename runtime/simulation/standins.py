"""The stand-ins: models of the simulated world, as a pure function from a request body to a reply.

A reply depends on the world, the habits, the messages and the seed alone; not on headers, and not on what was asked
before. So the same request always gets the same reply, from any process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime.simulation import phrases
from runtime.simulation.chance import Chance
from runtime.simulation.inquiry import Inquiry, Module, read_inquiry
from runtime.simulation.judge import judge_reply
from runtime.simulation.policy import expert_reply, policy_reply
from runtime.simulation.prm import prm_reply
from runtime.simulation.strangers import stranger

if TYPE_CHECKING:
    from runtime.simulation.tasks import ScenarioTask
    from runtime.simulation.world import World

ROLES = {"sim-policy": "policy", "sim-expert": "expert", "sim-prm": "prm", "sim-judge": "judge"}


class UnknownModelError(LookupError):
    """Raised when a request names a model that is no stand-in."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How the stand-ins behave; all are probabilities in [0, 1].

    `prm_noise`: fraction of the steps that are not critical at which the PRM takes the policy's action for bad and
    all others for good. `lucky`: how often the policy is right at a decisive step, drawn by the request's seed.
    `thinking`: how often a reply has a `<think>` block in front (never answers to `ask_llm` and direct ones).
    """

    prm_noise: float = 0.0
    lucky: float = 0.0
    thinking: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for what is no probability."""
        for value in (self.prm_noise, self.lucky, self.thinking):
            if not 0 <= value <= 1:
                raise ValueError(f"{value} is not between 0 and 1")


class Standins:
    """The models of a world."""

    def __init__(self, world: World, habits: Habits | None = None) -> None:
        self._world = world
        self._habits = habits or Habits()

    def reply(self, body: Any) -> str:  # a JSON body from outside
        """Return the reply to a chat completion request.

        Raises InquiryError for a body that is none, UnknownModelError for a model that is no stand-in.
        """
        return self.answer(read_inquiry(body))

    def answer(self, inquiry: Inquiry) -> str:
        """Return the reply to a request; raises UnknownModelError for a model that is no stand-in."""
        role = ROLES.get(inquiry.model)
        if role is None:
            raise UnknownModelError(inquiry.model)
        if role == "judge":
            return judge_reply(inquiry)
        task = self._world.find(inquiry.first) or stranger(inquiry.topic)
        text = self._spoken(role, inquiry, task)
        return self._thinking(role, inquiry, task) + text

    def _spoken(self, role: str, inquiry: Inquiry, task: ScenarioTask) -> str:
        seed = self._world.seed
        if role == "prm":
            return prm_reply(inquiry, task, world_seed=seed, noise=self._habits.prm_noise)
        if role == "expert":
            return expert_reply(inquiry, task, world_seed=seed)
        return policy_reply(inquiry, task, world_seed=seed, lucky=self._habits.lucky)

    def _thinking(self, role: str, inquiry: Inquiry, task: ScenarioTask) -> str:
        if not self._habits.thinking or (role != "prm" and inquiry.module in (Module.ASK, Module.DIRECT)):
            return ""
        draws = Chance(self._world.seed, "thinking", role, task.name, inquiry.last[-400:], inquiry.seed)
        return phrases.musing(draws) if draws.happens(self._habits.thinking) else ""
