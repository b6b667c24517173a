"""The stand-in for the process reward model: it knows every action of a scenario by its program.

A right action at a decisive step scores 0.72 to 0.95, a wrong one 0.08 to 0.36; the same holds at a red herring,
where it is misleading. Elsewhere right actions score 0.56 to 0.9. Programs that it does not know score 0.51 to 0.58.
"""

from __future__ import annotations

import ast
import re
import warnings
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING

from runtime.agents.main.replies import parse_reply
from runtime.simulation import phrases
from runtime.simulation.chance import Chance
from runtime.simulation.tasks import Role, ScenarioTask, Step

if TYPE_CHECKING:
    from runtime.simulation.inquiry import Inquiry

_CANDIDATE = re.compile(r"Candidate (action|plan) of step (\d{1,6}):\n")
_FORMS = ("Score: {:.2f}", "**Score**: {:.2f}", "**Score:** {:.2f}")


class Band(Enum):
    """A range of scores, in hundredths."""

    HIGH = (72, 95)
    FAIR = (56, 90)
    MIDDLING = (51, 58)
    LOW = (8, 36)


@lru_cache(maxsize=16384)
def normalised(code: str) -> str:
    """Return a program without comments and layout; what is no program comes back stripped."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.unparse(ast.parse(code))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code.strip()


def prm_reply(inquiry: Inquiry, task: ScenarioTask, *, world_seed: int, noise: float) -> str:
    """Return reasons and a score for the candidate that the last message holds."""
    found = _CANDIDATE.search(inquiry.last, _candidate_at(inquiry.last))
    index, candidate = 0, ""
    if found and found[1] == "action":
        index = int(found[2])
        text = inquiry.last[found.end() :].removesuffix("\n\nScore this candidate.")
        candidate = parse_reply(text).code
    band = judge_band(task, index, candidate, world_seed=world_seed, noise=noise)
    points = Chance(world_seed, "score", task.name, index, normalised(candidate))
    score = points.between(*band.value) / 100
    draws = Chance(world_seed, "prm", task.name, index, candidate, inquiry.seed)
    reasons = phrases.marks(draws, score, known=band is not Band.MIDDLING)
    return f"{reasons}\n{draws.pick(_FORMS).format(score)}"


def _candidate_at(text: str) -> int:
    """Where the last candidate is announced; observations before it are not the one to score."""
    return max(text.rfind("Candidate action of step "), text.rfind("Candidate plan of step "), 0)


def judge_band(task: ScenarioTask, index: int, code: str, *, world_seed: int, noise: float) -> Band:
    """Return the band of an action's score.

    At the fraction `noise` of the steps that are not critical the policy's action is taken for bad and every other
    action for good.
    """
    step = task.step(index)
    right = known_right(step, code)
    if right is None:
        return Band.MIDDLING
    is_noisy = index not in task.critical and Chance(world_seed, "noise", task.name, index).happens(noise)
    if is_noisy:
        return Band.LOW if _same(code, step.policy.code) else Band.HIGH
    if step.role is Role.ORDINARY:
        return Band.FAIR if right else Band.LOW
    return Band.HIGH if right else Band.LOW


def known_right(step: Step, code: str) -> bool | None:
    """Tell whether an action is right at a step, None where it is not one that the scenario knows."""
    for move in (step.policy, *step.options):
        if _same(code, move.code):
            return move.right
    return None


def _same(code: str, other: str) -> bool:
    return code == other or normalised(code) == normalised(other)
