"""Requests to the stand-ins, written by the contract."""

from __future__ import annotations

from typing import Any

from runtime.agents.main.replies import render_reply
from runtime.simulation.world import ScenarioTask

Body = dict[str, Any]


def body(model: str, *turns: str, seed: int | None = 1) -> Body:
    """A request whose turns after the system message are the user's and the assistant's in turn."""
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": turn} for number, turn in enumerate(turns)]
    request: Body = {"model": model, "messages": [{"role": "system", "content": "Rules."}, *messages]}
    if seed is not None:
        request["seed"] = seed
    return request


def plan(
    task: ScenarioTask, index: int, *, observation: str = "", state: str = "{}", model: str = "sim-policy"
) -> Body:
    """A plan request of a step."""
    closing = f"Progress state before step {index}:\n{state}\n\nWrite the plan of step {index}."
    return _after(task, index, observation, closing, model, 1)


def action(task: ScenarioTask, index: int, *, model: str = "sim-policy", seed: int | None = 1) -> Body:
    """An action request of a step."""
    closing = f"Progress state at step {index}:\n{{}}\n\nWrite the action of step {index}."
    return _after(task, index, "printed", closing, model, seed)


def _after(task: ScenarioTask, index: int, observation: str, closing: str, model: str, seed: int | None) -> Body:
    if index == 0:
        return body(model, f"Task: {task.question}\n\n{closing}", seed=seed)
    acted = render_reply("So.", task.step(index - 1).policy.code)
    seen = f"Observation of step {index - 1}:\n{observation}\n\n{closing}"
    return body(model, f"Task: {task.question}", acted, seen, seed=seed)


def end(task: ScenarioTask, given: str, direct: str | None = None) -> Body:
    """An end request."""
    extra = "" if direct is None else f"\nDirect answer to the task: {direct}"
    closing = f"The run ended: stopped.\nResult given: {given}{extra}\n\nWrite the final result."
    return body("sim-policy", f"Task: {task.question}\n\nProgress state at the end:\n{{}}\n\n{closing}")


def score(task: ScenarioTask, index: int, code: str, *, seed: int = 1, observation: str = "") -> Body:
    """A scoring request."""
    text = (
        f"Task: {task.question}\n\nProgress state at step {index}:\n{{}}\n\nRecent steps:\n{observation}\n\n"
        f"Candidate action of step {index}:\n{render_reply('Well.', code)}\n\nScore this candidate."
    )
    return body("sim-prm", text, seed=seed)


def judgement(question: str, reference: str, given: str) -> Body:
    """A judging request."""
    text = f"Question:\n{question}\n\nReference answer:\n{reference}\n\nAnswer given:\n{given}\n\nGive your verdict."
    return body("sim-judge", text)
