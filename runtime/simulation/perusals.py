"""Steps on files that nobody knows: what a policy does first with a task of which only the question is given.

Owns programs that run on any files at all, or on none, and print as much of them as such programs do.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from runtime.simulation.idiom import program
from runtime.simulation.moves import Files, Move, Slot

Perusal = Callable[[str], Slot]
_WORD = re.compile(r"\w{4,}")
_WORDS = 4


def read_files(_question: str) -> Slot:
    """Print how each file begins."""
    return _two_ways(
        "Read the files",
        "read what the task came with",
        (
            [
                'files = [path for path in sorted(Path(".").rglob("*")) if path.is_file()]',
                'print(len(files), "files in the working directory")',
                "for path in files:",
                '    with open(path, errors="replace") as source:',
                "        text = source.read(20000)",
                "    lines = text.splitlines()",
                '    print(f"--- {path}: {len(lines)} lines, {path.stat().st_size} bytes")',
                "    for line in lines[:12]:",
                "        print(line[:160])",
            ],
            "before I plan anything I want to see how each of the files begins",
        ),
        (
            [
                'for folder, _, names in os.walk("."):',
                "    for name in sorted(names):",
                "        path = os.path.join(folder, name)",
                '        with open(path, errors="replace") as source:',
                "            text = source.read(20000)",
                '        print(path, os.path.getsize(path), "bytes")',
                "        print(text[:900])",
                '        print("...", text[-200:] if len(text) > 1100 else "")',
            ],
            "beginning and end of a file tell what it is and whether it is whole",
        ),
    )


def search_files(question: str) -> Slot:
    """Print the lines of the files that hold words of the question."""
    words = f"words = {_telling(question)!r}"
    return _two_ways(
        "Search the files for the words of the question",
        "find the lines that the question is about",
        (
            [
                words,
                "found = []",
                'for path in sorted(Path(".").rglob("*")):',
                "    if not path.is_file():",
                "        continue",
                '    with open(path, errors="replace") as source:',
                "        for number, line in enumerate(source, 1):",
                "            if any(word.lower() in line.lower() for word in words):",
                "                found.append((str(path), number, line.strip()[:160]))",
                'print(len(found), "lines hold one of", words)',
                "for place in found[:15]:",
                "    print(*place)",
            ],
            "the lines that hold words of the question are where the answer should be",
        ),
        (
            [
                words,
                "pattern = re.compile('|'.join(map(re.escape, words)) or 'answer', re.IGNORECASE)",
                "hits = Counter()",
                'for path in sorted(Path(".").rglob("*")):',
                "    if path.is_file():",
                '        with open(path, errors="replace") as source:',
                "            hits.update({str(path): len(pattern.findall(source.read(200000)))})",
                "for name, number in hits.most_common(10):",
                "    print(number, name)",
                'print("no file mentions it" if not any(hits.values()) else "the first one is the most likely")',
            ],
            "how often each file speaks of the matter shows where to begin",
        ),
    )


def look_up(question: str) -> Slot:
    """Search for the question and print what is found."""
    return _two_ways(
        "Search for the question",
        "see whether somebody has written about it",
        (
            [
                f"question = {question[:200]!r}",
                "found = simple_web_search(question)",
                'print(len(found), "characters found")',
                "for line in found.splitlines()[:12]:",
                "    print(line[:200])",
            ],
            "a search costs little and may bring the fact that is missing",
        ),
        (
            [
                f"words = {_telling(question)!r}",
                "found = simple_web_search(' '.join(words))",
                "parts = [line for line in found.splitlines() if any(word in line for word in words)]",
                'print(len(parts), "lines speak of it")',
                'print("\\n".join(parts)[:1500] or found[:1500])',
            ],
            "fewer words find more, and I can sort out the rest myself",
        ),
    )


def take_stock(question: str) -> Slot:
    """Write down what is known so far, and print it."""
    return _two_ways(
        "Write down what is known",
        "note what is known and what is missing",
        (
            [
                f"question = {question[:200]!r}",
                'names = sorted(str(path) for path in Path(".").rglob("*") if path.is_file())',
                'notes = ["# What is known", "", question, "", "Files:", *names, "", "Missing: the figure itself"]',
                'with open("notes.md", "w") as target:',
                '    target.write("\\n".join(notes) + "\\n")',
                'print("\\n".join(notes)[:1500])',
            ],
            "with everything in one place the next step is easier to choose",
        ),
        (
            [
                f"open_points = {_telling(question)!r}",
                'with open("open_points.txt", "a") as target:',
                "    for point in open_points:",
                '        target.write(f"{point}: not settled\\n")',
                'with open("open_points.txt") as source:',
                "    print(source.read()[-800:])",
            ],
            "a list of open points keeps me from going in circles",
        ),
    )


def ask_for_a_hint(question: str) -> Slot:
    """Ask the model about the question and print its answer."""
    return _two_ways(
        "Ask for a hint",
        "ask how such a question is best answered",
        (
            [
                f"question = {question[:400]!r}",
                'hint = ask_llm(f"How would you go about this, in three steps? {question}")',
                'print("hint:", hint[:800])',
            ],
            "somebody who has not looked at the files may see a shorter way",
        ),
        (
            [
                f"question = {question[:400]!r}",
                'doubts = ask_llm(f"Which mistakes are easily made here? {question}")',
                "for line in doubts.splitlines()[:6]:",
                "    print(line[:200])",
            ],
            "to know the usual mistakes is half of avoiding them",
        ),
    )


PERUSALS: tuple[Perusal, ...] = (read_files, search_files, look_up, take_stock, ask_for_a_hint)


def _two_ways(title: str, aim: str, first: tuple[list[str], str], second: tuple[list[str], str]) -> Slot:
    rights = tuple(Move(program(lines), _nothing, reason, right=True) for lines, reason in (first, second))
    return Slot(title, aim, rights)


def _nothing(_files: Files) -> None:
    return None


def _telling(question: str) -> list[str]:
    """The longest words of a question, which say most about it."""
    return sorted(dict.fromkeys(_WORD.findall(question)), key=len, reverse=True)[:_WORDS]
