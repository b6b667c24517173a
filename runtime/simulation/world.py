"""The simulated world: a family of generated tasks whose truly critical steps are known.

Owns the finding of a task by the reference in a text, and the scoring of verified steps against the truth. A world is
a pure function of its arguments: the server, the tests and the demo each build their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from runtime.simulation.plot import Shape
from runtime.simulation.scenario import MOST_TASKS, build
from runtime.simulation.tasks import Kind, Role, ScenarioTask, Step

__all__ = ["Kind", "Role", "ScenarioTask", "Step", "World", "WorldScore", "score_pairs", "write_tasks"]

_CODE = re.compile(r"\b[A-Z]-\d{4,5}\b")


@dataclass(frozen=True, slots=True)
class WorldScore:
    """Verified steps against the world's critical ones: counts of distinct (task, step), and their ratios.

    `precision` is None without a verified step, `recall` without a critical one.
    """

    critical: int
    found: int
    verified: int
    precision: float | None
    recall: float | None


@dataclass(frozen=True, slots=True)
class World:
    """A seeded family of tasks."""

    seed: int
    tasks: tuple[ScenarioTask, ...]
    _by_code: Mapping[str, ScenarioTask] = field(repr=False, compare=False)

    @classmethod
    def generate(
        cls, seed: int, tasks: int, *, shortest: int = 4, longest: int = 9, attachments: bool = True
    ) -> World:
        """Generate a world of `tasks` tasks (1 to 100,000) of `shortest` to `longest` steps each.

        Without `attachments` no task comes with a file. A task depends on the seed, its index and these two options
        alone, so a smaller world is the beginning of a larger one. Raises ValueError for numbers out of range.
        """
        if not 1 <= tasks <= MOST_TASKS:
            raise ValueError(f"a world has 1 to {MOST_TASKS} tasks, not {tasks}")
        shape = Shape(shortest, longest, attachments)
        made = tuple(build(seed, index, shape) for index in range(tasks))
        by_code = {task.reference.rpartition(" ")[2]: task for task in made}
        return cls(seed, made, MappingProxyType(by_code))

    def find(self, text: str) -> ScenarioTask | None:
        """Return the task whose reference comes first in a text, or None where no task of this world is named."""
        for code in _CODE.finditer(text):
            task = self._by_code.get(code.group())
            if task is not None:
                return task
        return None

    @property
    def critical(self) -> frozenset[tuple[str, int]]:
        """The (task name, step) of every critical step."""
        return frozenset((task.name, step) for task in self.tasks for step in task.critical)


def score_pairs(world: World, verified: Iterable[tuple[str, int]]) -> WorldScore:
    """Score the (task name, step) of verified pairs; several pairs of one step count once."""
    claimed, critical = set(verified), world.critical
    found = len(claimed & critical)
    return WorldScore(
        critical=len(critical),
        found=found,
        verified=len(claimed),
        precision=found / len(claimed) if claimed else None,
        recall=found / len(critical) if critical else None,
    )


def write_tasks(world: World, folder: Path) -> Path:
    """Write the tasks as JSON lines (id, question, answer, file_name), with the attached files beside them.

    Returns the path of the task file. Raises OSError where the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for task in world.tasks:
        record = {"id": task.name, "question": task.question, "answer": task.answer}
        for name, text in task.files.items():
            (folder / name).write_text(text)
            record["file_name"] = name
        lines.append(json.dumps(record) + "\n")
    path = folder / "tasks.jsonl"
    path.write_text("".join(lines))
    return path
