"""What is done to a table between getting it and adding it up: the steps that a run can get right or wrong.

Owns the operations on rows. Each returns a slot whose right moves all keep the same rows; its wrong moves are
mistakes that a model would make for a reason. Whether a mistake matters depends on the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.simulation.idiom import program, reading, telling, writing
from runtime.simulation.moves import Effect, Files, Move, Rows, Slot, changing, factor, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.simulation.idiom import Idiom

FACTOR_PATH = "factor.txt"


@dataclass(frozen=True, slots=True)
class Passage:
    """Where an operation reads its table and where it writes it; the same path means in place."""

    idiom: Idiom
    source: str
    target: str
    style: int

    def move(
        self, lines: list[str], change: Callable[[Rows], Rows], reason: str, *, right: bool, other: bool = False
    ) -> Move:
        """Return the move that reads, changes and writes the rows; `other` takes the other style."""
        return self.effected(lines, changing(self.source, self.target, change), reason, right=right, other=other)

    def effected(self, lines: list[str], effect: Effect, reason: str, *, right: bool, other: bool) -> Move:
        """Return the move with an effect that is more than a change of rows."""
        style = 1 - self.style if other else self.style
        code = program(
            [
                *reading(self.idiom, self.source, style),
                *lines,
                *writing(self.idiom, self.target, style),
                *telling(self.idiom, self.target, style),
            ]
        )
        return Move(code, effect, reason, right)


def _as_it_is(rows: Rows) -> Rows:
    return rows


def _sorted_only(passage: Passage, reason: str) -> Move:
    """The mistake of merely putting the rows in order where some should go."""
    names = passage.idiom
    lines = [f"{names.rows}.sort(key=lambda {names.row}: {names.cell(names.theme.columns.when)})"]
    return passage.move(lines, lambda rows: tuple(sorted(rows, key=lambda row: row.when)), reason, right=False)


def keep_state(passage: Passage) -> Slot:
    """Drop the rows in the theme's bad state."""
    names, theme = passage.idiom, passage.idiom.theme
    state = names.cell(theme.columns.state)

    def kept(rows: Rows) -> Rows:
        return tuple(row for row in rows if row.state != theme.bad)

    def dropped(rows: Rows) -> Rows:
        return tuple(row for row in rows if row.state == theme.bad)

    def selecting(test: str) -> list[str]:
        return [f"{names.rows} = [{names.row} for {names.row} in {names.rows} if {test}]"]

    different = f'{state} != "{theme.bad}"'
    shouted = f'{state} != "{theme.bad.upper()}"'
    reason = f"{theme.bad} {theme.items} do not count by the task, so only {theme.good} ones may stay"
    return Slot(
        title=f"Sort out the {theme.bad} {theme.items}",
        aim=f"deal with the {theme.bad} {theme.items}",
        rights=(
            passage.move(selecting(different), kept, reason, right=True),
            passage.move(
                selecting(f'{state}.strip() == "{theme.good}"'),
                kept,
                f'the column "{theme.columns.state}" tells which count: those marked {theme.good}',
                right=True,
                other=True,
            ),
        ),
        wrongs=(
            passage.move(selecting(shouted), _as_it_is, f"the mark to look for is {theme.bad.upper()}", right=False),
            _sorted_only(
                passage,
                f'the column "{theme.columns.state}" looks informational, so ordering the {theme.items} will do',
            ),
            passage.move(
                selecting(f'{state} == "{theme.bad}"'),
                dropped,
                f"the {theme.bad} {theme.items} are the ones that the task is about",
                right=False,
                other=True,
            ),
        ),
    )


def drop_repeats(passage: Passage) -> Slot:
    """Keep each row once, by its key."""
    names, theme = passage.idiom, passage.idiom.theme
    key, group = names.cell(theme.columns.key), names.cell(theme.columns.group)

    def unique(rows: Rows) -> Rows:
        return tuple({row.key: row for row in rows}.values())

    def one_each(rows: Rows) -> Rows:
        found: dict[str, object] = {}
        return tuple(row for row in rows if row.group not in found and not found.update({row.group: 1}))

    def first_of(cell: str) -> list[str]:
        return [
            "seen = set()",
            "unique = []",
            f"for {names.row} in {names.rows}:",
            f"    if {cell} not in seen:",
            f"        seen.add({cell})",
            f"        unique.append({names.row})",
            f"{names.rows} = unique",
        ]

    by_key = f"{names.rows} = list({{{key}: {names.row} for {names.row} in {names.rows}}}.values())"
    return Slot(
        title=f"Check for {theme.items} listed twice",
        aim=f"see to {theme.items} that are listed twice",
        rights=(
            passage.move(
                first_of(key),
                unique,
                f'the column "{theme.columns.key}" is what makes two {theme.items} the same',
                right=True,
            ),
            passage.move(
                [by_key],
                unique,
                f"keyed by {theme.columns.key}, each {theme.item} can only stay once",
                right=True,
                other=True,
            ),
        ),
        wrongs=(
            _sorted_only(passage, f"once the {theme.items} are in order, repeats would be easy to see"),
            passage.move(
                first_of(group),
                one_each,
                f"two {theme.items} of one {theme.columns.group} are the same thing",
                right=False,
            ),
        ),
    )


