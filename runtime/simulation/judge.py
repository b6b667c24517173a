"""The stand-in for the judge: yes when the answer given is the reference answer after sensible normalisation."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.simulation.inquiry import Inquiry

_REFERENCE = "Reference answer:\n"
_GIVEN = "\n\nAnswer given:\n"
_CLOSING = "\n\nGive your verdict."
_NUMBER = re.compile(r"[$€£]?\s*([+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?)\.?\s*%?")
_LOOSE = re.compile(r"[^\w]+")


def judge_reply(inquiry: Inquiry) -> str:
    """Return reasons and the verdict on the answer that the last message holds."""
    start = inquiry.last.find(_REFERENCE)
    reference, _, rest = inquiry.last[start + len(_REFERENCE) :].partition(_GIVEN)
    # The answer may stand between tags, which keep what a policy wrote apart from the rest of the prompt.
    given = rest.removesuffix(_CLOSING).removeprefix("<answer>\n").removesuffix("\n</answer>")
    if start >= 0 and is_same_answer(given, reference):
        return "The answer given says the same as the reference answer.\nVerdict: yes"
    return "The answer given differs from the reference answer.\nVerdict: no"


def is_same_answer(given: str, reference: str) -> bool:
    """Compare two answers: numbers by value, lists item by item, all else without case and punctuation."""
    number, wanted = _number(given), _number(reference)
    if wanted is not None:
        return number is not None and math.isclose(number, wanted, rel_tol=1e-9, abs_tol=1e-9)
    if "," in reference or ";" in reference:
        parts, wanted_parts = re.split(r"[,;]", given), re.split(r"[,;]", reference)
        return len(parts) == len(wanted_parts) and all(map(is_same_answer, parts, wanted_parts))
    return _loose(given) == _loose(reference) != ""


def _number(text: str) -> float | None:
    """The number that a text is, without units of money, percent signs and thousands separators."""
    found = _NUMBER.fullmatch(text.strip())
    try:
        return float(found[1].replace(",", "")) if found else None
    except ValueError:
        return None


def _loose(text: str) -> str:
    return _LOOSE.sub("", text).casefold()
