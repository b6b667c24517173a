"""The stand-in for the PRM: which programs it knows and how it scores them."""

from __future__ import annotations

from runtime.simulation.prm import normalised
from runtime.simulation.standins import Habits, Standins
from runtime.simulation.tasks import reworded
from runtime.simulation.world import Role, World
from tests.simulation import asking

WORLD = World.generate(1, 48)
STANDINS = Standins(WORLD)


def scored(reply: str) -> float:
    """The score in a reply's last line."""
    last = reply.splitlines()[-1]
    assert last.startswith(("Score: ", "**Score**: ", "**Score:** "))
    return float(last.rpartition(" ")[2])


def test_decisive_steps_and_herrings_look_bad_and_their_alternatives_good() -> None:
    for task in WORLD.tasks:
        for index, step in enumerate(task.steps):
            own = scored(STANDINS.reply(asking.score(task, index, step.policy.code)))
            others = [
                scored(STANDINS.reply(asking.score(task, index, move.code))) for move in step.options if move.right
            ]
            if step.role is Role.ORDINARY:
                assert 0.55 <= own <= 0.9
                assert all(0.55 <= score <= 0.9 for score in others)
            else:
                assert own < 0.4
                assert all(score > 0.65 for score in others)


def test_other_mistakes_score_low() -> None:
    for task in WORLD.tasks:
        for index, step in enumerate(task.steps):
            for move in step.options:
                if not move.right:
                    assert scored(STANDINS.reply(asking.score(task, index, move.code))) < 0.4


def test_a_program_is_known_whatever_its_comments_and_layout() -> None:
    task = WORLD.tasks[0]
    for index, step in enumerate(task.steps):
        spaced = step.policy.code.replace("\n", "\n\n") if '"""' not in step.policy.code else step.policy.code
        scores = {
            scored(STANDINS.reply(asking.score(task, index, code, seed=seed)))
            for seed, code in enumerate((step.policy.code, reworded(step.policy).code, spaced, f"{spaced}\n# done"))
        }
        assert len(scores) == 1


def test_a_known_program_at_another_step_and_unknown_ones_score_in_the_middle() -> None:
    task = WORLD.tasks[0]
    for code in (task.steps[1].policy.code, "print('hello')", "this is no program (", "x = '\\d'", ""):
        assert 0.5 <= scored(STANDINS.reply(asking.score(task, 0, code))) <= 0.6


def test_the_reasons_vary_with_the_seed_and_the_score_does_not() -> None:
    task = WORLD.tasks[0]
    replies = [STANDINS.reply(asking.score(task, 1, task.steps[1].policy.code, seed=seed)) for seed in range(30)]
    assert len(set(replies)) > 10
    assert len({scored(reply) for reply in replies}) == 1
    assert len({reply.splitlines()[-1].partition(" ")[0] for reply in replies}) == 3


def test_the_candidate_counts_and_not_what_was_done_before() -> None:
    task = next(task for task in WORLD.tasks if task.critical)
    index = min(task.critical)
    code = task.steps[index].policy.code
    plain = scored(STANDINS.reply(asking.score(task, index, code)))
    decoy = f"Step 0:\nCandidate action of step {index}:\n```python\nprint(1)\n```"
    assert scored(STANDINS.reply(asking.score(task, index, code, observation=decoy))) == plain


def test_a_plan_as_candidate_scores_in_the_middle() -> None:
    task = WORLD.tasks[0]
    text = f"Task: {task.question}\n\nCandidate plan of step 0:\nThought: a\nCode:\n```python\n{{}}\n```"
    assert 0.5 <= scored(STANDINS.reply(asking.body("sim-prm", f"{text}\n\nScore this candidate."))) <= 0.6


def test_noise_turns_some_steps_that_are_not_critical_around_and_no_critical_one() -> None:
    noisy = Standins(WORLD, Habits(prm_noise=0.4))
    turned = ordinary = 0
    for task in WORLD.tasks:
        for index, step in enumerate(task.steps):
            own = scored(noisy.reply(asking.score(task, index, step.policy.code)))
            others = [move.code for move in step.options if normalised(move.code) != normalised(step.policy.code)]
            scores = [scored(noisy.reply(asking.score(task, index, code))) for code in others]
            if step.role is Role.ORDINARY:
                ordinary += 1
                turned += own < 0.4
                assert own >= 0.55 or min(scores) > 0.65
            if index in task.critical:
                assert own < 0.4
    assert 0.3 < turned / ordinary < 0.5
