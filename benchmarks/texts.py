"""Texts for the benchmarks in the shape of what models write: English of Python's manual, and code of its library.

Real texts, because how well they compress decides what a trajectory takes on disk: in pieces of 1.5 KB these shrink
to about a half. Pieces begin anywhere, so that hardly any two are alike.
"""

from __future__ import annotations

import calendar
import difflib
import heapq
import inspect
import random
import statistics
import textwrap
from functools import cache
from pydoc_data.topics import topics
from types import FunctionType, ModuleType

_MODULES: tuple[ModuleType, ...] = (calendar, difflib, heapq, random, statistics, textwrap)


class Texts:
    """An endless source of texts; the same seed gives the same ones."""

    def __init__(self, seed: int | str) -> None:
        self._random = random.Random(seed)  # noqa: S311 - texts, not secrets

    def prose(self, characters: int) -> str:
        """So many characters of English, one number among them."""
        text = _prose()
        begin = self._random.randrange(len(text) - characters)
        return f"{self._random.randrange(10**6)} {text[begin : begin + characters]}"[:characters]

    def code(self, characters: int) -> str:
        """A program of at most so many characters that defines functions and prints a number."""
        text = f"print({self._random.randrange(10**9)})\n"
        while fitting := [source for source in _functions() if len(source) <= characters - len(text)]:
            text += self._random.choice(fitting)
        return text.rstrip("\n")

    def phrases(self, characters: int) -> list[str]:
        """Items of a progress state, of about so many characters in all."""
        found: list[str] = []
        while sum(map(len, found)) < characters:
            found.append(self.prose(self._random.randint(40, 110)))
        return found


@cache
def _prose() -> str:
    return " ".join(" ".join(topics.values()).split())


@cache
def _functions() -> tuple[str, ...]:
    """Sources of functions that can be defined anywhere."""
    found = []
    for module in _MODULES:
        for member in vars(module).values():
            if isinstance(member, FunctionType) and member.__module__ == module.__name__:
                source = inspect.getsource(member)
                if source.startswith("def ") and not member.__defaults__ and not member.__annotations__:
                    found.append(source)
    return tuple(found)
