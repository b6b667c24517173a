"""The stand-ins for the policy and the expert: they plan, act, end and answer by the script of the task.

The policy takes the script's action whatever happened before; if the files are not as the script expects, its
programs fail for real. The expert offers option number `seed % m` of a step's m options.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from runtime.agents.main.replies import ReplyError, parse_literal, render_reply
from runtime.simulation import phrases
from runtime.simulation.chance import Chance
from runtime.simulation.inquiry import Inquiry, Module
from runtime.simulation.tasks import Role, ScenarioTask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from store.jsontypes import JsonValue

_ERROR = re.compile(r"^\s*(?:\w+\.)*(\w*(?:Error|Exception)\b.*)", re.MULTILINE)
_STATE_KEYS = ("completed_list", "todo_list", "experience", "information")
_KEPT_FACTS = 8
_FACT_CHARACTERS = 160


def policy_reply(inquiry: Inquiry, task: ScenarioTask, *, world_seed: int, lucky: float) -> str:
    """Return what the policy says; at a decisive step it is right with probability `lucky`, by the seed."""
    draws = Chance(world_seed, "policy", task.name, inquiry.module, inquiry.step, inquiry.seed)
    match inquiry.module:
        case Module.PLAN:
            thought = draws.pick(
                ("The observation fits the plan.", "The list is brought up to date.", "One item less to do.")
            )
            return _plan(inquiry, task, f"{thought} {_ahead(inquiry, task)}", "")
        case Module.ACTION:
            step = task.step(inquiry.step)
            is_lucky = step.role is Role.DECISIVE and draws.happens(lucky)
            move = step.best if is_lucky else step.policy
            return render_reply(phrases.policy_thought(draws, step.aim, move.reason), move.code)
        case Module.END:
            return _end(inquiry, task)
        case Module.DIRECT:
            return task.guess
        case Module.ASK:
            return _answer(inquiry, task, draws)


def expert_reply(inquiry: Inquiry, task: ScenarioTask, *, world_seed: int) -> str:
    """Return what the expert proposes; other requests it answers as the policy would."""
    draws = Chance(world_seed, "expert", task.name, inquiry.module, inquiry.step, inquiry.seed)
    if inquiry.module is Module.ACTION:
        step = task.step(inquiry.step)
        move = step.options[inquiry.seed % len(step.options)]
        return render_reply(phrases.expert_thought(draws, step.aim, move.reason), move.code)
    if inquiry.module is Module.PLAN:
        prefix = draws.pick(("", "with care: ", "then: "))
        thought = draws.pick(
            ("Seen from the goal, the order of what is left is clear.", "The state needs one more look.")
        )
        return _plan(inquiry, task, f"{thought} {_ahead(inquiry, task)}", prefix)
    return policy_reply(inquiry, task, world_seed=world_seed, lucky=0.0)


def _ahead(inquiry: Inquiry, task: ScenarioTask) -> str:
    return f"What comes next: {task.step(inquiry.step).title}."


def _plan(inquiry: Inquiry, task: ScenarioTask, thought: str, prefix: str) -> str:
    """Return the progress state before a step, as the previous state and the last observation make it."""
    index = inquiry.step
    state = _previous_state(inquiry, index)
    if index > 0:
        observation = inquiry.between(
            f"Observation of step {index - 1}:\n", f"\n\nProgress state before step {index}:"
        )
        title = task.step(index - 1).title
        failure = _ERROR.search(observation)
        if failure:
            state["experience"].append(f"Step {index - 1} ({title}) failed: {failure[1][:_FACT_CHARACTERS]}")
        else:
            state["completed_list"].append(title)
            state["information"].append(f"Step {index - 1}: {_first_line(observation)}")
    state["information"] = state["information"][-_KEPT_FACTS:]
    left = task.steps[index:] or (task.step(index),)
    state["todo_list"] = [f"{prefix}{step.title}" for step in left]
    return render_reply(thought, _literal(state))


def _previous_state(inquiry: Inquiry, index: int) -> dict[str, list[str]]:
    text = inquiry.between(f"Progress state before step {index}:\n", f"\n\nWrite the plan of step {index}.")
    try:
        found = parse_literal(text)
    except ReplyError:
        found = {}
    return {key: _texts(found.get(key)) for key in _STATE_KEYS}


def _texts(value: JsonValue) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _first_line(observation: str) -> str:
    lines = observation.strip().splitlines()
    return lines[0][:_FACT_CHARACTERS] if lines else "no output"


def _literal(state: dict[str, list[str]]) -> str:
    lines = [f"    {key!r}: {_list_literal(items)}," for key, items in state.items()]
    return "\n".join(["{", *lines, "}"])


def _list_literal(items: Sequence[str]) -> str:
    return "[" + ", ".join(map(repr, items)) + "]"


def _end(inquiry: Inquiry, task: ScenarioTask) -> str:
    """Return the final result: what was given, else the direct answer, else nothing."""
    reason = inquiry.between("The run ended: ", ".\n")
    given = inquiry.between("\nResult given: ", "\n\nWrite the final result.")
    output, _, direct = given.partition("\nDirect answer to the task: ")
    if output.strip() in ("", "none"):
        output, log = direct.strip(), f"No result was reached for {task.reference}; this is a direct answer."
    else:
        output, log = output.strip(), f"The steps on {task.reference} led to this result."
    thought = f"The run ended ({reason}). {log}"
    return render_reply(thought, repr({"output": output, "log": log}))


def _answer(inquiry: Inquiry, task: ScenarioTask, draws: Chance) -> str:
    """Return the answer to an `ask_llm` query: a looked-up fact where the query names one, else advice."""
    for words, answer in task.replies.items():
        if words in inquiry.last:
            return answer
    return phrases.advice(draws)
