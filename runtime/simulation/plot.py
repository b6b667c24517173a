"""The plot of a scenario: which steps it has in which order, which rows, and which steps the policy gets wrong.

Owns the draws. `scenario` turns a plot into a task and refuses the ones that do not show what their kind is for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from runtime.simulation import errands, operations
from runtime.simulation.figures import Figure, count, largest, ranking, report, top, total, work_out
from runtime.simulation.idiom import FORMATS, ROW_NAMES, Idiom
from runtime.simulation.moves import Row, Rows, Slot
from runtime.simulation.operations import Passage
from runtime.simulation.sources import Lookup, Source, from_file, from_question, from_search, look_up, make_rows
from runtime.simulation.tasks import Kind, Role
from runtime.simulation.themes import THEMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.simulation.chance import Chance

Ending = Literal["reported", "endless"]
HARMLESS: dict[str, int] = {"state": 2, "repeats": 1, "window": 3}  # how many of the wrong moves need rows to bite


@dataclass(frozen=True, slots=True)
class Shape:
    """What all scenarios of a world have in common: numbers of steps, and whether some come with a file."""

    shortest: int = 4
    longest: int = 9
    attachments: bool = True

    def __post_init__(self) -> None:
        """Raise ValueError for lengths that no scenario can have."""
        if not 4 <= self.shortest <= self.longest <= 40:
            raise ValueError("a scenario has 4 to 40 steps")


@dataclass(slots=True)
class Beat:
    """A step in the making: `part` names what it is, `mistake` is the index of the policy's wrong move."""

    part: str
    slot: Slot
    role: Role = Role.ORDINARY
    mistake: int | None = None
    source: str = ""


@dataclass(slots=True)
class Plot:
    """A drawn scenario: its beats in order and what they need around them."""

    idiom: Idiom
    figure: Figure
    source: Source
    true_rows: Rows
    table_path: str
    beats: list[Beat]
    clauses: list[str]
    lookup: Lookup | None
    ending: Ending


def draw_plot(chance: Chance, number: str, kind: Kind, shape: Shape) -> Plot:
    """Draw a plot; whether it shows what its kind is for is not yet known."""
    theme = chance.pick(THEMES)
    rows_name, row_name = chance.pick([pair for pair in ROW_NAMES if theme.item not in pair])
    reference = f"{theme.noun} {theme.letter}-{number}"
    idiom = Idiom(theme, reference, chance.pick(FORMATS), rows_name, row_name)
    length = chance.between(shape.shortest, shape.longest)
    figure_name = chance.pick(("total", "total", "largest", "count", "top", "ranking"))
    parts = _draw_parts(chance, kind, length, figure_name)
    return _Stage(chance, idiom, kind, length, figure_name, parts, shape).plot()


def _draw_parts(chance: Chance, kind: Kind, length: int, figure: str) -> list[str]:
    """Return the names of the operations, whose cost in steps leaves room for getting, adding up and reporting."""
    room = length - 3
    offered = ["state", "repeats", "window"]
    if figure in ("total", "largest", "count"):
        offered.append("group")
    if figure in ("total", "largest") and room >= 2:
        offered.append("convert")
    if kind is Kind.OVERWRITTEN and length > 4:
        room -= 1
    wanted = chance.between(1, max(1, min(4, room)))
    parts: list[str] = []
    for part in chance.shuffled(offered):
        cost = 2 if part == "convert" else 1
        if cost <= room and len(parts) < wanted:
            parts.append(part)
            room -= cost
    if kind is Kind.HERRING and not any(part in HARMLESS for part in parts):
        parts[:] = [chance.pick(list(HARMLESS))]
    return parts


