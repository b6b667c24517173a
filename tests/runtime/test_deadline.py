"""The deadline of a step: back-off counts, missing it is trouble and no evidence, and nothing paid for is lost."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from runtime.deadline import deadline
from runtime.errors import InfrastructureError
from store.summary import Outcomes
from tests.acceptance.scripted import Ask, Said, Script, play

FAILS = Script(actions=("print('step 0')", "stop('wrong', '')"), scores={"print('step 0')": "Score: 0.1"})
# Long enough for whatever is not to miss it.
DEADLINE_S = 4.0
# A client that asks again and again for longer than any test lasts.
PATIENT = {"timeout": 600.0, "deadline": 6000.0, "attempts": 100, "backoff": 600.0, "backoff_max": 600.0}


@pytest.mark.parametrize(
    ("role", "module", "step", "what"),
    [
        ("policy", "action", 0, "step 0 of t/0"),
        ("policy", "end", -1, "the end of t/0"),
        ("prm", "score", 0, "the scoring of step 0 of t/0"),
    ],
)
async def test_the_waits_of_an_endpoint_that_fails_count_and_end_in_trouble(
    role: str, module: str, step: int, what: str, data: Path
) -> None:
    async def answer(ask: Ask) -> Said:
        return 503 if (ask.role, ask.module, ask.step) == (role, module, step) else await FAILS.answer(ask)

    patience = {f"models.{role}.{key}": value for key, value in PATIENT.items()}
    played = await play(answer, data, changes={**patience, "agent.step_deadline": DEADLINE_S, "bus.attempts": 1})
    (letter,) = played.summary.set_aside
    assert letter.error.startswith(f"{what} took longer than the 4 s of agent.step_deadline")
    judged = Outcomes(error=1) if role == "policy" else Outcomes(failure=1)
    assert played.summary.trajectories == judged


async def test_a_reply_that_is_on_its_way_at_the_deadline_is_kept_and_used_when_the_step_is_tried_again(
    data: Path,
) -> None:
    script = Script(actions=("stop('42', '')",))

    async def answer(ask: Ask) -> Said:
        if ask.module == "action":
            await anyio.sleep(DEADLINE_S + 0.2)  # longer than the step may take, which began before this was asked
        return await script.answer(ask)

    played = await play(answer, data, changes={"agent.step_deadline": DEADLINE_S})
    assert played.summary.trajectories == Outcomes(success=1)
    assert [ask.module for ask in played.models.of("policy")] == ["plan", "action", "end"]


async def test_work_that_is_done_in_time_is_left_alone() -> None:
    with deadline(60.0, what="it", setting="a.b"):
        await anyio.lowlevel.checkpoint()


async def test_a_timeout_of_somebody_else_is_not_taken_for_the_deadline() -> None:
    with pytest.raises(TimeoutError), deadline(60.0, what="it", setting="a.b"), anyio.fail_after(0):
        await anyio.sleep_forever()


async def test_a_cancelled_wait_is_not_taken_for_the_deadline() -> None:
    with anyio.CancelScope() as scope, deadline(60.0, what="it", setting="a.b"):
        scope.cancel()
        await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_the_error_names_the_work_and_the_setting() -> None:
    with (
        pytest.raises(InfrastructureError, match=r"it took longer than the 0 s of a\.b"),
        deadline(0.0, what="it", setting="a.b"),
    ):
        await anyio.sleep_forever()