def keep_window(passage: Passage, first: str, last: str) -> Slot:
    """Keep the rows from `first` to `last`, both included."""
    names, theme = passage.idiom, passage.idiom.theme
    when = names.cell(theme.columns.when)

    def selecting(test: str) -> list[str]:
        return [f"{names.rows} = [{names.row} for {names.row} in {names.rows} if {test}]"]

    def between(rows: Rows) -> Rows:
        return tuple(row for row in rows if first <= row.when <= last)

    def before_last(rows: Rows) -> Rows:
        return tuple(row for row in rows if first <= row.when < last)

    def after_first(rows: Rows) -> Rows:
        return tuple(row for row in rows if row.when > first)

    reason = f"{first} and {last} are both part of the window"
    return Slot(
        title=f"Limit the {theme.items} to the window asked for",
        aim=f"limit the {theme.items} to the window from {first} to {last}",
        rights=(
            passage.move(selecting(f'"{first}" <= {when} <= "{last}"'), between, reason, right=True),
            passage.move(
                selecting(f'not ({when} < "{first}" or {when} > "{last}")'),
                between,
                "only what lies strictly outside goes, the ends stay",
                right=True,
                other=True,
            ),
        ),
        wrongs=(
            passage.move(
                selecting(f'"{first}" <= {when} < "{last}"'),
                before_last,
                f"the window is half open, it stops at {last}",
                right=False,
            ),
            _sorted_only(passage, f"in order of {theme.columns.when} the window can be read off later"),
            passage.move(
                selecting(f'{when} > "{first}"'), after_first, f"what came after {first} is meant", right=False
            ),
        ),
    )


def keep_group(passage: Passage, group: str, neighbour: str) -> Slot:
    """Keep the rows of one group; `neighbour` is the group that a mistake keeps instead."""
    names, theme = passage.idiom, passage.idiom.theme
    cell = names.cell(theme.columns.group)

    def selecting(test: str) -> list[str]:
        return [f"{names.rows} = [{names.row} for {names.row} in {names.rows} if {test}]"]

    def of(name: str) -> Callable[[Rows], Rows]:
        return lambda rows: tuple(row for row in rows if row.group == name)

    def not_of(rows: Rows) -> Rows:
        return tuple(row for row in rows if row.group != group)

    return Slot(
        title=f"Pick the {theme.items} of {theme.columns.group} {group}",
        aim=f"pick the {theme.items} that belong to {theme.columns.group} {group}",
        rights=(
            passage.move(
                selecting(f'{cell} == "{group}"'), of(group), f"the task asks about {group} alone", right=True
            ),
            passage.move(
                selecting(f'{cell}.strip().lower() == "{group.lower()}"'),
                of(group),
                f"comparing in lower case finds every {group} whatever the spelling",
                right=True,
                other=True,
            ),
        ),
        wrongs=(
            passage.move(
                selecting(f'{cell} == "{neighbour}"'),
                of(neighbour),
                f"{neighbour} is the {theme.columns.group} that the task has in mind",
                right=False,
            ),
            passage.move(selecting(f'{cell} != "{group}"'), not_of, f"{group} is the one to leave out", right=False),
            _sorted_only(passage, f"each {theme.columns.group} can still be told apart once all is in order"),
        ),
    )


def convert(passage: Passage) -> Slot:
    """Multiply each amount by the factor that an earlier step wrote down."""
    names, theme = passage.idiom, passage.idiom.theme
    cell, column = names.cell(theme.columns.amount), theme.columns.amount

    def effect_of(change: Callable[[int, int], int]) -> Effect:
        def effect(files: Files) -> None:
            rows, number = table(files, passage.source), factor(files, FACTOR_PATH)
            files[passage.target] = tuple(row._replace(amount=change(row.amount, number)) for row in rows)

        return effect

    def in_place(operator: str) -> list[str]:
        return [
            f'factor = int(Path("{FACTOR_PATH}").read_text())',
            f"for {names.row} in {names.rows}:",
            f"    {cell} = {names.amount} {operator} factor",
        ]

    anew = [
        f'with open("{FACTOR_PATH}") as source:',
        "    factor = int(source.read().strip())",
        f'{names.rows} = [{{**{names.row}, "{column}": {names.amount} * factor}} for {names.row} in {names.rows}]',
    ]
    times = effect_of(lambda amount, number: amount * number)
    reason = f"each {theme.unit} is worth that many {theme.other}, so the amounts are multiplied"
    return Slot(
        title=f"Convert the {theme.units} to {theme.other}",
        aim=f"turn the {theme.units} into {theme.other} with the factor on file",
        rights=(
            passage.effected(in_place("*"), times, reason, right=True, other=False),
            passage.effected(anew, times, f"one {theme.unit} makes several {theme.other}", right=True, other=True),
        ),
        wrongs=(
            passage.effected(
                in_place("//"),
                effect_of(lambda amount, number: amount // number),
                f"going over to {theme.other} means dividing by the factor",
                right=False,
                other=False,
            ),
            passage.effected(
                in_place("+"),
                effect_of(lambda amount, number: amount + number),
                "the factor comes on top of each amount",
                right=False,
                other=False,
            ),
        ),
    )
