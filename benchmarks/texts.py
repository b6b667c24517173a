"""Texts for the benchmarks in the shape of what models write: prose and code from a seeded model of words.

Words are drawn by Zipf's law out of a fixed vocabulary, and each text keeps to a few words of its own topic, as real
ones do. In pieces of 1.5 KB they compress by as much as manuals and Python's standard library do: 1.9 and 2.2.
"""

from __future__ import annotations

import random
from itertools import accumulate

_COMMON = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "a",
    "is",
    "that",
    "for",
    "it",
    "as",
    "was",
    "with",
    "be",
    "by",
    "on",
    "not",
    "he",
    "this",
    "are",
    "or",
    "his",
    "from",
    "at",
    "which",
    "but",
    "have",
    "an",
    "had",
    "they",
    "you",
    "were",
    "their",
    "one",
    "all",
    "we",
    "can",
    "her",
    "has",
    "there",
    "been",
    "if",
    "more",
    "when",
    "will",
    "would",
    "who",
    "so",
    "no",
    "said",
    "what",
    "up",
    "its",
    "about",
    "into",
    "than",
    "them",
    "only",
    "other",
    "time",
    "new",
    "some",
    "could",
    "these",
    "two",
    "may",
    "first",
    "then",
    "do",
    "any",
    "like",
    "my",
    "now",
    "over",
    "such",
    "our",
    "me",
    "even",
    "most",
    "made",
    "after",
    "also",
    "did",
    "many",
    "off",
    "before",
    "must",
    "through",
    "back",
    "where",
    "much",
    "your",
    "way",
    "down",
    "should",
    "because",
    "long",
    "each",
    "just",
    "state",
    "people",
    "those",
    "how",
    "too",
    "good",
    "make",
    "very",
    "world",
    "still",
    "see",
    "own",
    "work",
    "here",
    "get",
    "both",
    "between",
    "being",
    "under",
    "never",
    "know",
    "same",
    "another",
    "while",
    "last",
    "might",
    "great",
    "year",
    "since",
    "against",
    "right",
    "came",
    "take",
    "used",
    "himself",
    "few",
    "house",
    "use",
    "place",
    "during",
    "without",
    "again",
    "however",
    "small",
    "around",
    "found",
    "value",
    "table",
    "file",
    "column",
    "row",
    "result",
    "total",
    "number",
    "answer",
    "date",
    "page",
    "count",
    "check",
    "find",
    "read",
    "list",
    "next",
    "step",
    "data",
    "search",
    "sum",
    "mean",
    "list",
    "entry",
    "record",
    "source",
    "error",
    "missing",
    "second",
    "third",
]
_SYLLABLES = [
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ha",
    "ke",
    "li",
    "mo",
    "nu",
    "pa",
    "re",
    "si",
    "to",
    "vu",
    "wa",
    "ye",
    "zo",
    "bra",
    "cle",
    "dri",
    "flo",
    "gra",
    "pre",
    "sta",
    "tri",
    "ter",
    "ing",
    "con",
    "al",
]
_NAMES = [
    "data",
    "rows",
    "result",
    "table",
    "value",
    "total",
    "count",
    "index",
    "items",
    "path",
    "text",
    "line",
    "key",
    "name",
    "page",
    "match",
    "found",
    "best",
]
_CALLS = [
    "open",
    "read",
    "split",
    "strip",
    "append",
    "sorted",
    "len",
    "sum",
    "max",
    "min",
    "print",
    "join",
    "get",
    "items",
    "load",
    "parse",
    "find",
    "replace",
]
_ON_TOPIC = 0.3


class Texts:
    """An endless source of texts; the same seed gives the same ones."""

    def __init__(self, seed: int | str) -> None:
        self._random = random.Random(seed)  # noqa: S311 - texts, not secrets
        rare = random.Random(1)  # noqa: S311 - as above
        made = {"".join(rare.choices(_SYLLABLES, k=rare.choice((2, 3, 3, 4)))) for _ in range(6000)}
        self._words = [*_COMMON, *sorted(made)]
        self._weights = list(accumulate(1 / (rank + 3) for rank in range(len(self._words))))

    def prose(self, characters: int) -> str:
        """Sentences of about so many characters."""
        sentences: list[str] = []
        topic = self._topic(16)
        length = 0
        while length < characters:
            words = self._random.choices(self._words, cum_weights=self._weights, k=self._random.randint(6, 18))
            words = [self._random.choice(topic) if self._random.random() < _ON_TOPIC else word for word in words]
            if self._random.random() < 0.3:
                words.insert(self._random.randint(1, len(words)), str(self._random.randint(2, 99_999)))
            sentences.append(" ".join(words).capitalize() + ".")
            length += len(sentences[-1]) + 1
        return " ".join(sentences)[:characters]

    def code(self, characters: int) -> str:
        """Lines in the shape of Python, of about so many characters."""
        lines: list[str] = []
        topic = self._topic(8)
        length = 0
        while length < characters:
            lines.append(self._line(topic))
            length += len(lines[-1]) + 1
        return "\n".join(lines)[:characters]

    def phrases(self, characters: int) -> list[str]:
        """Items of a progress state, of about so many characters in all."""
        found: list[str] = []
        while sum(map(len, found)) < characters:
            found.append(self.prose(self._random.randint(40, 110)))
        return found

    def _topic(self, words: int) -> list[str]:
        return self._random.choices(self._words, cum_weights=self._weights, k=words)

    def _line(self, topic: list[str]) -> str:
        pick = self._random.choice
        name, other, word = pick(_NAMES[:8]), pick(_NAMES), pick(topic)
        match self._random.randint(0, 6):
            case 0:
                return f"for {name} in {other}.{pick(_CALLS)}({word!r}):"
            case 1:
                return f"    {name}_{word} = {pick(_CALLS)}({other}[{self._random.randint(0, 999)}:])"
            case 2:
                return f"    if {name}_{word} > {self._random.randint(0, 9999)}:"
            case 3:
                return f"        {name}.append({other}.{pick(_CALLS)}({word!r}, {pick(topic)!r}))"
            case 4:
                return "# " + " ".join([word, *self._topic(6)])
            case 5:
                return f"print('the {word} of {other}', {name}_{word})"
            case _:
                return f"{name} = {pick(_CALLS)}({other}_{word}, key=lambda {name[0]}: {name[0]}[{word!r}])"
