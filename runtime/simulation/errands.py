"""Steps that do not change what a run answers: looking around, noting, tidying up.

Owns the ordinary steps between those that count. Tidying takes away or overwrites what earlier steps wrote and later
ones no longer need, which is what makes a branch in a workspace that was not restored fail.
"""

from __future__ import annotations

from collections.abc import Callable

from runtime.simulation.idiom import Idiom, program, reading
from runtime.simulation.moves import Effect, Files, Move, Slot, looking

# Makes the slot of an errand from the idiom, the file that holds what has been reached, and a style.
Errand = Callable[[Idiom, str, int], Slot]


def _two_ways(
    title: str, aim: str, effect: Effect, first: tuple[list[str], str], second: tuple[list[str], str]
) -> Slot:
    rights = tuple(Move(program(lines), effect, reason, right=True) for lines, reason in (first, second))
    return Slot(title, aim, rights)


def _nothing(_files: Files) -> None:
    return None


def inspect(idiom: Idiom, path: str, style: int) -> Slot:
    """Print the first rows of a table."""
    rows, row, theme = idiom.rows, idiom.row, idiom.theme
    return _two_ways(
        f"Look at the first {theme.items} in {path}",
        f"look at what {path} holds",
        looking(path),
        (
            [
                *reading(idiom, path, style),
                f'print(len({rows}), "{theme.items}")',
                f"for {row} in {rows}[:3]:",
                f"    print({row})",
            ],
            "a look at the first lines shows whether the columns are as expected",
        ),
        (
            [*reading(idiom, path, 1 - style), f"print({rows}[:2])", f'print("lines in all:", len({rows}))'],
            "before going on I want to see real values",
        ),
    )


def survey(idiom: Idiom, path: str, style: int) -> Slot:
    """Print how many rows each group has."""
    rows, row, theme = idiom.rows, idiom.row, idiom.theme
    group = idiom.cell(theme.columns.group)
    return _two_ways(
        f"Survey the {theme.items} by {theme.columns.group}",
        f"see how the {theme.items} spread",
        looking(path),
        (
            [
                *reading(idiom, path, style),
                f"spread = Counter({group} for {row} in {rows})",
                "for name, size in spread.most_common():",
                "    print(name, size)",
            ],
            f"the spread over each {theme.columns.group} shows gaps at once",
        ),
        (
            [
                *reading(idiom, path, 1 - style),
                f"names = sorted({{{group} for {row} in {rows}}})",
                'print(len(names), "different:", ", ".join(names))',
            ],
            f"it is good to know which {theme.columns.group} names occur at all",
        ),
    )


def look_around(_idiom: Idiom, _path: str, style: int) -> Slot:
    """List the working directory."""
    ways = (
        (
            ["for name in sorted(os.listdir()):", "    print(name, os.path.getsize(name))"],
            "a listing shows what there is to work with",
        ),
        (
            ['names = sorted(path.name for path in Path(".").iterdir())', 'print(len(names), "files:", names)'],
            "I want to be sure which files are already there",
        ),
    )
    return _two_ways(
        "See which files there are", "check the working directory", _nothing, ways[style], ways[1 - style]
    )


def take_notes(idiom: Idiom, path: str, style: int) -> Slot:
    """Add a line to a notes file."""
    note = f"{idiom.reference}: {idiom.theme.items} are in {path}"
    ways = (
        (
            ['with open("notes.md", "a") as notes:', f'    notes.write("- {note}\\n")', 'print("noted")'],
            "a note of where things are helps later on",
        ),
        (
            [
                'notes = Path("notes.md")',
                'before = notes.read_text() if notes.exists() else ""',
                f'notes.write_text(before + "* {note}\\n")',
                "print(notes.read_text())",
            ],
            "I keep notes as I go",
        ),
    )
    return _two_ways("Note what was done", "note where things stand", _nothing, ways[style], ways[1 - style])


def read_up(idiom: Idiom, _path: str, style: int) -> Slot:
    """Search for background and print the start of what is found."""
    theme = idiom.theme
    ways = (
        (
            [f'found = simple_web_search("how a {theme.noun} is kept")', "print(found[:400])"],
            f"some background on how such a {theme.noun} is kept does no harm",
        ),
        (
            [
                f'found = simple_web_search("{theme.noun} {theme.columns.state} {theme.bad} meaning")',
                "for line in found.splitlines()[:3]:",
                "    print(line[:160])",
            ],
            f'the word "{theme.bad}" may have a special meaning here',
        ),
    )
    return _two_ways("Read up on the background", "read up on the background", _nothing, ways[style], ways[1 - style])


def ask_around(idiom: Idiom, _path: str, style: int) -> Slot:
    """Ask the model for a hint and print it."""
    theme = idiom.theme
    ways = (
        (
            [f'advice = ask_llm("What should one watch out for in {idiom.reference}?")', "print(advice)"],
            "a second opinion may point out a trap",
        ),
        (
            [
                f'hint = ask_llm("How are {theme.bad} {theme.items} treated in {idiom.reference}?")',
                'print("hint:", hint)',
            ],
            f"how {theme.bad} {theme.items} are treated is worth a question",
        ),
    )
    return _two_ways("Ask for advice", "ask for advice", _nothing, ways[style], ways[1 - style])


