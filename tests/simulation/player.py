"""Plays the scenarios of a world for real, without the runtime: programs in temporary directories, tools as stubs.

Run as a process of its own (`python -m tests.simulation.player SEED TASKS`), since the programs change the working
directory's files and print. Writes one JSON object per task: how the policy ended, how each option of each step
ended, played in a workspace restored to that step, and how the best ones ended in a workspace that was not.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from runtime.search import render_hits
from runtime.simulation.search import WorldSearch
from runtime.simulation.standins import Standins
from runtime.simulation.world import Role, ScenarioTask, World

MAX_STEPS = 12
Snapshot = dict[str, bytes]


@dataclass
class Ran:
    """What came of one program."""

    printed: str
    error: str | None
    answer: str | None


@dataclass
class Player:
    """Runs programs in a directory, with the tools of the simulated world."""

    world: World
    folder: Path
    program: Path
    standins: Standins = field(init=False)
    search: WorldSearch = field(init=False)

    def __post_init__(self) -> None:
        self.standins = Standins(self.world)
        self.search = WorldSearch(self.world)

    def run(self, code: str) -> Ran:
        """Run one program to its end, as the sandbox would."""
        answers: list[str] = []

        def stop(output: str, log: str) -> dict[str, str]:
            answers.append(output)
            return {"output": output, "log": log}

        tools = {
            "stop": stop,
            "ask_llm": lambda query: self.ask("sim-policy", [query]),
            "simple_web_search": lambda query: render_hits(self.search.find(query)),
        }
        self.program.write_text(code)
        printed = io.StringIO()
        error = None
        with contextlib.redirect_stdout(printed):
            try:
                runpy.run_path(str(self.program), init_globals=tools)
            except (OSError, LookupError, ValueError, ZeroDivisionError, AttributeError, TypeError) as caught:
                error = f"{type(caught).__name__}: {caught}"
        return Ran(printed.getvalue(), error, answers[-1] if answers else None)

    def ask(self, model: str, texts: list[str], seed: int = 0) -> str:
        """Ask a stand-in with user messages alone."""
        messages = [{"role": "user", "content": text} for text in texts]
        return self.standins.reply({"model": model, "messages": messages, "seed": seed})

    def play(self, task: ScenarioTask, start: int = 0, first: str | None = None) -> tuple[str | None, list[Snapshot]]:
        """Play from a step on, `first` in place of the policy's action; return the answer and the workspaces."""
        before: list[Snapshot] = []
        for index in range(start, MAX_STEPS):
            before.append(self.snapshot())
            code = first if first is not None and index == start else task.step(index).policy.code
            answer = self.run(code).answer
            if answer is not None:
                return answer, before
        return None, before

    def snapshot(self) -> Snapshot:
        """The files of the workspace."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}

    def restore(self, files: Snapshot) -> None:
        """Make the workspace hold these files and nothing else."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def report_on(player: Player, task: ScenarioTask) -> dict[str, object]:
    """Play everything that there is to play in a task."""
    player.restore({name: text.encode() for name, text in task.files.items()})
    answer, before = player.play(task)
    spent = player.snapshot()
    branches, unrestored = [], []
    for index, files in enumerate(before[: len(task.steps)]):
        step = task.steps[index]
        for number, option in enumerate(step.options):
            player.restore(files)
            reached, _ = player.play(task, index, option.code)
            is_policy = option.effect is step.policy.effect
            branches.append([index, number, option.right, is_policy, reached])
        if step.role is Role.DECISIVE:
            player.restore(spent)
            unrestored.append([index, player.play(task, index, step.best.code)[0]])
    return {
        "name": task.name,
        "answer": answer,
        "steps": len(before),
        "branches": branches,
        "unrestored": unrestored,
    }


def main() -> None:
    """Play a world and write what came of it."""
    seed, tasks = map(int, sys.argv[1:3])
    world = World.generate(seed, tasks)
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base) / "workspace"
        folder.mkdir()
        os.chdir(folder)
        player = Player(world, folder, Path(base) / "program.py")
        for task in world.tasks:
            sys.stdout.write(json.dumps(report_on(player, task)) + "\n")
        os.chdir("/")


if __name__ == "__main__":
    main()
