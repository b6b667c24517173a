"""Reading the task files that a command was given, and telling what is wrong with their lines."""

from collections.abc import Sequence
from pathlib import Path

from runtime.cli.output import say
from runtime.cli.report import counted
from store.errors import TaskFileError
from store.formats.task_files import Problem, TaskRecord, read_tasks


def read_all(files: Sequence[Path], *, strict: bool) -> tuple[list[TaskRecord], list[Problem]]:
    """The tasks of several files; each bad line is told at once.

    Raises:
        TaskFileError: a file cannot be taken or holds no task, or two files have a task of the same name.
    """
    records: dict[str, TaskRecord] = {}
    origins: dict[str, Path] = {}
    problems: list[Problem] = []
    for file in files:
        found = read_tasks(file, strict=strict)
        for problem in found.problems:
            say(str(problem))
        problems += found.problems
        # Told above: without an answer nobody can judge it.
        tasks = [record for record in found.tasks if record.answer is not None]
        if not tasks:
            raise TaskFileError(file, ["there is no task in it"])
        for record in tasks:
            if record.name in records:
                raise TaskFileError(file, [f"task {record.name!r} is also in {origins[record.name]}: rename one"])
            records[record.name] = record
            origins[record.name] = file
    return list(records.values()), problems


def tell_left_out(problems: Sequence[Problem]) -> None:
    """Say once more at the end that lines were left out, when what was said of each has scrolled away."""
    if problems:
        files = ", ".join(sorted({str(one.file) for one in problems}))
        say(f"{counted(len(problems), 'bad line was', 'bad lines were')} left out: {files}")