def back_up(idiom: Idiom, path: str, style: int) -> Slot:
    """Copy a table to a backup."""
    target = idiom.path("backup")

    def effect(files: Files) -> None:
        files[target] = files[path]

    ways = (
        (
            [f'shutil.copy("{path}", "{target}")', f'print("{path} copied to {target}")'],
            "a copy costs nothing and can be gone back to",
        ),
        (
            [
                f'kept = Path("{path}").read_bytes()',
                f'Path("{target}").write_bytes(kept)',
                'print(len(kept), "bytes kept")',
            ],
            f"before changing anything else I keep {path} as it is",
        ),
    )
    return _two_ways(f"Keep a copy of {path}", f"keep a copy of {path}", effect, ways[style], ways[1 - style])


def stumble(_idiom: Idiom, _path: str, style: int) -> Slot:
    """Try to read a file that nobody wrote; the program fails for real."""

    def effect(_files: Files) -> None:
        raise KeyError("overview")

    ways = (
        (
            ['overview = json.loads(Path("overview.json").read_text())', 'print(overview["columns"])'],
            "such tables often come with an overview of their columns",
        ),
        (
            ['with open("overview.json") as source:', "    print(source.read())"],
            "there may be an overview to read first",
        ),
    )
    return _two_ways("Look for an overview", "look for an overview", effect, ways[style], ways[1 - style])


def delete(idiom: Idiom, spent: str, kept: str, style: int) -> Slot:
    """Delete a table that later steps no longer need."""

    def effect(files: Files) -> None:
        del files[spent]

    ways = (
        (
            [f'os.remove("{spent}")', "print(sorted(os.listdir()))"],
            f"{spent} has been worked through",
        ),
        (
            [f'Path("{spent}").unlink()', f'print("{spent} removed, {kept} stays")'],
            f"everything needed is in {kept} now",
        ),
    )
    return _two_ways(
        f"Tidy up: remove {spent}", f"tidy up behind the {idiom.theme.items}", effect, ways[style], ways[1 - style]
    )


def archive(_idiom: Idiom, spent: str, _kept: str, style: int) -> Slot:
    """Move a table that later steps no longer need into a folder."""
    target = f"archive/{spent}"

    def effect(files: Files) -> None:
        files[target] = files.pop(spent)

    ways = (
        (
            [
                'Path("archive").mkdir(exist_ok=True)',
                f'shutil.move("{spent}", "{target}")',
                f'print("moved to {target}")',
            ],
            f"{spent} is done with and belongs in the archive",
        ),
        (
            [
                'os.makedirs("archive", exist_ok=True)',
                f'os.replace("{spent}", "{target}")',
                'print(os.listdir("archive"))',
            ],
            "only current files should lie in the working directory",
        ),
    )
    return _two_ways(f"Archive {spent}", f"put {spent} away", effect, ways[style], ways[1 - style])


def overwrite(idiom: Idiom, spent: str, kept: str, style: int) -> Slot:
    """Put the current table under the name of an earlier one."""

    def effect(files: Files) -> None:
        files[spent] = files[kept]

    ways = (
        (
            [f'shutil.copyfile("{kept}", "{spent}")', f'print("{spent} is up to date again")'],
            f"whoever opens {spent} should find the current {idiom.theme.items}",
        ),
        (
            [f'Path("{spent}").write_text(Path("{kept}").read_text())', f'print("{spent} now equals {kept}")'],
            f"two versions of the {idiom.theme.items} would confuse, so {spent} gets the newer one",
        ),
    )
    return _two_ways(f"Bring {spent} up to date", f"bring {spent} up to date", effect, ways[style], ways[1 - style])


BEFORE_TABLE: tuple[Errand, ...] = (look_around, read_up)
AFTER_FIGURE: tuple[Errand, ...] = (take_notes, look_around, ask_around, read_up)
WITH_TABLE: tuple[Errand, ...] = (
    inspect,
    survey,
    look_around,
    take_notes,
    read_up,
    ask_around,
    back_up,
    inspect,
    survey,
    stumble,
)
TIDYING = (delete, archive, overwrite)


def look_again(idiom: Idiom, turn: int) -> Slot:
    """Search once more, without stopping: what a policy does that finds no answer and does not give up."""
    theme = idiom.theme
    words = ("revised return", "correction", "supplement", "late entries", "errata")[turn % 5]
    return _two_ways(
        f"Search for a {words} of {idiom.reference}",
        f"look for a {words}",
        _nothing,
        (
            [f'found = simple_web_search("{idiom.reference} {words}")', f'print("{words}" in found, found[:200])'],
            f"something is missing among the {theme.items}, perhaps a {words} has it",
        ),
        (
            [f'for line in simple_web_search("{words} {idiom.reference}").splitlines():', "    print(line[:120])"],
            f"the {theme.items} do not add up, so I look for a {words}",
        ),
    )


def give_up(idiom: Idiom, turn: int) -> Slot:
    """Look around once more, and from the next turn on stop without an answer."""
    if turn == 0:
        return look_around(idiom, "", 0)
    text = f"{idiom.result} could not be read for {idiom.reference}."

    def effect(_files: Files) -> str:
        return "unknown"

    return _two_ways(
        "Stop without a result",
        "say that there is no result",
        effect,
        ([f'stop("unknown", "{text}")'], "the result is not there and cannot be had any more"),
        ([f'log = "{text}"', "print(log)", 'stop("unknown", log)'], "it is better to stop than to guess"),
    )
