"""Where a scenario's table and its factor come from: the question's text, an attached file, a search, an answer.

Owns the first step of a run and the step that looks a factor up. A wrong move here leaves a table or a number that
looks as good as the right one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.search import SearchHit
from runtime.simulation.idiom import program, telling, writing
from runtime.simulation.moves import Effect, Files, Move, Row, Rows, Slot, storing, table
from runtime.simulation.operations import FACTOR_PATH

if TYPE_CHECKING:
    from runtime.simulation.chance import Chance
    from runtime.simulation.idiom import Idiom


@dataclass(frozen=True, slots=True)
class Source:
    """The getting of a table, and what the world must offer for it."""

    slot: Slot
    clause: str
    files: dict[str, str]
    tables: dict[str, Rows]
    hits: tuple[SearchHit, ...] = ()


def _misread(rows: Rows, chance: Chance) -> Rows:
    """The rows with two neighbouring digits of one amount exchanged, as when copied by hand."""
    place = chance.below(len(rows))
    digits = str(rows[place].amount)
    swapped = digits[1] + digits[0] + digits[2:] if len(digits) > 1 else digits + "0"
    return (*rows[:place], rows[place]._replace(amount=int(swapped)), *rows[place + 1 :])


def _without_one(rows: Rows, chance: Chance) -> Rows:
    place = chance.below(len(rows))
    return (*rows[:place], *rows[place + 1 :])


def from_question(idiom: Idiom, rows: Rows, target: str, style: int, chance: Chance) -> Source:
    """The table stands in the question, and the first step copies it into a file."""
    theme = idiom.theme

    def move(copied: Rows, reason: str, move_style: int, *, right: bool) -> Move:
        lines = _copied_block(idiom, copied) if move_style else _copied_tuples(idiom, copied)
        code = program([*lines, *writing(idiom, target, move_style), *telling(idiom, target, move_style)])
        return Move(code, storing(target, copied), reason, right)

    header = ";".join(theme.columns)
    listed = "\n".join(row.line() for row in rows)
    good = f"later steps need the {theme.items} in a file, copied exactly as the task gives them"
    slot = Slot(
        title=f"Write the {theme.items} of {idiom.reference} to {target}",
        aim=f"get the {theme.items} of {idiom.reference} into a file",
        rights=(
            move(rows, good, style, right=True),
            move(
                rows,
                f"with all {len(rows)} {theme.items} in {target} nothing has to be read twice",
                1 - style,
                right=True,
            ),
        ),
        wrongs=(
            move(_without_one(rows, chance), f"the {theme.items} that matter go into {target}", style, right=False),
            move(
                _misread(rows, chance),
                f"I copy the {theme.items} by hand, it is a short list",
                1 - style,
                right=False,
            ),
        ),
    )
    return Source(slot, f"lists these {theme.items} ({header}):\n{listed}\n", {}, {})


def _copied_tuples(idiom: Idiom, rows: Rows) -> list[str]:
    names = ", ".join(f'"{name}"' for name in idiom.theme.columns)
    cells = [f'    ("{row.key}", "{row.group}", "{row.state}", "{row.when}", {row.amount}),' for row in rows]
    return [
        f"names = [{names}]",
        "given = [",
        *cells,
        "]",
        f"{idiom.rows} = [dict(zip(names, cells)) for cells in given]",
    ]


def _copied_block(idiom: Idiom, rows: Rows) -> list[str]:
    names = ", ".join(f'"{name}"' for name in idiom.theme.columns)
    return [
        f"names = [{names}]",
        'given = """',
        *[row.line() for row in rows],
        '"""',
        f'{idiom.rows} = [dict(zip(names, line.split(";"))) for line in given.split()]',
    ]


