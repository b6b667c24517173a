"""The wording of the stand-ins' replies: seeded, so that replies vary as those of models do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.simulation.chance import Chance

_POLICY_OPENINGS = (
    "Next I {aim}.",
    "The plan says to {aim}.",
    "It is time to {aim}.",
    "Now I {aim}.",
    "First things first: {aim}.",
    "To get further I {aim}.",
)
_EXPERT_OPENINGS = (
    "What the task needs at this point is to {aim}.",
    "Before going further it pays to {aim}.",
    "The sensible move here is to {aim}.",
    "Going by the progress state, I should {aim}.",
)
_POLICY_CLOSINGS = (
    "The printed line will show whether it worked.",
    "After this the next item on the list can follow.",
    "I print a short line so that the result can be checked.",
    "That should not take more than a few lines of code.",
    "If the output looks odd I can come back to it.",
    "",
)
_EXPERT_CLOSINGS = (
    "The print at the end lets the next step confirm it.",
    "Nothing else is touched, so later steps can rely on it.",
    "I keep the file names as planned.",
    "This follows the wording of the task closely.",
)
_MUSINGS = (
    "Let me see. The task gives clear conditions, and the files are where the plan says. One thing at a time.",
    "Okay. What is known so far: see the progress state. What is missing: the next item. Short code is best.",
    "Hmm, I could do several steps at once, but then a mistake would be hard to find. One step, then look.",
)
_GOOD_MARKS = (
    "The code does what the plan asks for and uses the columns as they are.",
    "It follows the conditions of the task and leaves a file that the next step can use.",
    "The step is needed, and the code reads and writes the right files.",
)
_BAD_MARKS = (
    "The code does not carry out the condition that the task states.",
    "The reason given does not fit the task, and the result would be off.",
    "A condition of the task is passed over here; later steps would build on a wrong table.",
)
_FAIR_MARKS = (
    "A reasonable step, though it moves the task on only a little.",
    "Nothing wrong with it; it is plain housekeeping.",
    "It runs and is in line with the plan.",
)
_UNSURE_MARKS = (
    "It is hard to tell from here whether this helps.",
    "The candidate departs from what the plan would suggest; it may or may not work.",
)
_ASPECTS = (
    "Relevance: it addresses the first item of the to-do list.",
    "Robustness: it fails loudly if a file is missing.",
    "Use of information: it takes up what earlier observations showed.",
    "Format: thought and code are both present.",
)
_ADVICE = (
    "Read the conditions twice, and check whether both ends of a range are meant.",
    "Keep the original figures until the end and only then add up.",
    "As a rule, what is marked as not counting stays in the list but out of the sums.",
    "Nothing unusual comes to mind; a look at the first lines is always worth it.",
)


def sentence(text: str) -> str:
    """Return a clause as a sentence."""
    return text[:1].upper() + text[1:] + "."


def policy_thought(draws: Chance, aim: str, reason: str) -> str:
    """Return the policy's thought before an action."""
    opening = draws.pick(_POLICY_OPENINGS).format(aim=aim)
    return " ".join(filter(None, (opening, sentence(reason), draws.pick(_POLICY_CLOSINGS))))


def expert_thought(draws: Chance, aim: str, reason: str) -> str:
    """Return the expert's thought before an action."""
    opening = draws.pick(_EXPERT_OPENINGS).format(aim=aim)
    return " ".join((opening, sentence(reason), draws.pick(_EXPERT_CLOSINGS)))


def musing(draws: Chance) -> str:
    """Return a block of thinking that stands before a reply."""
    return f"<think>\n{draws.pick(_MUSINGS)}\n</think>\n\n"


def marks(draws: Chance, score: float, *, known: bool) -> str:
    """Return the PRM's reasons for a score."""
    if not known:
        bank: tuple[str, ...] = _UNSURE_MARKS
    elif score < 0.5:
        bank = _BAD_MARKS
    else:
        bank = _GOOD_MARKS if score > 0.68 else _FAIR_MARKS
    aspects = draws.shuffled(_ASPECTS)[: draws.between(1, 2)]
    return "\n".join([draws.pick(bank), *(f"- {aspect}" for aspect in aspects)])


def advice(draws: Chance) -> str:
    """Return an answer to a question that asks for nothing in particular."""
    return draws.pick(_ADVICE)
