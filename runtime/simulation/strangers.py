"""Tasks that are not of the world: a user's own, sent to the stand-ins in a rehearsal.

Owns a small script for any task at all. It looks around, notes and gives up; one step looks bad to the PRM, so that
every stage of the method has something to do. Nothing about it is true.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from runtime.simulation import errands
from runtime.simulation.chance import Chance
from runtime.simulation.idiom import Idiom
from runtime.simulation.tasks import Kind, Role, ScenarioTask, Step, ordinary_step
from runtime.simulation.themes import THEMES

if TYPE_CHECKING:
    from runtime.simulation.moves import Slot


@lru_cache(maxsize=4096)
def stranger(topic: str) -> ScenarioTask:
    """Return a script of 4 to 7 steps for a task known by its first paragraph alone."""
    draws = Chance("stranger", topic)
    idiom = Idiom(THEMES[0], "the task", "txt", "rows", "row")
    makers = [
        draws.pick((errands.look_around, errands.take_notes, errands.ask_around)) for _ in range(draws.between(3, 6))
    ]
    steps = [ordinary_step(make(idiom, "the files", draws.below(2))) for make in makers]
    suspect = draws.below(len(steps))
    steps[suspect] = _suspicious(makers[suspect](idiom, "the files", 0))
    return ScenarioTask(
        index=-1,
        name="stranger",
        reference="the task",
        question=topic,
        answer="",
        kind=Kind.HOPELESS,
        steps=(*steps, ordinary_step(errands.give_up(idiom, 1))),
        critical=frozenset(),
        files={},
        start={},
        hits=(),
        replies={},
        guess="unknown",
        endless=False,
        idiom=idiom,
    )


def _suspicious(slot: Slot) -> Step:
    """The step as a herring: the policy's way scores low, the other one high."""
    first, second = slot.rights
    policy = type(first)(first.code, first.effect, first.reason, right=False)
    return Step(slot.title, slot.aim, Role.HERRING, policy, (second, policy, second))