def from_file(idiom: Idiom, rows: Rows, target: str, style: int) -> Source:
    """The table comes as an attached file with a header line, and the first step brings it into shape."""
    theme = idiom.theme
    attached = f"{idiom.reference.replace(' ', '_')}.dat"
    names = ", ".join(f'"{name}"' for name in theme.columns)

    def move(lines: str, skipped: int, reason: str, move_style: int, *, right: bool) -> Move:
        getting = [
            f"names = [{names}]",
            *(
                [f'with open("{attached}") as source:', "    lines = source.read().splitlines()"]
                if move_style
                else [f'lines = Path("{attached}").read_text().splitlines()']
            ),
            f'{idiom.rows} = [dict(zip(names, line.split(";"))) for line in {lines}]',
        ]
        code = program([*getting, *writing(idiom, target, move_style), *telling(idiom, target, move_style)])

        def effect(files: Files) -> None:
            got = table(files, attached)
            files[target] = got[skipped:] if skipped >= 0 else got[:skipped]

        return Move(code, effect, reason, right)

    slot = Slot(
        title=f"Read {attached} and save its {theme.items} as {target}",
        aim=f"read the attached {attached}",
        rights=(
            move("lines[1:]", 0, "only the first line is a header", style, right=True),
            move(
                'lines if line and not line.startswith(names[0] + ";")',
                0,
                "the header repeats the column names and has to go",
                1 - style,
                right=True,
            ),
        ),
        wrongs=(
            move("lines[2:]", 1, "such exports open with a header and a line of units", style, right=False),
            move("lines[1:-1]", -1, "the first line is a header and the last one a footer", 1 - style, right=False),
        ),
    )
    text = "\n".join([";".join(theme.columns), *[row.line() for row in rows]]) + "\n"
    clause = f"comes as the file {attached}, one {theme.item} per line with semicolons between the cells. "
    return Source(slot, clause, {attached: text}, {attached: rows})


def from_search(idiom: Idiom, rows: Rows, target: str, style: int, chance: Chance) -> Source:
    """The table is published, beside a draft of it, and the first step searches for it."""
    theme, reference = idiom.theme, idiom.reference
    draft = _without_one(_misread(rows, chance), chance)
    names = ", ".join(f'"{name}"' for name in theme.columns)

    def move(edition: str, got: Rows, pieces: str, reason: str, move_style: int, *, right: bool) -> Move:
        query = f"{reference} {edition.lower()} return" if move_style else f"{edition.lower()} return of {reference}"
        getting = [
            f'found = simple_web_search("{query}")',
            f'part = found.split("{edition} return of {reference}: ")[1].split(" (end")[0]',
            f"names = [{names}]",
            f'{idiom.rows} = [dict(zip(names, piece.strip().split(";"))) for piece in {pieces}]',
        ]
        code = program([*getting, *writing(idiom, target, move_style), *telling(idiom, target, move_style)])
        return Move(code, storing(target, got), reason, right)

    split = 'part.split("|")'
    slot = Slot(
        title=f"Find the {theme.items} of {reference} and save them as {target}",
        aim=f"find what was published on {reference}",
        rights=(
            move("Final", rows, split, "the final return is the one that counts", style, right=True),
            move(
                "Final",
                rows,
                'filter(None, part.split("|"))',
                "the task names the final return",
                1 - style,
                right=True,
            ),
        ),
        wrongs=(
            move(
                "Draft",
                draft,
                split,
                f"the draft return has the {theme.items} as they were first noted",
                style,
                right=False,
            ),
            move(
                "Final",
                rows[1:],
                split + "[1:]",
                "the first piece of the final return is its header",
                1 - style,
                right=False,
            ),
        ),
    )
    hits = tuple(_returned(idiom, edition, got) for edition, got in (("Final", rows), ("Draft", draft)))
    return Source(
        slot,
        f"was published as a final return, after a draft; the {theme.items} of the final one count. ",
        {},
        {},
        hits,
    )


def _returned(idiom: Idiom, edition: str, rows: Rows) -> SearchHit:
    code = idiom.reference.rpartition(" ")[2].lower()
    listed = " | ".join(row.line() for row in rows)
    return SearchHit(
        f"{edition} return, {idiom.reference}",
        f"https://records.example/{code}/{edition.lower()}",
        f"{edition} return of {idiom.reference}: {listed} (end of {edition.lower()} return)",
    )


