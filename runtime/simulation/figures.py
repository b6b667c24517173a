"""What a task asks for in the end: a figure worked out from the table, written to a file and reported.

Owns the figures, the step that works one out and the step that reads it back and stops the run with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.simulation.idiom import program, reading
from runtime.simulation.moves import Effect, Figures, Files, Move, Rows, Slot, figures, table

if TYPE_CHECKING:
    from runtime.simulation.idiom import Idiom

Measure = Callable[[Rows], str]


@dataclass(frozen=True, slots=True)
class Way:
    """One way of working a figure out: lines that set its variable, what they find, and the reason given."""

    lines: tuple[str, ...]
    measure: Measure
    reason: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure to ask for; `question` ends the task, `numeric` figures are whole numbers."""

    name: str
    question: str
    numeric: bool
    rights: tuple[Way, Way]
    wrongs: tuple[Way, ...]


def _sums(rows: Rows) -> dict[str, int]:
    sums: dict[str, int] = {}
    for row in rows:
        sums[row.group] = sums.get(row.group, 0) + row.amount
    return sums


def _counts(rows: Rows) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.group] = counts.get(row.group, 0) + 1
    return counts


def _ranked(rows: Rows) -> list[str]:
    sums = _sums(rows)
    return sorted(sums, key=lambda name: -sums[name])


def has_ties(rows: Rows) -> bool:
    """Tell whether two groups have the same sum, so that a ranking of them would be open."""
    sums = list(_sums(rows).values())
    return len(set(sums)) < len(sums)


