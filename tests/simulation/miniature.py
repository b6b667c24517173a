"""The whole method in miniature, over the stand-ins alone: prompts by the contract, no store, server or sandbox.

Run as a process of its own (`python -m tests.simulation.miniature SEED TASKS NOISE THINKING`). Writes one JSON
object: how many tasks ended in success, the candidate steps, and the steps that were verified.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from runtime.agents.main.replies import parse_end, parse_plan, parse_reply, render_reply
from runtime.simulation.prm import normalised
from runtime.simulation.standins import Habits, Standins
from runtime.simulation.world import ScenarioTask, World
from store.jsontypes import JsonValue
from tests.simulation.player import MAX_STEPS, Player, Ran, Snapshot

RECENT_STEPS = 5
ALTERNATIVES = 5
GOOD_MIN, BAD_MAX = 0.6, 0.5
_SCORE = re.compile(r"^(?:\*\*Score\*\*:|\*\*Score:\*\*|Score:) (\d\.\d+)$")

Messages = list[dict[str, str]]
State = dict[str, JsonValue]


@dataclass
class Taken:
    """A step that was taken: what was asked, what was done, and the files and state before it."""

    messages: Messages
    state: State
    files: Snapshot
    thought: str
    code: str
    observation: str = ""


@dataclass
class Method:
    """Rollouts, scores and branches of one world."""

    player: Player
    world: World

    def ask(self, model: str, messages: Messages, seed: int) -> str:
        """Ask a stand-in."""
        return self.player.standins.reply({"model": model, "messages": messages, "seed": seed})

    def roll_out(self, task: ScenarioTask, taken: list[Taken]) -> tuple[list[Taken], str]:
        """Let the policy go on from some steps; return all steps and the final output."""
        steps, result = list(taken), None
        state: State = dict(steps[-1].state) if steps else {}
        while len(steps) < MAX_STEPS and result is None:
            index, seed = len(steps), 1000 + len(steps)
            plan = self.conversation(task, steps, plan_request(index, state))
            state = parse_plan(parse_reply(self.ask("sim-policy", plan, seed)), repr(state))
            messages = self.conversation(task, steps, action_request(index, state))
            reply = parse_reply(self.ask("sim-policy", messages, seed))
            step = Taken(messages, state, self.player.snapshot(), reply.thought, reply.code)
            result = self.act(step)
            steps.append(step)
        return steps, self.end(task, steps, state, result)

    def act(self, step: Taken) -> str | None:
        """Run a step's program; return what it stopped with."""
        ran: Ran = self.player.run(step.code)
        step.observation = ran.printed + (f"Traceback\n{ran.error}" if ran.error else "")
        return ran.answer

    def end(self, task: ScenarioTask, steps: list[Taken], state: State, result: str | None) -> str:
        """Ask for the final output."""
        reason, direct = "stopped", ""
        if result is None:
            reason = "max-steps"
            question = [{"role": "user", "content": f"Task: {task.question}"}]
            direct = f"\nDirect answer to the task: {self.ask('sim-policy', question, 1)}"
        closing = (
            f"Progress state at the end:\n{state!r}\n\nThe run ended: {reason}.\n"
            f"Result given: {result if result is not None else 'none'}{direct}\n\nWrite the final result."
        )
        return parse_end(parse_reply(self.ask("sim-policy", self.conversation(task, steps, closing), 2))).output

    def conversation(self, task: ScenarioTask, steps: list[Taken], closing: str) -> Messages:
        """The messages of a request, roles alternating."""
        messages = [{"role": "system", "content": "Rules."}]
        user = f"Task: {task.question}"
        if task.files:
            user += f"\n\nFiles: {', '.join(task.files)}"
        first = max(0, len(steps) - RECENT_STEPS)
        for index, step in enumerate(steps[first:], first):
            messages += [
                {"role": "user", "content": user},
                {"role": "assistant", "content": render_reply(step.thought, step.code)},
            ]
            user = f"Observation of step {index}:\n{step.observation}"
        return [*messages, {"role": "user", "content": f"{user}\n\n{closing}"}]

    def succeeds(self, task: ScenarioTask, output: str) -> bool:
        """Ask the judge."""
        text = (
            f"Question:\n{task.question}\n\nReference answer:\n{task.answer}\n\n"
            f"Answer given:\n{output}\n\nGive your verdict."
        )
        return self.ask("sim-judge", [{"role": "user", "content": text}], 0).endswith("Verdict: yes")

    def score(self, task: ScenarioTask, steps: list[Taken], index: int, thought: str, code: str) -> float:
        """Ask the PRM."""
        recent = "\n\n".join(
            f"Step {place}:\n{render_reply(step.thought, step.code)}\n"
            f"Observation of step {place}:\n{step.observation}"
            for place, step in list(enumerate(steps[:index]))[-3:]
        )
        text = (
            f"Task: {task.question}\n\nProgress state at step {index}:\n{steps[index].state!r}\n\n"
            f"Recent steps:\n{recent}\n\nCandidate action of step {index}:\n{render_reply(thought, code)}\n\n"
            "Score this candidate."
        )
        found = _SCORE.match(self.ask("sim-prm", [{"role": "user", "content": text}], index).splitlines()[-1])
        if found is None:
            raise AssertionError("the PRM gave no score")
        return float(found[1])

    def candidates(self, task: ScenarioTask, steps: list[Taken], index: int) -> list[tuple[str, str]]:
        """The good alternatives at a step whose action is bad, each program once."""
        step = steps[index]
        if self.score(task, steps, index, step.thought, step.code) >= BAD_MAX:
            return []
        seen = {normalised(step.code)}
        good = []
        for number in range(ALTERNATIVES):
            reply = parse_reply(self.ask("sim-expert", step.messages, 70_000 + 13 * index + number))
            if normalised(reply.code) in seen:
                continue
            seen.add(normalised(reply.code))
            if self.score(task, steps, index, reply.thought, reply.code) > GOOD_MIN:
                good.append((reply.thought, reply.code))
        return good

    def verify(self, task: ScenarioTask, steps: list[Taken], index: int, thought: str, code: str) -> bool:
        """Branch: the alternative for real, then the policy, from the files and the state of the step."""
        original = steps[index]
        self.player.restore(original.files)
        step = Taken(original.messages, original.state, original.files, thought, code)
        result = self.act(step)
        prefix = [*steps[:index], step]
        if result is not None:
            return self.succeeds(task, self.end(task, prefix, step.state, result))
        return self.succeeds(task, self.roll_out(task, prefix)[1])