@dataclass(frozen=True, slots=True)
class Lookup:
    """The looking up of a factor, and what the world must offer for it; `replies` maps a year to an answer."""

    slot: Slot
    clause: str
    hits: tuple[SearchHit, ...]
    replies: dict[str, str]


def look_up(idiom: Idiom, year: int, number: int, older: int, style: int, *, asked: bool) -> Lookup:
    """Find the factor of the current year's edition, by asking (`asked`) or by searching, and write it down."""
    theme, reference = idiom.theme, idiom.reference
    past = year - 3

    def move(edition: int, got: int, reason: str, move_style: int, *, right: bool) -> Move:
        getting = _asking(idiom, edition, move_style) if asked else _searching(idiom, edition, move_style)
        code = program(
            [
                *getting,
                f'Path("{FACTOR_PATH}").write_text(str(factor))',
                f'print("one {theme.unit} is", factor, "{theme.other}")',
            ]
        )
        return Move(code, _noting(got), reason, right)

    slot = Slot(
        title=f"Find out how many {theme.other} one {theme.unit} is",
        aim=f"find out how many {theme.other} one {theme.unit} is worth",
        rights=(
            move(year, number, f"the {year} edition is the one that the task names", style, right=True),
            move(year, number, f"editions differ, and the task wants that of {year}", 1 - style, right=True),
        ),
        wrongs=(
            move(past, older, f"the {past} edition is the one that everybody quotes", style, right=False),
            move(past, older, "such factors hardly change from one edition to the next", 1 - style, right=False),
        ),
    )
    hits = tuple(
        SearchHit(
            f"Conversion notice {edition} for {reference}",
            f"https://notices.example/{edition}/{reference.rpartition(' ')[2].lower()}",
            f"By the {edition} edition, one {theme.unit} of {reference} is {value} {theme.other}.",
        )
        for edition, value in ((year, number), (past, older))
    )
    clause = f"Give it in {theme.other}, with the {year} edition's factor for {reference}. "
    return Lookup(
        slot, clause, () if asked else hits, {str(year): str(number), str(past): str(older)} if asked else {}
    )


def _noting(number: int) -> Effect:
    return storing(FACTOR_PATH, number)


def _searching(idiom: Idiom, edition: int, style: int) -> list[str]:
    theme, reference = idiom.theme, idiom.reference
    sentence = f"By the {edition} edition, one {theme.unit} of {reference} is "
    if style:
        return [
            f'found = simple_web_search("conversion notice {edition} {reference} {theme.unit} {theme.other}")',
            f'factor = int(found.split("{sentence}")[1].split()[0])',
        ]
    return [
        f'found = simple_web_search("{reference} {theme.unit} in {theme.other} {edition} edition")',
        f'match = re.search(r"{sentence}(\\d+)", found)',
        "factor = int(match.group(1))",
    ]


def _asking(idiom: Idiom, edition: int, style: int) -> list[str]:
    theme, reference = idiom.theme, idiom.reference
    if style:
        return [
            f'question = "One {theme.unit} of {reference} in {theme.other}, {edition} edition: which whole number?"',
            "answer = ask_llm(question)",
            'factor = int(re.search(r"\\d+", answer).group())',
        ]
    return [
        f'answer = ask_llm("How many {theme.other} is one {theme.unit} of {reference} by the {edition} edition? "',
        '                 "Reply with the whole number only.")',
        "factor = int(answer.strip())",
    ]


def make_rows(idiom: Idiom, chance: Chance, size: int, groups: tuple[str, ...], month: str) -> list[Row]:
    """Return fresh rows in the theme's good state, each with its own key; `month` is as in "2024-03"."""
    theme = idiom.theme
    keys = chance.shuffled(range(1, 3 * size))
    rows = []
    for key in keys[:size]:
        if theme.clock:
            when = f"{chance.between(5, 22):02d}:{chance.between(0, 59):02d}"
        else:
            when = f"{month}-{chance.between(2, 27):02d}"
        rows.append(
            Row(f"{theme.prefix}{key:02d}", chance.pick(groups), theme.good, when, chance.between(*theme.amounts))
        )
    return rows
