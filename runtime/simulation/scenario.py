"""A scenario: one generated task whose critical steps are known, a pure function of (seed, index, shape).

Owns the proof by the model. A plot is only taken when playing it shows what its kind promises: how the policy ends,
that putting a step right alone flips the outcome exactly at the critical steps, and that nothing else the expert
offers does.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from runtime.simulation.chance import Chance
from runtime.simulation.figures import has_ties, report
from runtime.simulation.moves import Effect, Files, Move, play, storing, table
from runtime.simulation.plot import Beat, Plot, Shape, draw_plot
from runtime.simulation.tasks import Kind, Role, ScenarioTask, Step, reworded

if TYPE_CHECKING:
    from collections.abc import Sequence

# The kinds come in rounds, each in its own order, so that small worlds have every kind too.
ROUND: tuple[Kind, ...] = (
    *(Kind.SOLVED,) * 2,
    *(Kind.SINGLE,) * 3,
    *(Kind.DOUBLE,) * 2,
    *(Kind.HERRING,) * 2,
    *(Kind.OVERWRITTEN,) * 2,
    Kind.HOPELESS,
)
MOST_TASKS = 100_000
_ATTEMPTS = 400


def kind_of(seed: int, index: int) -> Kind:
    """Return the kind of a world's scenario."""
    number, place = divmod(index, len(ROUND))
    return Chance(seed, "round", number).shuffled(ROUND)[place]


def number_of(seed: int, index: int) -> str:
    """Return the number in a scenario's reference, which no other scenario of the world has."""
    offset = Chance(seed, "numbers").below(10_000)
    if index < 10_000:
        return f"{(index * 7919 + offset) % 10_000:04d}"
    return f"{((index - 10_000) * 7919 + offset) % 90_000 + 10_000}"


@lru_cache(maxsize=4096)
def build(seed: int, index: int, shape: Shape) -> ScenarioTask:
    """Build a scenario; the first drawn plot that shows what its kind is for is taken."""
    kind = kind_of(seed, index)
    for attempt in range(_ATTEMPTS):
        chance = Chance(seed, "scenario", index, attempt)
        plot = draw_plot(chance, number_of(seed, index), kind, shape)
        task = _task(chance, index, kind, plot)
        if task is not None:
            return task
    raise RuntimeError(f"no scenario of kind {kind} found for seed {seed}, index {index}")


def _task(chance: Chance, index: int, kind: Kind, plot: Plot) -> ScenarioTask | None:
    """Return the plot as a task, or None where it does not show what its kind is for."""
    answer = _true_answer(plot)
    if answer is None:
        return None
    steps = tuple(_step(chance, beat) for beat in plot.beats)
    start: Files = dict(plot.source.tables)
    critical = _critical(steps, start, answer)
    expected = {place for place, step in enumerate(steps) if step.role is Role.DECISIVE}
    if kind in (Kind.SOLVED, Kind.DOUBLE, Kind.HOPELESS):
        expected = set()
    if critical != expected or (_ends_well(steps, start, answer) is not (kind is Kind.SOLVED)):
        return None
    if kind is Kind.OVERWRITTEN and _survives_unrestored(steps, start, answer, critical):
        return None
    reference = plot.idiom.reference
    return ScenarioTask(
        index=index,
        name=reference.replace(" ", "-"),
        reference=reference,
        question=_question(chance, plot),
        answer=answer,
        kind=kind,
        steps=steps,
        critical=frozenset(critical),
        files=plot.source.files,
        start=start,
        hits=(*plot.source.hits, *(plot.lookup.hits if plot.lookup else ())),
        replies=plot.lookup.replies if plot.lookup else {},
        guess=_guess(chance, plot, answer),
        endless=plot.ending == "endless",
        idiom=plot.idiom,
    )


def _question(chance: Chance, plot: Plot) -> str:
    """Return the task's text; what it asks for comes last."""
    theme = plot.idiom.theme
    place = chance.pick(theme.places)
    reference = plot.idiom.reference
    opening = chance.pick((f"{reference[0].upper()}{reference[1:]} of {place}", f"The {reference} kept by {place}"))
    rules = " ".join(chance.shuffled(plot.clauses))
    factor = plot.lookup.clause if plot.lookup else ""
    closing = "Reply with the number only." if plot.figure.numeric else "Reply with names only."
    return f"{opening} {plot.source.clause}{rules} {factor}{plot.figure.question} {closing}".replace("  ", " ")


def _true_answer(plot: Plot) -> str | None:
    """Return the gold answer: all rows, every step right; None where it would be open to doubt."""
    files: Files = {}
    effects: list[Effect] = [storing(plot.table_path, plot.true_rows)]
    effects += [beat.slot.rights[0].effect for beat in plot.beats if beat.part not in ("gather", "errand", "tidy")]
    effects.append(report(plot.idiom, plot.figure, 0).rights[0].effect)
    answer = play(effects, files)
    source = next(beat.source for beat in plot.beats if beat.part == "figure")
    left = table(files, source)
    if answer is None or len(left) < 2 or (plot.figure.name in ("top", "ranking") and has_ties(left)):
        return None
    return answer


def _guess(chance: Chance, plot: Plot, answer: str) -> str:
    """Return a wrong answer of the right form."""
    if plot.figure.numeric:
        return str(int(answer) + chance.between(1, 60))
    first, *_ = answer.split(", ")
    others = [name for name in plot.idiom.theme.groups if name != first]
    return chance.pick(others)


def _step(chance: Chance, beat: Beat) -> Step:
    """Return the step with the policy's action and 3 to 5 options of the expert in a drawn order."""
    first, second = beat.slot.rights
    policy = first if beat.mistake is None else beat.slot.wrongs[beat.mistake]
    other_wrongs = [move for move in beat.slot.wrongs if move is not policy]
    if beat.mistake is None:
        must, may = second, [policy, reworded(policy), *other_wrongs[:1], reworded(second)]
    else:
        must, may = first, [second, policy, reworded(first), *other_wrongs[:1]]
    chosen = chance.shuffled(may)[: chance.between(2, 4)]
    return Step(beat.slot.title, beat.slot.aim, beat.role, policy, tuple(chance.shuffled([must, *chosen])))


def _ends_well(steps: Sequence[Step], start: Files, answer: str) -> bool:
    return play([step.policy.effect for step in steps], dict(start)) == answer


def _critical(steps: Sequence[Step], start: Files, answer: str) -> set[int] | None:
    """Return the steps that flip the outcome; None where right and wrong options do not differ as they should."""
    effects = [step.policy.effect for step in steps]
    if play(effects, dict(start)) == answer:
        return set()
    critical: set[int] = set()
    files = dict(start)
    for place, step in enumerate(steps):
        flips = {
            option.right: play([option.effect, *effects[place + 1 :]], dict(files)) == answer
            for option in _others(step)
        }
        if flips.get(True):
            critical.add(place)
        if flips.get(False):
            return None
        play([_silent(effects[place])], files)
    return critical


def _others(step: Step) -> list[Move]:
    return [option for option in step.options if option.effect is not step.policy.effect]


def _silent(effect: Effect) -> Effect:
    def without_answer(files: Files) -> None:
        effect(files)

    return without_answer


def _survives_unrestored(steps: Sequence[Step], start: Files, answer: str, critical: set[int]) -> bool:
    """Tell whether a branch would succeed in the workspace as the policy left it at the end."""
    files = dict(start)
    effects = [step.policy.effect for step in steps]
    play(effects, files)
    return any(play([steps[place].best.effect, *effects[place + 1 :]], dict(files)) == answer for place in critical)
