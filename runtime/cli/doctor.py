"""`cso doctor`: is this machine fit for the work, and is the data directory sound?"""

import contextlib
import os
import resource
import shutil
import sqlite3
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from runtime.cli.endpoints import endpoint_findings
from runtime.cli.exits import EXIT_FAILED
from runtime.cli.output import write_data, write_json
from runtime.config.loading import load_settings
from runtime.errors import ConfigError
from runtime.hints import with_options
from runtime.logs import configure_logs
from runtime.sandbox.footing import find_footing
from store.health import DATABASE_CHECKS, DIRECTORY_CHECKS, Check, Finding, Patient, examine

_FEW_DESCRIPTORS = 1024
_MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


def doctor(
    file: Annotated[
        Path | None, typer.Option("--config", help="Configuration file; ./config.toml where there is one.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the database and its files.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what reads the whole database.")] = False,
    no_endpoints: Annotated[bool, typer.Option("--no-endpoints", help="Do not call the model endpoints.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check the machine, the data directory and the database, also beside a daemon."""
    configure_logs("error")  # what the parts would warn of is among the findings
    folder = data or load_settings(file, os.environ, {}).settings.run.data
    patient = Patient(folder, quick=quick)
    findings: list[Finding] = []
    called = () if no_endpoints else endpoint_findings(file, os.environ)
    for finding in chain(examine(patient, checks_for(patient)), called):
        findings.append(finding)
        if not json:
            # At once, because some checks take long.
            write_data(line_of(finding))
            sys.stdout.flush()
    failed = any(finding.level == "fail" for finding in findings)
    if json:
        write_json({"data": str(folder), "ok": not failed, "findings": [asdict(finding) for finding in findings]})
    raise typer.Exit(EXIT_FAILED if failed else 0)


def checks_for(patient: Patient) -> tuple[Check, ...]:
    """The checks that make sense for a data directory, those of the machine first."""
    database = DATABASE_CHECKS if patient.file.exists() and not _is_blank(patient) else (check_database,)
    return (*MACHINE_CHECKS, *DIRECTORY_CHECKS, *database)


def _is_blank(patient: Patient) -> bool:
    """Whether there is a file and nothing in it, as where making it was cut short."""
    with contextlib.suppress(sqlite3.Error, OSError), patient.opened() as connection:
        return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None
    return False


def check_database(patient: Patient) -> Iterator[Finding]:
    """Is there a run at all?"""
    yield Finding(check="database", level="ok", text=f"{patient.directory} holds no run yet")


def check_sandbox(patient: Patient) -> Iterator[Finding]:
    """Can action code run here, apart from us?"""
    del patient
    try:
        footing = find_footing()
    except ConfigError as error:
        yield Finding(check="sandbox", level="fail", text=str(error))
        return
    whom = "users of its own" if footing.uids is not None else "this user"
    yield Finding(check="sandbox", level="ok", text=f"code runs with {footing.python}, as {whom}")


def check_descriptors(patient: Patient) -> Iterator[Finding]:
    """May a process open enough files?"""
    del patient
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else soft
    few = 0 <= most < _FEW_DESCRIPTORS
    step = f"raise the hard limit to {_FEW_DESCRIPTORS} or more (ulimit -Hn, LimitNOFILE=)" if few else ""
    text = f"up to {most} open files" if most >= 0 else "any number of open files"
    yield Finding(check="descriptors", level="warn" if few else "ok", text=text, next_step=step)


MACHINE_CHECKS: tuple[Check, ...] = (check_sandbox, check_descriptors)


def line_of(finding: Finding) -> str:
    """A finding for people: wrapped on a terminal, whole where another program searches it."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    texts = [f"{_MARKS[finding.level]}  {finding.check:<12}{finding.text}"]
    texts += [f"{'':18}→ {with_options(finding.next_step)}"] if finding.next_step else []
    indents = (" " * 18, " " * 20)
    return "\n".join(
        textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        for text, indent in zip(texts, indents, strict=False)
    )
