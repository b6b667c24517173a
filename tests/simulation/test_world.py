"""Worlds: what is in them, that they can be rebuilt, and how verified steps are scored."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from runtime.simulation.world import Kind, Role, World, score_pairs, write_tasks

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = """
import hashlib
from runtime.simulation.world import World
world = World.generate(11, 30)
facts = [(t.name, t.question, t.answer, sorted(t.critical)) for t in world.tasks]
text = repr((facts, [[s.policy.code for s in t.steps] for t in world.tasks]))
print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_another_process_builds_the_same_world() -> None:
    runs = [
        subprocess.run(
            [sys.executable, "-c", DIGEST], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True, timeout=60
        )
        for seed in ("0", "12345")
    ]
    assert runs[0].stdout == runs[1].stdout != b""


def test_a_smaller_world_is_the_beginning_of_a_larger_one() -> None:
    small, large = World.generate(3, 20), World.generate(3, 50)
    assert [task.question for task in large.tasks[:20]] == [task.question for task in small.tasks]


def test_other_seeds_give_other_worlds() -> None:
    assert World.generate(1, 5).tasks[0].question != World.generate(2, 5).tasks[0].question


def test_every_round_of_twelve_tasks_has_all_kinds() -> None:
    world = World.generate(4, 36)
    for start in (0, 12, 24):
        kinds = Counter(task.kind for task in world.tasks[start : start + 12])
        assert kinds == {
            Kind.SOLVED: 2,
            Kind.SINGLE: 3,
            Kind.DOUBLE: 2,
            Kind.HERRING: 2,
            Kind.OVERWRITTEN: 2,
            Kind.HOPELESS: 1,
        }


def test_names_and_references_are_unique_and_stand_in_the_question() -> None:
    world = World.generate(2, 200)
    assert len({task.name for task in world.tasks}) == 200
    for task in world.tasks:
        assert task.reference.lower() in task.question.lower()
        assert world.find(task.question) is task


def test_a_text_that_names_no_task_of_the_world_finds_none() -> None:
    world = World.generate(2, 3)
    assert world.find("What is the capital of France? See note Q-1 and form ZZ-9999.") is None


def test_lengths_vary_within_the_bounds_that_were_asked_for() -> None:
    world = World.generate(5, 120)
    assert {len(task.steps) for task in world.tasks} == {4, 5, 6, 7, 8, 9}
    longer = World.generate(5, 24, shortest=11, longest=12)
    assert {len(task.steps) for task in longer.tasks} == {11, 12}


def test_without_attachments_no_task_comes_with_a_file() -> None:
    assert any(task.files for task in World.generate(6, 60).tasks)
    assert not any(task.files for task in World.generate(6, 60, attachments=False).tasks)


def test_critical_steps_are_the_decisive_ones_of_the_kinds_that_have_one() -> None:
    for task in World.generate(8, 120).tasks:
        decisive = {place for place, step in enumerate(task.steps) if step.role is Role.DECISIVE}
        herrings = {place for place, step in enumerate(task.steps) if step.role is Role.HERRING}
        if task.kind in (Kind.SINGLE, Kind.HERRING, Kind.OVERWRITTEN):
            assert task.critical == decisive
            assert len(decisive) == 1
        else:
            assert task.critical == frozenset()
        assert len(decisive) == 2 or task.kind is not Kind.DOUBLE
        assert herrings or task.kind is not Kind.HERRING


def test_each_step_has_three_to_five_options_and_a_right_one_among_them() -> None:
    for task in World.generate(9, 60).tasks:
        for step in task.steps:
            assert 3 <= len(step.options) <= 5
            assert any(option.right for option in step.options)


def test_mistakes_are_spread_over_all_sorts_of_steps() -> None:
    world = World.generate(10, 360)
    verbs = Counter(task.steps[place].title.split()[0] for task in world.tasks for place in task.critical)
    assert set(verbs) >= {"Sort", "Check", "Limit", "Pick", "Convert", "Work", "Report", "Find", "Write", "Read"}
    assert max(verbs.values()) < sum(verbs.values()) / 3


def test_no_program_tells_what_it_is() -> None:
    for task in World.generate(12, 60).tasks:
        for step in task.steps:
            for move in (step.policy, *step.options):
                words = move.code.lower()
                assert not any(word in words for word in ("wrong", "decisive", "herring", "mistake", "gold"))


@pytest.mark.parametrize(("tasks", "shortest", "longest"), [(0, 4, 9), (200_000, 4, 9), (5, 3, 9), (5, 9, 8)])
def test_impossible_worlds_are_refused(tasks: int, shortest: int, longest: int) -> None:
    with pytest.raises(ValueError, match=r"a (world|scenario) has"):
        World.generate(1, tasks, shortest=shortest, longest=longest)


def test_verified_steps_are_scored_against_the_critical_ones() -> None:
    world = World.generate(1, 24)
    critical = sorted(world.critical)
    name = world.tasks[0].name
    claimed = [*critical[:6], critical[0], (name, 99), ("no such task", 0)]
    score = score_pairs(world, claimed)
    assert (score.critical, score.found, score.verified) == (len(critical), 6, 8)
    assert score.precision == 6 / 8
    assert score.recall == 6 / len(critical)


def test_ratios_over_nothing_are_none() -> None:
    world = World.generate(1, 24)
    nothing = score_pairs(world, [])
    assert (nothing.precision, nothing.recall) == (None, 0.0)
    solved = World.generate(1, 1)
    assert score_pairs(solved, []).recall is None or solved.critical


def test_written_tasks_can_be_read_back(tmp_path: Path) -> None:
    world = World.generate(6, 24)
    path = write_tasks(world, tmp_path / "given")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["question"] for line in lines] == [task.question for task in world.tasks]
    assert [line["id"] for line in lines] == [task.name for task in world.tasks]
    for line, task in zip(lines, world.tasks, strict=True):
        assert set(task.files) == ({line["file_name"]} if "file_name" in line else set())
        for name, text in task.files.items():
            assert (path.parent / name).read_text() == text
