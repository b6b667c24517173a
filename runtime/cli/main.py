"""The entry point `cso`: finds the command, runs it, and turns what it raises into a message and an exit code.

A command is a function in its own module, imported only when it runs: `cso --help` and shell completion read
the table `COMMANDS` alone, so commands may import whatever they need at the top of their files.
"""

from __future__ import annotations

import functools
import gc
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

from runtime.cli.exits import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_STORAGE, EXIT_USAGE
from runtime.cli.output import UNWRITTEN, say_error, write_data
from runtime.errors import ConfigError, CsoError
from runtime.hints import remember_options
from store.errors import StorageError, TaskFileError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from typer._click.core import Command, Context

# Name, "module:function", and the first line of the function's docstring.
COMMANDS = {
    "demo": ("runtime.cli.demo:demo", "Show the whole method on a generated task set with simulated models."),
    "run": ("runtime.cli.run:run", "Collect, resample and verify: tasks in, verified preference pairs out."),
    "serve": ("runtime.cli.serve:serve", "Work on tasks as they come, for weeks if need be, until told to stop."),
    "submit": (
        "runtime.cli.submit:submit",
        "Put tasks into the queue; those that the run has already are left alone.",
    ),
    "status": ("runtime.cli.status:status", "Show how far each run is, what it cost, and what was set aside."),
    "tail": ("runtime.cli.tail:tail", "Show what happened in the runs, and follow what happens."),
    "retry": ("runtime.cli.retry:retry", "Put work that was set aside back into the queue, its failures forgotten."),
    "cancel": (
        "runtime.cli.cancel:cancel",
        "Give a task up: nothing more is done for it, and what was earned stays.",
    ),
    "pause": (
        "runtime.cli.pause:pause",
        "Leave a run alone until `cso resume`; what it has and what is owed to it stays.",
    ),
    "resume": ("runtime.cli.resume:resume", "Take a paused run up again, from where it stood."),
    "export": ("runtime.cli.export:export", "Write the verified preference pairs of a run for a trainer."),
    "doctor": (
        "runtime.cli.doctor:doctor",
        "Check the machine, the data directory and the database, also beside a daemon.",
    ),
    "gc": ("runtime.cli.gc:gc", "Drop texts and files that no record refers to, and give their space back."),
    "init": ("runtime.cli.init:init", "Write a commented config.toml with every setting's default."),
    "config": ("runtime.cli.config:config", "Show the configuration in effect and where each value came from."),
}

_EPILOG = (
    "Exit codes: 0 done, or stopped by SIGTERM, 1 failed or work was set aside, 2 wrong usage or configuration, "
    "3 the budget is spent, 4 the data directory cannot be used, 130 interrupted."
)
_SETTINGS = {"help_option_names": ["-h", "--help"]}


def load_command(name: str) -> Command:
    """Import the function of a command and build the command from its signature."""
    module, _, function = COMMANDS[name][0].partition(":")
    single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    single.command(name, context_settings=_SETTINGS)(_remembering(getattr(_load(module), function)))
    return typer.main.get_command(single)


def _load(module: str) -> ModuleType:
    """Import a module. What is loaded stays, and to look for garbage among it would take a tenth of the time."""
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()


def _remembering(function: Callable[..., None]) -> Callable[..., None]:
    """A command that first has hints remember which configuration and data it was given."""

    @functools.wraps(function)
    def command(**options: Any) -> None:  # of whatever types the command has
        remember_options(config=options.get("file"), data=options.get("data"))
        function(**options)

    return command


class _LazyGroup(TyperGroup):
    """Lists commands from the table and imports only the one that is run."""

    def list_commands(self, ctx: Context) -> list[str]:  # noqa: ARG002  # the signature is typer's
        self.commands = {name: TyperCommand(name, help=summary) for name, (_, summary) in COMMANDS.items()}
        return list(self.commands)

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        self.list_commands(ctx)
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name in COMMANDS else command, rest


# Typer's markup needs rich, whose import alone would take as long as all the rest of the help page.
app = typer.Typer(
    name="cso",
    cls=_LazyGroup,
    epilog=_EPILOG,
    context_settings=_SETTINGS,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        write_data(f"cso {version('cso-runtime')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def cso(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Turn an agent's failed trajectories into preference pairs whose outcome was verified."""
    del version
    if ctx.invoked_subcommand is None:
        write_data(ctx.get_help())


def main(args: Sequence[str] | None = None) -> None:
    """Run `cso` with `args`, by default the process's own, and exit with its code."""
    # Closed by whoever started us, as by `>&-`: what is written there is for nobody.
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    sys.exit(_run(args))


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


def _run(args: Sequence[str] | None) -> int:
    try:
        code = _invoke(args)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read our output has left
        code = EXIT_FAILED
    except OSError as error:
        # Help pages are written by typer, and nothing else is done on the way to one.
        if not {*_SETTINGS["help_option_names"]} & {*(sys.argv[1:] if args is None else args)}:
            raise
        say_error(f"{UNWRITTEN}: {error.strerror}")
        code = EXIT_FAILED
    try:
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and code != EXIT_FAILED:
            say_error(f"{UNWRITTEN}: {error.strerror}")
        # What is still buffered goes nowhere, or the interpreter would complain about it while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    return code


def _invoke(args: Sequence[str] | None) -> int:
    """Run the command line and return its exit code; errors meant for people become one message each."""
    try:
        app(args, prog_name="cso")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except CsoError as error:
        return _tell([error])
    except ExceptionGroup as group:
        # Task groups wrap what their children raise; anything unexpected among it keeps its traceback.
        expected, unexpected = group.split(CsoError)
        if unexpected is not None or expected is None:
            raise
        return _tell(list(_flat(expected)))
    return 0


def _flat(group: ExceptionGroup[CsoError]) -> Sequence[CsoError]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_flat(error) if isinstance(error, ExceptionGroup) else [error])
    ]


def _tell(errors: Sequence[CsoError]) -> int:
    for text in dict.fromkeys("; ".join([str(error), *getattr(error, "__notes__", ())]) for error in errors):
        say_error(text)
    if any(isinstance(error, StorageError) for error in errors):
        return EXIT_STORAGE
    return EXIT_USAGE if all(_is_the_users(error) for error in errors) else EXIT_FAILED


def _is_the_users(error: CsoError) -> bool:
    """Whether the command line, the configuration or a task file must be changed, and nothing else helps."""
    # Imported here because the help page must not wait for it.
    from store.tasks import ChangedTaskError

    return isinstance(error, (ConfigError, TaskFileError, ChangedTaskError))


if __name__ == "__main__":
    main()