def total(idiom: Idiom, unit: str) -> Figure:
    """The sum of all amounts."""
    rows, row, theme = idiom.rows, idiom.row, idiom.theme
    return Figure(
        "total",
        f"How many {unit} do the {theme.items} come to in all?",
        True,
        rights=(
            Way(
                (f"total = sum({idiom.amount} for {row} in {rows})",),
                lambda r: str(sum(x.amount for x in r)),
                f"the {theme.columns.amount} of every {theme.item} go into the sum",
            ),
            Way(
                ("total = 0", f"for {row} in {rows}:", f"    total += {idiom.amount}"),
                lambda r: str(sum(x.amount for x in r)),
                "a running sum over the whole table gives it",
            ),
        ),
        wrongs=(
            Way(
                (f"total = sum({idiom.amount} for {row} in {rows}[:-1])",),
                lambda r: str(sum(x.amount for x in r[:-1])),
                "the last line is most likely a footer, so it stays out",
            ),
            Way(
                (f"total = sum({idiom.amount} for {row} in {rows}) // len({rows})",),
                lambda r: str(sum(x.amount for x in r) // len(r)),
                f"what one {theme.item} comes to is asked for",
            ),
            Way(
                (f"total = max({idiom.amount} for {row} in {rows})",),
                lambda r: str(max(x.amount for x in r)),
                f"the highest of the {theme.columns.amount} is the figure",
            ),
        ),
    )


def largest(idiom: Idiom, unit: str) -> Figure:
    """The greatest single amount."""
    rows, row, theme = idiom.rows, idiom.row, idiom.theme
    return Figure(
        "largest",
        f"How many {unit} does the largest single {theme.item} have?",
        True,
        rights=(
            Way(
                (f"largest = max({idiom.amount} for {row} in {rows})",),
                lambda r: str(max(x.amount for x in r)),
                "the maximum over all amounts is what is asked",
            ),
            Way(
                (f"amounts = sorted({idiom.amount} for {row} in {rows})", "largest = amounts[-1]"),
                lambda r: str(sorted(x.amount for x in r)[-1]),
                "sorted as numbers, the last one is the largest",
            ),
        ),
        wrongs=(
            Way(
                (f'largest = {rows}[-1]["{theme.columns.amount}"]',),
                lambda r: str(r[-1].amount),
                f"the {theme.items} look as if they were in rising order, so the last one has it",
            ),
            Way(
                (f"largest = max(str({idiom.cell(theme.columns.amount)}) for {row} in {rows})",),
                lambda r: max(str(x.amount) for x in r),
                "the cells can be compared as they stand",
            ),
            Way(
                (f"largest = min({idiom.amount} for {row} in {rows})",),
                lambda r: str(min(x.amount for x in r)),
                "the first after sorting is the one to take",
            ),
        ),
    )


def count(idiom: Idiom) -> Figure:
    """The number of rows."""
    rows, row, theme = idiom.rows, idiom.row, idiom.theme
    group = idiom.cell(theme.columns.group)
    return Figure(
        "count",
        f"How many {theme.items} are that?",
        True,
        rights=(
            Way((f"count = len({rows})",), lambda r: str(len(r)), f"each line left is one {theme.item}"),
            Way((f"count = sum(1 for {row} in {rows})",), lambda r: str(len(r)), "counting line by line is enough"),
        ),
        wrongs=(
            Way(
                (f"count = len({{{group} for {row} in {rows}}})",),
                lambda r: str(len({x.group for x in r})),
                f"one {theme.item} for each {theme.columns.group} is meant",
            ),
            Way((f"count = len({rows}) - 1",), lambda r: str(len(r) - 1), "the header line has to be taken off"),
        ),
    )


def top(idiom: Idiom, unit: str) -> Figure:
    """The group with the greatest sum."""
    rows, row, theme = idiom.rows, idiom.row, idiom.theme
    group = idiom.cell(theme.columns.group)

    def busiest(r: Rows) -> str:
        counts = _counts(r)
        return max(counts, key=lambda name: counts[name])

    def smallest(r: Rows) -> str:
        sums = _sums(r)
        return min(sums, key=lambda name: sums[name])

    summing = (f"for {row} in {rows}:", f"    sums[{group}] = sums.get({group}, 0) + {idiom.amount}")
    counting = (f"for {row} in {rows}:", f"    sums[{group}] += {idiom.amount}")
    return Figure(
        "top",
        f"Which {theme.columns.group} comes to the most {unit}?",
        False,
        rights=(
            Way(
                ("sums = {}", *summing, "top = max(sums, key=sums.get)"),
                lambda r: _ranked(r)[0],
                f"the sums by {theme.columns.group} have to be compared",
            ),
            Way(
                ("sums = Counter()", *counting, "top = sums.most_common(1)[0][0]"),
                lambda r: _ranked(r)[0],
                f"a counter fed with the amounts puts the heaviest {theme.columns.group} first",
            ),
        ),
        wrongs=(
            Way(
                (f"sums = Counter({group} for {row} in {rows})", "top = sums.most_common(1)[0][0]"),
                busiest,
                f"the {theme.columns.group} that appears most often must be the one",
            ),
            Way(
                (f"best = max({rows}, key=lambda {row}: {idiom.amount})", f'top = best["{theme.columns.group}"]'),
                lambda r: max(r, key=lambda x: x.amount).group,
                f"the {theme.columns.group} of the largest {theme.item} has the most",
            ),
            Way(
                ("sums = {}", *summing, "top = min(sums, key=sums.get)"),
                smallest,
                "the first one after sorting is the answer",
            ),
        ),
    )


def ranking(idiom: Idiom, unit: str) -> Figure:
    """All groups, from the greatest sum to the smallest."""
    rows, row, theme = idiom.rows, idiom.row, idiom.theme
    group = idiom.cell(theme.columns.group)
    summing = ("sums = {}", f"for {row} in {rows}:", f"    sums[{group}] = sums.get({group}, 0) + {idiom.amount}")
    counting = ("sums = Counter()", f"for {row} in {rows}:", f"    sums[{group}] += {idiom.amount}")

    def joined(names: list[str]) -> str:
        return ", ".join(names)

    return Figure(
        "ranking",
        f"List every {theme.columns.group} from the most to the fewest {unit}, separated by commas.",
        False,
        rights=(
            Way(
                (*summing, 'ranking = ", ".join(sorted(sums, key=lambda name: -sums[name]))'),
                lambda r: joined(_ranked(r)),
                f"the sums by {theme.columns.group} give the order, highest first",
            ),
            Way(
                (*counting, 'ranking = ", ".join(name for name, amount in sums.most_common())'),
                lambda r: joined(_ranked(r)),
                "a counter already lists them from the most to the fewest",
            ),
        ),
        wrongs=(
            Way(
                (*summing, 'ranking = ", ".join(sorted(sums))'),
                lambda r: joined(sorted(_sums(r))),
                "the names in order of the alphabet are easiest to compare",
            ),
            Way(
                (*summing, 'ranking = ", ".join(sorted(sums, key=lambda name: sums[name]))'),
                lambda r: joined(sorted(_sums(r), key=lambda name: _sums(r)[name])),
                "sorting by the sums gives the order",
            ),
        ),
    )


def work_out(idiom: Idiom, figure: Figure, source: str, style: int) -> Slot:
    """Work the figure out from a table and write it, with the number of rows beside it, to the result file."""
    theme = idiom.theme
    if idiom.format == "json":
        writing = (
            f'Path("{idiom.result}").write_text(json.dumps({{"{figure.name}": {figure.name}, "size": size}}))',
        )
    else:
        text = f'f"{figure.name}={{{figure.name}}}\\nsize={{size}}\\n"'
        writing = (f'Path("{idiom.result}").write_text({text})',)

    def move(way: Way, way_style: int, *, right: bool) -> Move:
        code = program(
            [
                *reading(idiom, source, way_style),
                *way.lines,
                f"size = len({idiom.rows})",
                *writing,
                f'print("{figure.name}:", {figure.name}, "from", size, "{theme.items}")',
            ]
        )
        return Move(code, _working_out(source, idiom.result, figure.name, way.measure), way.reason, right)

    first, second = figure.rights
    return Slot(
        title=f"Work out the {figure.name} and write it to {idiom.result}",
        aim="work out the figure that is asked for",
        rights=(move(first, style, right=True), move(second, 1 - style, right=True)),
        wrongs=tuple(move(way, style, right=False) for way in figure.wrongs),
    )


def _working_out(source: str, target: str, name: str, measure: Measure) -> Effect:
    def effect(files: Files) -> None:
        rows = table(files, source)
        files[target] = {name: measure(rows), "size": str(len(rows))}

    return effect


def report(idiom: Idiom, figure: Figure, style: int) -> Slot:
    """Read the figure back and stop the run with it."""
    path, name = idiom.result, figure.name

    def move(expression: str, answer: Callable[[Figures], str], reason: str, way_style: int, *, right: bool) -> Move:
        code = program(
            [
                *_reading_back(idiom, way_style),
                f'answer = {expression.replace("FOUND", f"""figures["{name}"]""")}',
                'print("reporting", answer)',
                f'stop(str(answer), "Worked through {idiom.reference}; the answer was read from {path}.")',
            ]
        )
        return Move(code, lambda files: answer(figures(files, path)), reason, right)

    good = f"the figure in {path} is what the task wants, nothing is left to do"
    wrongs = [
        move(
            'figures["size"]',
            lambda f: f["size"],
            "the size noted beside it is what the task wants",
            style,
            right=False,
        )
    ]
    if figure.numeric:
        wrongs.append(
            move(
                "round(int(FOUND), -2)",
                lambda f: str(round(int(f[name]), -2)),
                "a round figure reads better in a report",
                1 - style,
                right=False,
            )
        )
    return Slot(
        title="Report the result",
        aim="report the result and finish",
        rights=(
            move("FOUND", lambda f: f[name], good, style, right=True),
            move("FOUND", lambda f: f[name], f"what {path} holds is the answer", 1 - style, right=True),
        ),
        wrongs=tuple(wrongs),
    )


def _reading_back(idiom: Idiom, style: int) -> list[str]:
    path = idiom.result
    if idiom.format == "json":
        if style:
            return [f'with open("{path}") as source:', "    figures = json.load(source)"]
        return [f'figures = json.loads(Path("{path}").read_text())']
    if style:
        return [
            "figures = {}",
            f'for line in Path("{path}").read_text().splitlines():',
            '    name, found = line.split("=")',
            "    figures[name] = found",
        ]
    return [f'figures = dict(line.split("=") for line in Path("{path}").read_text().splitlines())']