def plan_request(index: int, state: State) -> str:
    """The end of a plan request."""
    return f"Progress state before step {index}:\n{state!r}\n\nWrite the plan of step {index}."


def action_request(index: int, state: State) -> str:
    """The end of an action request."""
    return f"Progress state at step {index}:\n{state!r}\n\nWrite the action of step {index}."


def run(method: Method) -> dict[str, object]:
    """Collect, resample and verify."""
    successes, tried, verified = 0, [], []
    for task in method.world.tasks:
        method.player.restore({name: text.encode() for name, text in task.files.items()})
        steps, output = method.roll_out(task, [])
        if method.succeeds(task, output):
            successes += 1
            continue
        for index in range(len(steps)):
            good = method.candidates(task, steps, index)
            if good:
                tried.append((task.name, index))
            verified += [(task.name, index) for pair in good if method.verify(task, steps, index, *pair)]
    return {"successes": successes, "tried": tried, "verified": verified}


def main() -> None:
    """Run the method over a world and write what came of it."""
    seed, tasks = map(int, sys.argv[1:3])
    noise, thinking = map(float, sys.argv[3:5])
    world = World.generate(seed, tasks)
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base) / "workspace"
        folder.mkdir()
        os.chdir(folder)
        player = Player(world, folder, Path(base) / "program.py")
        player.standins = Standins(world, Habits(prm_noise=noise, thinking=thinking))
        sys.stdout.write(json.dumps(run(Method(player, world))))
        os.chdir("/")


if __name__ == "__main__":
    main()
