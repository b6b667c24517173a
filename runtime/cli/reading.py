"""Reading the task files that a command was given, and telling what is wrong with their lines."""

import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.cli.output import say
from runtime.cli.report import counted
from store.errors import TaskFileError
from store.formats.task_files import Problem, TaskFile, TaskRecord, clash, read_tasks

TASKS_HELP = "Task files: JSON lines with question and answer; - is stdin."
_STDIN = Path("stdin")


def read_all(files: Sequence[Path], *, strict: bool) -> tuple[list[TaskRecord], list[Problem]]:
    """The tasks of several files, of which `-` is stdin; each bad line is told at once.

    Raises:
        TaskFileError: a file cannot be taken or holds no task, or two files give one name to tasks that differ.
    """
    records: dict[str, TaskRecord] = {}
    origins: dict[str, Path] = {}
    problems: list[Problem] = []
    for path in files:
        file = _STDIN if path == Path("-") else path
        found = _read_stdin(strict=strict) if file is _STDIN else read_tasks(file, strict=strict)
        for problem in found.problems:
            say(str(problem))
        problems += found.problems
        # Told above: without an answer nobody can judge it.
        tasks = [record for record in found.tasks if record.answer is not None]
        if not tasks:
            raise TaskFileError(file, ["there is no task in it"])
        for record in tasks:
            earlier = records.setdefault(record.name, record)
            if not record.is_same(earlier):
                raise TaskFileError(file, [clash(record.name, str(origins[record.name]), str(file))])
            origins.setdefault(record.name, file)
    return list(records.values()), problems


def _read_stdin(*, strict: bool) -> TaskFile:
    """The tasks on stdin; files that they name lie in the working directory."""
    if sys.stdin is None:
        raise TaskFileError(_STDIN, ["it is closed"])
    return read_tasks(_STDIN, strict=strict, folder=Path(), stream=sys.stdin.buffer)


def tell_left_out(problems: Sequence[Problem]) -> None:
    """Say once more at the end that lines were left out, when what was said of each has scrolled away."""
    if problems:
        files = ", ".join(sorted({str(one.file) for one in problems}))
        say(f"{counted(len(problems), 'bad line was', 'bad lines were')} left out: {files}")
