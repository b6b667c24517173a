"""Moves: one way of acting at a step, as program text and as its effect on the files.

Owns the model of a workspace that the generator uses to know, without running anything, how a run would end. The
program is what really runs; tests hold the model equal to what the programs do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Row(NamedTuple):
    """One row of a theme's table; `amount` is a whole number of the theme's units."""

    key: str
    group: str
    state: str
    when: str
    amount: int

    def line(self, separator: str = ";") -> str:
        """Return the row as text."""
        return separator.join((*self[:4], str(self.amount)))


Rows = tuple[Row, ...]
Figures = dict[str, str]
# A workspace as the model sees it: a table, a factor or some figures under each path.
Files = dict[str, Rows | int | Figures]
# Changes the files; returns the answer when the move stops the run. Raises one of `STUMBLES` where the program would
# fail, and then has changed nothing.
Effect = Callable[[Files], str | None]
STUMBLES = (KeyError, ValueError, IndexError, ZeroDivisionError)


@dataclass(frozen=True, slots=True)
class Move:
    """One action that somebody may propose: its program, its effect and the reason given for it."""

    code: str
    effect: Effect
    reason: str
    right: bool


@dataclass(frozen=True, slots=True)
class Slot:
    """A step before anybody chose how to take it: right ways (at least two) and wrong ways (perhaps none)."""

    title: str
    aim: str
    rights: tuple[Move, ...]
    wrongs: tuple[Move, ...] = ()


def table(files: Files, path: str) -> Rows:
    """Return the table at a path; raises KeyError where a program would not find one."""
    rows = files[path]
    if not isinstance(rows, tuple):
        raise KeyError(path)
    return rows


def factor(files: Files, path: str) -> int:
    """Return the factor at a path; raises KeyError where a program would not find one."""
    number = files[path]
    if not isinstance(number, int):
        raise KeyError(path)
    return number


def figures(files: Files, path: str) -> Figures:
    """Return the figures at a path; raises KeyError where a program would not find them."""
    found = files[path]
    if not isinstance(found, dict):
        raise KeyError(path)
    return found


def storing(path: str, content: Rows | int | Figures) -> Effect:
    """Return the effect of writing a fixed content."""

    def effect(files: Files) -> None:
        files[path] = content

    return effect


def changing(source: str, target: str, change: Callable[[Rows], Rows]) -> Effect:
    """Return the effect of reading one table and writing another."""

    def effect(files: Files) -> None:
        files[target] = change(table(files, source))

    return effect


def looking(*paths: str) -> Effect:
    """Return the effect of reading the given paths and changing nothing."""

    def effect(files: Files) -> None:
        for path in paths:
            files[path]

    return effect


def play(effects: Iterable[Effect], files: Files) -> str | None:
    """Return the answer of a run over these effects (None: it never stopped); changes `files` as the run would."""
    for effect in effects:
        try:
            answer = effect(files)
        except STUMBLES:
            continue
        if answer is not None:
            return answer
    return None
