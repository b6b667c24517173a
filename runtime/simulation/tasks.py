"""The task of a scenario as everybody else sees it: question, answer, steps, and which of them are critical."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from runtime.simulation.errands import give_up, look_again

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.search import SearchHit
    from runtime.simulation.idiom import Idiom
    from runtime.simulation.moves import Files, Move, Slot


class Kind(StrEnum):
    """What a task is there to show."""

    SOLVED = "solved"  # the policy succeeds
    SINGLE = "single"  # one wrong step, and the outcome hangs on it
    DOUBLE = "double"  # two wrong steps: putting one right alone changes nothing
    HERRING = "herring"  # one decisive step, and others that look bad and do not matter
    OVERWRITTEN = "overwritten"  # one decisive step whose input later steps overwrite, move or delete
    HOPELESS = "hopeless"  # no single action helps


class Role(StrEnum):
    """What the policy's action at a step is."""

    ORDINARY = "ordinary"  # right, and looks it
    DECISIVE = "decisive"  # wrong, and looks it
    HERRING = "herring"  # harmless, and looks wrong


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the policy's script; `options` (3 to 5) are the expert's, at least one of them right."""

    title: str
    aim: str
    role: Role
    policy: Move
    options: tuple[Move, ...]

    @property
    def best(self) -> Move:
        """The first right option that is not the policy's own action, or that action where there is none."""
        for option in self.options:
            if option.right and option.code != self.policy.code:
                return option
        return self.policy


@dataclass(frozen=True, slots=True)
class ScenarioTask:
    """One generated task.

    `critical` holds the steps at which replacing the policy's action alone flips failure into success; it is empty
    for a task that the policy solves. `files` (name to text) must lie in the workspace when a run starts. `start` is
    the same for the model of a workspace, `replies` maps words of an `ask_llm` query to the answer, `guess` is what
    the policy says when it is asked without having worked, and is never right.
    """

    index: int
    name: str
    reference: str
    question: str
    answer: str
    kind: Kind
    steps: tuple[Step, ...]
    critical: frozenset[int]
    files: Mapping[str, str]
    start: Files
    hits: tuple[SearchHit, ...]
    replies: Mapping[str, str]
    guess: str
    endless: bool
    idiom: Idiom

    def step(self, index: int) -> Step:
        """Return the step that the policy takes at an index, which may lie beyond its script."""
        if index < len(self.steps):
            return self.steps[index]
        turn = index - len(self.steps)
        slot = look_again(self.idiom, turn) if self.endless else give_up(self.idiom, turn)
        return ordinary_step(slot)


def ordinary_step(slot: Slot) -> Step:
    """Return a step at which every option does the same as the policy's action."""
    first, second = slot.rights
    return Step(slot.title, slot.aim, Role.ORDINARY, first, (second, first, reworded(second)))


def reworded(move: Move) -> Move:
    """Return the move with comments: other text, same program."""
    head, gap, rest = move.code.partition("\n\n")
    imports = bool(gap) and all(line.startswith(("import ", "from ")) for line in head.splitlines())
    code = f"{head}\n\n# {move.reason}\n{rest}" if imports else f"# {move.reason}\n{move.code}"
    return type(move)(code, move.effect, move.reason, move.right)
