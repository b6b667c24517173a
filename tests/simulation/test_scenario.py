"""Scenarios, played for real: what the programs do is what the world says of them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runtime.simulation.scenario import kind_of, number_of
from runtime.simulation.world import Kind, Role, ScenarioTask, World, WorldScore, score_pairs

SEEDS = (1, 2, 3)
TASKS = 60
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Branch:
    """A branch that was played: what was taken at a step, and the answer at the end."""

    step: int
    option: int
    right: bool
    is_policy: bool
    answer: str | None


@dataclass(frozen=True)
class Played:
    """A task and what came of playing it."""

    task: ScenarioTask
    answer: str | None
    branches: tuple[Branch, ...]
    unrestored: tuple[tuple[int, str | None], ...]


def start(module: str, *arguments: object) -> subprocess.Popen[bytes]:
    """Start a program of this folder; its workspaces are temporary."""
    command = [sys.executable, "-m", f"tests.simulation.{module}", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def output_of(process: subprocess.Popen[bytes]) -> bytes:
    """Wait for a program and return what it wrote."""
    written, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return written


def played(task: ScenarioTask, record: dict[str, Any]) -> Played:
    """Make one object of a task and the player's record of it."""
    assert record["name"] == task.name
    branches = tuple(Branch(*branch) for branch in record["branches"])
    return Played(task, record["answer"], branches, tuple((step, answer) for step, answer in record["unrestored"]))


@pytest.fixture(scope="module")
def plays() -> list[Played]:
    """All tasks of three worlds, each option of each step played to its end."""
    processes = [start("player", seed, TASKS) for seed in SEEDS]
    found = []
    for seed, process in zip(SEEDS, processes, strict=True):
        records = map(json.loads, output_of(process).splitlines())
        found += [played(*pair) for pair in zip(World.generate(seed, TASKS).tasks, records, strict=True)]
    return found


def failed(plays: list[Played]) -> list[Played]:
    """Those that the policy did not solve."""
    return [play for play in plays if play.task.kind is not Kind.SOLVED]


def test_the_policy_solves_exactly_the_tasks_that_are_to_be_solved(plays: list[Played]) -> None:
    assert len(plays) == len(SEEDS) * TASKS
    for play in plays:
        assert (play.answer == play.task.answer) == (play.task.kind is Kind.SOLVED), play.task.name


def test_a_step_is_critical_exactly_where_one_action_flips_the_outcome(plays: list[Played]) -> None:
    for play in failed(plays):
        flipping = {branch.step for branch in play.branches if branch.answer == play.task.answer}
        assert flipping == play.task.critical, play.task.name


def test_at_a_critical_step_right_actions_flip_and_all_others_do_not(plays: list[Played]) -> None:
    for play in failed(plays):
        for branch in play.branches:
            if branch.step in play.task.critical:
                assert (branch.answer == play.task.answer) == branch.right, (play.task.name, branch)


def test_the_policys_own_action_ends_as_before(plays: list[Played]) -> None:
    for play in plays:
        for branch in play.branches:
            assert branch.answer == play.answer or not branch.is_policy, (play.task.name, branch)


def test_red_herrings_do_not_flip(plays: list[Played]) -> None:
    seen = 0
    for play in plays:
        for branch in play.branches:
            if play.task.steps[branch.step].role is Role.HERRING:
                seen += branch.right
                assert branch.answer != play.task.answer
    assert seen > 30


def test_putting_one_of_two_mistakes_right_changes_nothing(plays: list[Played]) -> None:
    for play in plays:
        if play.task.kind is Kind.DOUBLE:
            right = [branch for branch in play.branches if branch.right and not branch.is_policy]
            assert {branch.step for branch in right} >= {
                place for place, step in enumerate(play.task.steps) if step.role is Role.DECISIVE
            }
            assert all(branch.answer != play.task.answer for branch in right)


def test_a_branch_in_a_workspace_that_was_not_restored_fails(plays: list[Played]) -> None:
    overwritten = [play for play in plays if play.task.kind is Kind.OVERWRITTEN]
    assert len(overwritten) == 30
    for play in overwritten:
        assert play.unrestored
        assert all(answer != play.task.answer for _, answer in play.unrestored), play.task.name


def test_some_policies_run_out_of_steps_without_stopping(plays: list[Played]) -> None:
    endless = [play for play in plays if play.task.endless]
    assert endless
    assert all(play.answer is None for play in endless)


def test_the_guess_is_never_right(plays: list[Played]) -> None:
    assert all(play.task.guess not in ("", play.task.answer) for play in plays)


def method_score(world: World, process: subprocess.Popen[bytes]) -> tuple[dict[str, Any], WorldScore]:
    """Wait for the method in miniature and score what it verified."""
    outcome: dict[str, Any] = json.loads(output_of(process))
    return outcome, score_pairs(world, [(name, step) for name, step in outcome["verified"]])


def test_the_method_finds_all_critical_steps_and_no_others() -> None:
    world = World.generate(21, 48)
    outcome, score = method_score(world, start("miniature", 21, 48, 0, 0))
    assert (score.precision, score.recall) == (1.0, 1.0)
    assert outcome["successes"] == sum(task.kind is Kind.SOLVED for task in world.tasks)
    assert len({(name, step) for name, step in outcome["tried"]}) > score.critical


def test_a_noisy_prm_costs_branches_but_neither_precision_nor_recall() -> None:
    world = World.generate(22, 36)
    quiet, noisy = start("miniature", 22, 36, 0, 0), start("miniature", 22, 36, 0.5, 0.3)
    few, _ = method_score(world, quiet)
    many, score = method_score(world, noisy)
    assert len(many["tried"]) > 1.5 * len(few["tried"])
    assert (score.precision, score.recall) == (1.0, 1.0)


def test_kinds_come_in_another_order_in_each_round() -> None:
    rounds = {tuple(kind_of(1, index) for index in range(start, start + 12)) for start in range(0, 240, 12)}
    assert len(rounds) > 15


def test_numbers_are_unique_even_in_the_largest_world() -> None:
    assert len({number_of(5, index) for index in range(100_000)}) == 100_000
