"""Exact match by the rules of GAIA's scorer: the reference answer decides how the two are compared.

- A number: the answer without `$`, `%` and `,` must be the same float. "3 km" is no number.
- A list (a comma or a semicolon in it): the same number of items in the same order; items that are numbers compare
  as numbers, others as text without whitespace and case, punctuation kept.
- Anything else: text without whitespace, ASCII punctuation and case.

Three holes of the published scorer are closed, each of which takes a wrong answer for a right one: only finite
decimal numbers are numbers (there, "inf" equals whatever is no number); an empty answer is never right; a reference
answer of punctuation alone is compared with it.
"""

from __future__ import annotations

import math
import re
import string

_SEPARATORS = re.compile(r"[,;]")
_NUMBER_MARKS = str.maketrans("", "", "$%,")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(answer: str | None, gold: str | None) -> bool:
    """Whether the answer is the reference answer; None, for no answer at all, reads as the text "None"."""
    answer, gold = str(answer), str(gold)
    if not answer.strip():
        return False
    number = _number(gold)
    if number is not None:
        return _is_number(answer, number)
    if _SEPARATORS.search(gold):
        golds, answers = _SEPARATORS.split(gold), _SEPARATORS.split(answer)
        return len(golds) == len(answers) and all(map(_same_item, answers, golds))
    gold_words = _bare(gold).translate(_PUNCTUATION)
    if not gold_words:
        return _bare(answer) == _bare(gold)
    return _bare(answer).translate(_PUNCTUATION) == gold_words


def _same_item(answer: str, gold: str) -> bool:
    number = _number(gold)
    return _bare(answer) == _bare(gold) if number is None else _is_number(answer, number)


def _is_number(answer: str, number: float) -> bool:
    return _number(answer.translate(_NUMBER_MARKS)) == number


def _number(text: str) -> float | None:
    """The finite number that the text spells, None when it spells none; digits of any script count, `_` does not."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def _bare(text: str) -> str:
    """The text without whitespace and case."""
    return "".join(text.split()).lower()
