"""Events as lines for people: local time, kind, place and what happened.

The place is a trajectory's label where the event has one, which begins with the task's name, or the task. Nothing is
cut, for people look for all of it, and type names: on a terminal without room, an event goes on in further lines.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

from rich.cells import cell_len

from runtime.cli.sentences import Tone, printable, sentence
from runtime.hints import with_options
from runtime.wrapping import wrapped
from store.events import KINDS
from store.log import Entry

_KIND_WIDTH = max(map(len, KINDS))
_BEFORE = len("00:00:00  ") + _KIND_WIDTH + 2
_LEAST_PLACE = 10
_MOST_PLACE = 40
_DIM = "2"
_LEAST_TEXT = 20
_HANG = " " * len("00:00:00  ")


@dataclass(slots=True)
class EventLines:
    """Turns events into lines, one after the other.

    Args:
        width: columns of the terminal, which also is told the day only when it changes; None: not a terminal.
        colour: whether ANSI colours may be used.
        show_runs: whether a place begins with its run once events of a second run have come.
        today: the day that need not be told.
    """

    width: int | None
    colour: bool
    show_runs: bool = True
    today: date = field(default_factory=date.today)
    _runs: set[str] = field(default_factory=set)
    _place_width: int = _LEAST_PLACE

    def lines(self, entries: Sequence[Entry]) -> Iterator[str]:
        """The lines of some events, each with its line break."""
        self._runs.update(entry.run for entry in entries)
        places = [self._place(entry) for entry in entries]
        self._place_width = min(self._most_place, max(self._place_width, *map(cell_len, places)))
        for entry, place in zip(entries, places, strict=True):
            when = datetime.fromtimestamp(entry.time / 1e6)
            if self.width is not None and when.date() != self.today:
                self.today = when.date()
                yield self._painted([(f"── {when:%A, %Y-%m-%d} ──", _DIM)])
            columns = list(self._columns(entry, when, place))
            if self.width is None:
                yield self._painted(columns)
            else:
                yield from self._fitted(columns, self.width)

    def _fitted(self, columns: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
        """As many lines as it takes, the last column going on below the kind, as does a place that is too long."""
        *before, (text, code) = columns
        if sum(cell_len(column) for column, _ in before) + min(_LEAST_TEXT, cell_len(text)) > width:
            *before, (place, place_code) = before
            yield self._painted(before)
            before = [(_HANG + place.rstrip() + "  ", place_code)]
        taken = sum(cell_len(column) for column, _ in before)
        if taken + cell_len(text.partition(" ")[0]) > width:
            yield self._painted(before)
            before, taken = [(_HANG, "")], len(_HANG)
        held = "·" * taken  # stands for the columns before, and is no indentation
        first, *rest = wrapped(held + text, width, hang=_HANG, measure=cell_len).split("\n")
        yield self._painted([*before, (first[taken:], code)])
        for line in rest:
            yield self._painted([(line, code)])

    def _columns(self, entry: Entry, when: datetime, place: str) -> Iterator[tuple[str, str]]:
        text, tone = sentence(entry)
        yield f"{when:%Y-%m-%d %H:%M:%S}  " if self.width is None else f"{when:%H:%M:%S}  ", _DIM
        yield f"{printable(entry.kind):<{_KIND_WIDTH}}  ", tone.value
        yield place + " " * max(2, self._place_width + 2 - cell_len(place)), _DIM if tone is Tone.QUIET else ""
        yield with_options(text), tone.value if tone in (Tone.QUIET, Tone.ALARM) else ""

    def _place(self, entry: Entry) -> str:
        place = printable(str(entry.fields.get("trajectory") or entry.task or "–"))
        if self.show_runs and len(self._runs) > 1:
            place = f"{printable(entry.run)}: {place}"
        return place

    @property
    def _most_place(self) -> int:
        """Columns that are kept for places: less than half of what time and kind leave to what happened."""
        if self.width is None:
            return _MOST_PLACE
        return max(_LEAST_PLACE, min(_MOST_PLACE, (self.width - _BEFORE) * 2 // 5))

    def _painted(self, columns: Sequence[tuple[str, str]]) -> str:
        parts = [f"\x1b[{code}m{text}\x1b[0m" if self.colour and code and text else text for text, code in columns]
        return "".join(parts).rstrip() + "\n"


def wants_colour(*, terminal: bool) -> bool:
    """Whether to use colours on standard output: on a terminal that has them, unless NO_COLOR is set."""
    return terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def terminal_width() -> int | None:
    """Columns of the terminal that standard output is; None if it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