@dataclass(slots=True)
class _Stage:
    """The drawing of one plot, in the order of its methods."""

    chance: Chance
    idiom: Idiom
    kind: Kind
    length: int
    figure_name: str
    parts: list[str]
    shape: Shape
    herrings: list[str] = field(default_factory=list)
    group: str = ""
    neighbour: str = ""
    window: tuple[str, str] = ("", "")
    ending: Ending = "reported"
    unsourced: bool = False

    def plot(self) -> Plot:
        """Draw everything."""
        self._draw_fate()
        rows = self._draw_rows()
        published = self._published(rows)
        style = self.chance.below(2)
        lookup = self._draw_lookup(style) if "convert" in self.parts else None
        path = self.idiom.path(self.idiom.theme.items)
        source = self._draw_source(published, path, style)
        unit = self.idiom.theme.other if lookup else self.idiom.theme.units
        figure = self._figure(unit)
        in_place = self.chance.happens(0.3) or (self.kind is Kind.OVERWRITTEN and self.length == 4)
        beats = self._core(source, lookup, figure, path, in_place=in_place)
        self._assign(beats)
        self._fill(beats, path, in_place=in_place)
        clauses = [self._clause(part) for part in self.parts if part != "convert"]
        return Plot(self.idiom, figure, source, rows, path, beats, clauses, lookup, self.ending)

    def _draw_fate(self) -> None:
        if self.kind is Kind.HOPELESS:
            fate = self.chance.below(3)
            self.unsourced = fate > 0
            self.ending = "endless" if fate == 2 else "reported"
        if self.kind is Kind.HERRING or (self.unsourced and self.chance.happens(0.5)):
            able = self.chance.shuffled([part for part in self.parts if part in HARMLESS])
            self.herrings = able[: self.chance.between(1, 2)]

    def _draw_rows(self) -> Rows:
        """Rows on which each operation matters, except the herrings among them."""
        chance, theme = self.chance, self.idiom.theme
        groups = tuple(chance.shuffled(theme.groups)[: chance.between(3, 4)])
        month = f"{chance.between(2021, 2025)}-{chance.between(1, 12):02d}"
        rows = make_rows(self.idiom, chance, chance.between(7, 11), groups, month)
        self.group, self.neighbour = groups[0], groups[1]
        if "window" in self.parts:
            whens = sorted(row.when for row in rows)
            last = f"{month}-28" if not theme.clock else "23:30"
            wide = (f"{month}-01" if not theme.clock else "04:30", last)
            self.window = wide if "window" in self.herrings else (whens[1], whens[-2])
        if "state" in self.parts and "state" not in self.herrings:
            for place in chance.shuffled(range(len(rows)))[: chance.between(1, 3)]:
                rows[place] = rows[place]._replace(state=theme.bad)
        if "repeats" in self.parts and "repeats" not in self.herrings:
            self._repeat_some(rows)
        return tuple(rows)

    def _repeat_some(self, rows: list[Row]) -> None:
        for _ in range(self.chance.between(1, 2)):
            place = self.chance.below(len(rows))
            rows.insert(self.chance.between(place + 1, len(rows)), rows[place])

    def _published(self, rows: Rows) -> Rows:
        """What the source offers: all rows, or too few where nobody can answer from it."""
        if not self.unsourced:
            return rows
        lost = set(self.chance.shuffled(range(len(rows)))[: self.chance.between(2, 3)])
        return tuple(row for place, row in enumerate(rows) if place not in lost)

    def _draw_lookup(self, style: int) -> Lookup:
        number, older = self.chance.shuffled(range(3, 18))[:2]
        year = self.chance.between(2022, 2025)
        return look_up(self.idiom, year, number, older, style, asked=self.chance.happens(0.4))

    def _draw_source(self, rows: Rows, path: str, style: int) -> Source:
        ways = ["question", "question", "search"] + (["file"] if self.shape.attachments else [])
        way = self.chance.pick(ways)
        if self.unsourced:
            way = "file" if self.shape.attachments and self.chance.happens(0.5) else "search"
        if way == "file":
            return from_file(self.idiom, rows, path, style)
        if way == "search":
            return from_search(self.idiom, rows, path, style, self.chance)
        return from_question(self.idiom, rows, path, style, self.chance)

    def _figure(self, unit: str) -> Figure:
        if self.figure_name == "count":
            return count(self.idiom)
        makers = {"total": total, "largest": largest, "top": top, "ranking": ranking}
        return makers[self.figure_name](self.idiom, unit)

    def _core(
        self, source: Source, lookup: Lookup | None, figure: Figure, path: str, *, in_place: bool
    ) -> list[Beat]:
        """The beats that the answer comes from."""
        beats = [Beat("gather", source.slot)]
        current = path
        for part in self.parts:
            target = current if in_place else self._target(part)
            passage = Passage(self.idiom, current, target, self.chance.below(2))
            beats.append(Beat(part, self._operation(part, passage), source=current))
            current = target
        if lookup is not None:
            place = next(number for number, beat in enumerate(beats) if beat.part == "convert")
            beats.insert(self.chance.between(0, place), Beat("lookup", lookup.slot))
        beats.append(Beat("figure", work_out(self.idiom, figure, current, self.chance.below(2)), source=current))
        if self.ending == "endless":
            beats.append(Beat("again", errands.look_again(self.idiom, 4)))
        else:
            beats.append(Beat("report", report(self.idiom, figure, self.chance.below(2))))
        return beats

    def _target(self, part: str) -> str:
        theme = self.idiom.theme
        stems = {
            "state": f"{theme.good}_{theme.items}",
            "repeats": f"single_{theme.items}",
            "window": f"{theme.items}_in_window",
            "group": f"{theme.items}_of_{self.group}",
            "convert": f"{theme.items}_in_{theme.other}",
        }
        return self.idiom.path(stems[part])

    def _operation(self, part: str, passage: Passage) -> Slot:
        if part == "state":
            return operations.keep_state(passage)
        if part == "repeats":
            return operations.drop_repeats(passage)
        if part == "window":
            return operations.keep_window(passage, *self.window)
        if part == "group":
            return operations.keep_group(passage, self.group, self.neighbour)
        return operations.convert(passage)

    def _clause(self, part: str) -> str:
        theme = self.idiom.theme
        texts = {
            "state": f"{theme.bad.capitalize()} {theme.items} do not count.",
            "repeats": f"A {theme.item} that is listed twice counts once.",
            "window": f"Only {theme.items} from {self.window[0]} to {self.window[1]} count, both included.",
            "group": f"Only the {theme.columns.group} {self.group} is of interest.",
        }
        return texts[part]

    def _assign(self, beats: list[Beat]) -> None:
        """Choose the steps that the policy gets wrong, and the herrings."""
        for beat in beats:
            if beat.part in self.herrings:
                beat.role, beat.mistake = Role.HERRING, self.chance.below(HARMLESS[beat.part])
        able = [beat for beat in beats if beat.slot.wrongs and beat.role is Role.ORDINARY]
        if self.kind is Kind.OVERWRITTEN:
            able = [beat for beat in able if beat.part in self.parts or (beat.part == "figure" and self.length > 4)]
        if self.chance.happens(0.6):
            # Mistakes at the end always show in the answer; without this they would crowd out the others.
            able = [beat for beat in able if beat.part not in ("figure", "report")]
        for beat in self.chance.shuffled(able)[: self._mistakes()]:
            beat.role, beat.mistake = Role.DECISIVE, self.chance.below(len(beat.slot.wrongs))

    def _mistakes(self) -> int:
        if self.kind is Kind.HOPELESS:
            return 0 if self.unsourced else 3
        return {Kind.SOLVED: 0, Kind.DOUBLE: 2}.get(self.kind, 1)

    def _fill(self, beats: list[Beat], path: str, *, in_place: bool) -> None:
        """Put errands between the beats until the scenario has its length."""
        decisive = [beat for beat in beats if beat.role is Role.DECISIVE]
        if self.kind is Kind.OVERWRITTEN and decisive and len(beats) < self.length:
            self._tidy(beats, decisive[0], path)
        elif not in_place and len(beats) < self.length and self.chance.happens(0.3):
            self._tidy(beats, beats[_position(beats, self.parts[0])], path)
        while len(beats) < self.length:
            self._insert_errand(beats, path)

    def _tidy(self, beats: list[Beat], behind: Beat, path: str) -> None:
        """Put a beat behind another that takes that one's input away."""
        place = beats.index(behind) + 1
        kept = _current(beats, place, self.idiom.result, path)
        if kept == behind.source:
            return
        able: Sequence[int] = (0, 1) if behind.part == "figure" else (0, 1, 2)
        make = errands.TIDYING[self.chance.pick(able)]
        beats.insert(
            place, Beat("tidy", make(self.idiom, behind.source, kept, self.chance.below(2)), source=behind.source)
        )

    def _insert_errand(self, beats: list[Beat], path: str) -> None:
        gather = _position(beats, "gather")
        place = self.chance.between(0 if self.chance.happens(0.3) else gather + 1, len(beats) - 1)
        if place <= gather:
            make = self.chance.pick(errands.BEFORE_TABLE)
        elif place > _position(beats, "figure"):
            make = self.chance.pick(errands.AFTER_FIGURE)
        else:
            make = self.chance.pick(errands.WITH_TABLE)
        current = _current(beats, place, self.idiom.result, path)
        beats.insert(place, Beat("errand", make(self.idiom, current, self.chance.below(2))))


def _position(beats: Sequence[Beat], part: str) -> int:
    return next(place for place, beat in enumerate(beats) if beat.part == part)


def _current(beats: Sequence[Beat], place: int, result: str, path: str) -> str:
    """The file that holds what has been reached before a place."""
    ahead = [beat.source for beat in beats[place:] if beat.source and beat.part != "tidy"]
    return ahead[0] if ahead else (result if place > _position(beats, "figure") else path)
