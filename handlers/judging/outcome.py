"""From an answer to an outcome: the one place where a rollout becomes a success or a failure."""

from __future__ import annotations

from handlers.judging.exact import exact_match
from handlers.judging.model import judge_messages, parse_verdict
from runtime.errors import UnrepeatableError
from runtime.services import Services
from store.calls import WHOLE_TRAJECTORY
from store.events import Outcome
from store.tasks import Task
from store.trajectories import Trajectory

_ATTEMPTS = 3


async def judge_answer(services: Services, trajectory: Trajectory, task: Task, answer: str) -> Outcome:
    """Judge the answer of a rollout by the run's method.

    Raises:
        InfrastructureError: the judge could not be reached, or a content filter kept it from answering: then nothing
            is known.
        UnrepeatableError: it gave no readable verdict. New ones are asked for once a person has said retry.
    """
    gold = task.answer
    assert gold is not None  # tasks without an answer are refused when they are handed in
    if services.settings.judge.method == "exact":
        return "success" if exact_match(answer, gold) else "failure"
    if not answer.strip():
        return "failure"
    journal = await services.models.journal(trajectory, task)
    messages = judge_messages(task.question, gold, answer)
    attempt, given_up = 0, services.models.given_up
    # Those that an earlier delivery got are read again first.
    while trajectory.id not in given_up and not (journal.bought and attempt % _ATTEMPTS == 0):
        # A refusal is no verdict, so nothing has come of it that would have to be met again.
        reply = await journal.ask(
            role="judge",
            module="judge",
            step=WHOLE_TRAJECTORY,
            messages=messages,
            ordinal=attempt,
            keep_refusal=False,
        )
        verdict = parse_verdict(reply.content)
        if verdict is not None:
            return "success" if verdict else "failure"
        attempt += 1
    given_up.add(trajectory.id)
    raise UnrepeatableError(
        f"the judge gave no readable verdict on {trajectory.label}, asked {_ATTEMPTS} times: "
        'take another model for it, or set judge.method = "exact"'
    )
