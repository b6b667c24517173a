"""Tasks that are not of the world: a user's own, sent to the stand-ins in a rehearsal.

Owns a script for any task at all, about as long as those of the world and with as much to say. It looks into the
files and gives up; one or two steps look bad to the PRM, so that every stage of the method has something to do, and
the expert has several other ideas there, as real ones have. Nothing about it is true.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from runtime.simulation import errands
from runtime.simulation.chance import Chance
from runtime.simulation.idiom import Idiom
from runtime.simulation.perusals import PERUSALS
from runtime.simulation.tasks import Kind, Role, ScenarioTask, Step, ordinary_step, reworded
from runtime.simulation.themes import THEMES

if TYPE_CHECKING:
    from runtime.simulation.moves import Slot


@lru_cache(maxsize=4096)
def stranger(topic: str) -> ScenarioTask:
    """Return a script of 5 to 9 steps for a task known by its first paragraph alone."""
    draws = Chance("stranger", topic)
    idiom = Idiom(THEMES[0], "the task", "txt", "rows", "row")
    slots = [make(topic) for make in PERUSALS]
    chosen = [draws.below(len(slots)) for _ in range(draws.between(4, 8))]
    steps = [ordinary_step(slots[number]) for number in chosen]
    for _ in range(draws.between(1, 2)):
        suspect = draws.below(len(steps))
        steps[suspect] = _suspicious(slots, chosen[suspect])
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


def _suspicious(slots: list[Slot], number: int) -> Step:
    """The step of a slot as a herring: the policy's way scores low, two of the expert's four other ones high."""
    slot, another, third = (slots[(number + further) % len(slots)] for further in range(3))
    policy = replace(slot.rights[0], right=False)
    good = (slot.rights[1], another.rights[0])
    bad = tuple(replace(move, right=False) for move in third.rights)
    return Step(slot.title, slot.aim, Role.HERRING, policy, (*good, *bad, reworded(good[0])))
