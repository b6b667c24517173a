"""`cso` finds its commands without importing them and turns errors into messages and exit codes."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from runtime.cli import main as entry
from runtime.errors import ConfigError, CsoError, InfrastructureError

if TYPE_CHECKING:
    from pathlib import Path


def _cso(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli.main", *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environ},
    )


def _exit_code(*args: str) -> object:
    with pytest.raises(SystemExit) as caught:
        entry.main(args)
    return caught.value.code


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> type[_Raising]:
    monkeypatch.setitem(entry.COMMANDS, "config", (f"{__name__}:raise_it", "Raise."))
    return _Raising


class _Raising:
    error: BaseException = CsoError("none")


def raise_it() -> None:
    """Raise what the test asks for."""
    raise _Raising.error


@pytest.mark.parametrize("name", entry.COMMANDS)
def test_every_command_exists_and_its_summary_is_the_first_line_of_its_docstring(name: str) -> None:
    place, summary = entry.COMMANDS[name]
    module, _, function = place.partition(":")
    documentation = getattr(importlib.import_module(module), function).__doc__
    assert documentation.partition("\n")[0] == summary


def test_help_lists_every_command_and_the_exit_codes() -> None:
    result = _cso("--help")
    assert result.returncode == 0
    assert all(name in result.stdout for name in entry.COMMANDS)
    told = " ".join(result.stdout.split())
    assert (
        "Exit codes: 0 done, or stopped by SIGTERM, 1 failed or work was set aside, 2 wrong usage or configuration"
        in told
    )
    assert "3 the budget is spent, 4 the data" in told
    assert result.stderr == ""


def test_without_arguments_help_is_shown() -> None:
    assert _cso().stdout == _cso("--help").stdout


def test_the_version_is_shown() -> None:
    result = _cso("--version")
    assert result.returncode == 0
    assert result.stdout.startswith("cso 0.")


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(option: str) -> None:
    loaded = _imported_by(f"main([{option!r}])")
    assert "typer" in loaded
    assert not loaded & {"pydantic", "rich", "aiohttp", "openai", "orjson", "asyncio", "anyio"}


@pytest.mark.parametrize(
    ("command", "needed", "not_needed"),
    [
        # Colours, metrics and the clients of other providers: what a daemon may never need.
        ("serve", "aiohttp.web", {"rich", "prometheus_client", "openai", "anthropic", "aiobotocore"}),
        ("run", "aiohttp.web", {"rich", "prometheus_client", "openai", "runtime.simulation"}),
        # What talks to a daemon, where there may be none; and the daemon itself.
        ("status", "aiosqlite", {"aiohttp", "structlog", "rich", "runtime.daemon", "runtime.bus"}),
        ("tail", "aiosqlite", {"aiohttp", "structlog", "rich.console", "runtime.daemon", "runtime.bus"}),
        ("submit", "aiosqlite", {"aiohttp", "structlog", "rich", "runtime.daemon", "runtime.bus"}),
    ],
)
def test_a_command_does_not_wait_for_what_it_may_not_need(command: str, needed: str, not_needed: set[str]) -> None:
    loaded = _imported_by(f"load_command({command!r})")
    assert needed in loaded
    assert not loaded & not_needed


def _imported_by(call: str) -> set[str]:
    """The modules that a process has imported once it has made a call."""
    code = f"""
import sys
from runtime.cli.main import load_command, main
try:
    {call}
finally:
    sys.stderr.write(" ".join(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    return set(result.stderr.split())


def test_an_unknown_command_or_option_is_wrong_usage_with_a_hint() -> None:
    result = _cso("confg")
    assert result.returncode == 2
    assert "Did you mean 'config'?" in result.stderr
    assert _cso("config", "--nope").returncode == 2


def test_a_command_has_its_own_help() -> None:
    result = _cso("init", "-h")
    assert result.returncode == 0
    assert "--force" in result.stdout


@pytest.mark.parametrize(
    ("typed", "position", "offered"), [("cso con", "1", "config"), ("cso config --ch", "2", "--changed")]
)
def test_the_shell_completes_commands_and_their_options(typed: str, position: str, offered: str) -> None:
    result = _cso(_CSO_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=position)
    assert result.stdout.split() == [offered]


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("wrong"), 2), (CsoError("wrong"), 1), (InfrastructureError("wrong"), 1)],
)
def test_an_expected_error_is_one_message_and_a_code(
    raising: type[_Raising], capsys: pytest.CaptureFixture[str], error: CsoError, code: int
) -> None:
    raising.error = error
    assert _exit_code("config") == code
    assert capsys.readouterr().err == "error: wrong\n"


def test_expected_errors_of_a_task_group_are_each_told_once(
    raising: type[_Raising], capsys: pytest.CaptureFixture[str]
) -> None:
    inner = ExceptionGroup("inner", [CsoError("second"), ConfigError("first")])
    raising.error = ExceptionGroup("outer", [ConfigError("first"), inner])
    assert _exit_code("config") == 1
    assert capsys.readouterr().err == "error: first\nerror: second\n"


def test_an_unexpected_error_in_a_group_keeps_its_traceback(raising: type[_Raising]) -> None:
    raising.error = ExceptionGroup("outer", [ConfigError("first"), ValueError("a bug")])
    with pytest.raises(ExceptionGroup):
        entry.main(["config"])


def test_an_unexpected_error_keeps_its_traceback(raising: type[_Raising]) -> None:
    raising.error = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        entry.main(["config"])


def test_an_interrupt_ends_with_its_own_code(raising: type[_Raising]) -> None:
    raising.error = KeyboardInterrupt()
    assert _exit_code("config") == 130


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as closed:
        result = subprocess.run(
            [sys.executable, "-m", "runtime.cli.main", "config"],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    assert result.returncode == 1
    assert result.stderr == ""


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_command_whose_output_is_closed_does_its_work(closed: str) -> None:
    ended = subprocess.run(
        ["sh", "-c", f'exec "$0" -m runtime.cli.main config {closed}', sys.executable],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("command", [["config"], ["config", "--json"], ["--help"], ["status", "-h"]])
def test_output_that_cannot_be_written_is_an_error_in_a_line(command: list[str]) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123 - a device
        ended = subprocess.run(
            [sys.executable, "-m", "runtime.cli.main", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert (ended.returncode, ended.stderr) == (1, "error: the output cannot be written: No space left on device\n")
