"""How a scenario's programs are written: file format, variable names and two styles of reading and writing.

Owns the program text that is not about the task itself. Both styles of one format read and write the same files, so
that programs of different styles can follow each other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runtime.simulation.themes import Theme

Format = Literal["csv", "json", "txt"]
FORMATS: tuple[Format, ...] = ("csv", "json", "txt")
ROW_NAMES = (("rows", "row"), ("records", "record"), ("items", "item"), ("data", "entry"), ("listing", "part"))

_IMPORTS = (
    ("csv.", "import csv"),
    ("json.", "import json"),
    ("os.", "import os"),
    ("re.", "import re"),
    ("shutil.", "import shutil"),
    ("Counter(", "from collections import Counter"),
    ("Path(", "from pathlib import Path"),
)
_WORDS = {word: re.compile(rf"\b{re.escape(word)}") for word, _ in _IMPORTS}


@dataclass(frozen=True, slots=True)
class Idiom:
    """The way in which one scenario's programs are written."""

    theme: Theme
    reference: str
    format: Format
    rows: str
    row: str

    def path(self, stem: str) -> str:
        """Return a file name of this scenario's format."""
        return f"{stem.replace(' ', '_')}.{self.format}"

    @property
    def result(self) -> str:
        """The file that holds the figures before they are reported."""
        return "result.json" if self.format == "json" else "result.txt"

    def cell(self, column: str) -> str:
        """Return the expression for a row's cell."""
        return f'{self.row}["{column}"]'

    @property
    def amount(self) -> str:
        """The expression for a row's amount as a number."""
        return f"int({self.cell(self.theme.columns.amount)})"


def program(lines: Iterable[str]) -> str:
    """Return a program from its lines, with the imports that they need in front."""
    body = "\n".join(lines)
    # The plain test first: it spares most of the expressions, which would take half of a world's building time.
    needed = [statement for word, statement in _IMPORTS if word in body and _WORDS[word].search(body)]
    return "\n".join([*needed, "", body]) if needed else body


def _names(columns: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in columns) + "]"


def reading(idiom: Idiom, path: str, style: int) -> list[str]:
    """Return lines that read a table into the idiom's variable, in style 0 or 1."""
    rows, row, columns = idiom.rows, idiom.row, idiom.theme.columns
    if idiom.format == "csv":
        if style:
            return [f'{rows} = list(csv.DictReader(Path("{path}").read_text().splitlines()))']
        return [f'with open("{path}", newline="") as source:', f"    {rows} = list(csv.DictReader(source))"]
    if idiom.format == "json":
        if style:
            return [f'with open("{path}") as source:', f"    {rows} = json.load(source)"]
        return [f'{rows} = json.loads(Path("{path}").read_text())']
    if style:
        cells = ", ".join(f'"{name}": cells[{place}]' for place, name in enumerate(columns))
        return [
            f"{rows} = []",
            f'for line in Path("{path}").read_text().splitlines():',
            '    cells = line.split(";")',
            f"    {rows}.append({{{cells}}})",
        ]
    return [
        f"names = {_names(columns)}",
        f'with open("{path}") as source:',
        f'    {rows} = [dict(zip(names, {row}.strip().split(";"))) for {row} in source if {row}.strip()]',
    ]


def writing(idiom: Idiom, path: str, style: int) -> list[str]:
    """Return lines that write the idiom's variable to a table, in style 0 or 1."""
    rows, row, columns = idiom.rows, idiom.row, idiom.theme.columns
    if idiom.format == "json":
        if style:
            return [f'with open("{path}", "w") as target:', f"    json.dump({rows}, target)"]
        return [f'Path("{path}").write_text(json.dumps({rows}, indent=1))']
    if idiom.format == "csv" and not style:
        return [
            f'with open("{path}", "w", newline="") as target:',
            f"    writer = csv.DictWriter(target, fieldnames={_names(columns)})",
            "    writer.writeheader()",
            f"    writer.writerows({rows})",
        ]
    separator = "," if idiom.format == "csv" else ";"
    joined = f'"{separator}".join(str({row}[name]) for name in columns)'
    if style:
        first = [f'lines = ["{separator}".join(columns)]'] if idiom.format == "csv" else ["lines = []"]
        return [
            f"columns = {_names(columns)}",
            *first,
            f"for {row} in {rows}:",
            f"    lines.append({joined})",
            f'Path("{path}").write_text("\\n".join(lines) + "\\n")',
        ]
    return [
        f"columns = {_names(columns)}",
        f'with open("{path}", "w") as target:',
        f"    for {row} in {rows}:",
        f'        target.write({joined} + "\\n")',
    ]


def telling(idiom: Idiom, path: str, style: int) -> list[str]:
    """Return a line that prints how much was written."""
    if style:
        return [f'print(f"{path} now holds {{len({idiom.rows})}} {idiom.theme.items}")']
    return [f'print(len({idiom.rows}), "{idiom.theme.items} written to {path}")']
