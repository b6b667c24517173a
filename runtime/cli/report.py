"""A run's numbers for people: what a newcomer needs to understand what was made, and at what price."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import typer

from runtime.cli.costs import spending_rows
from runtime.clock import time_until
from runtime.hints import with_options
from store.export import Pair
from store.jsontypes import JsonValue
from store.summary import Resumption, Summary

_NARROWEST = 20


def summary_json(summary: Summary, *, dataset: Path | None) -> dict[str, JsonValue]:
    """The one object that `--json` prints."""
    return {**summary.as_json(), "dataset": None if dataset is None else str(dataset)}


def summary_text(
    summary: Summary,
    *,
    dataset: Path | None,
    log: Path | None,
    more: Sequence[tuple[str, str]] = (),
    currency: str = "",
) -> str:
    """The same as a table, with `more` rows before those that say where things are; `currency` labels the cost."""
    rows = [*_rows(summary, currency), *more]
    if dataset is not None:
        rows.append(("dataset", str(dataset)))
    if log is not None:
        rows.append(("log", str(log)))
    return table(rows)


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Rows of a name and a text, the texts under one another: wrapped on a terminal, whole elsewhere."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(
        f"{heading(f'{name:<{width}}')}  {_hanging(with_options(text), width + 2)}" for name, text in rows
    )


def _hanging(text: str, indent: int) -> str:
    """A text that begins at a column, wrapped under it on a terminal."""
    if not sys.stdout.isatty():
        return text
    room = max(shutil.get_terminal_size().columns - indent, _NARROWEST)
    lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
    return ("\n" + " " * indent).join(lines)


def counted(number: int, one: str, more: str = "") -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else more or one + 's'}"


def heading(text: str) -> str:
    """Text that stands out on a terminal, and is plain anywhere else."""
    return typer.style(text, bold=True) if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


def pair_text(pair: Pair) -> str:
    """A pair in full, so that one sees what a trainer will learn from."""
    evidence = pair.evidence
    flips = f"{evidence.successes} of {evidence.rollouts} branches succeeded"
    parts = [
        heading(f"── pair {pair.id}: trajectory {pair.trajectory}, step {pair.step} ──"),
        *(f"{heading(f'[{message.role}]')}\n{message.content}\n" for message in pair.prompt),
        heading(f"── chosen: PRM score {pair.chosen_score:.2f}, {flips} ──"),
        f"{pair.chosen}\n",
        heading(f"── rejected: PRM score {pair.rejected_score:.2f}, the trajectory failed ──"),
        f"{pair.rejected}\n",
    ]
    return "\n".join(parts)


def _rows(summary: Summary, currency: str) -> Iterator[tuple[str, str]]:
    done, branches, controls = summary.trajectories, summary.branches, summary.controls
    if summary.paused:
        yield "paused", f"left alone until `cso resume --run {summary.run}`"
    cancelled = f", {summary.tasks_cancelled} given up" if summary.tasks_cancelled else ""
    yield "tasks", f"{summary.tasks_finished} of {summary.tasks} finished{cancelled}"
    yield "trajectories", f"{done.success} success, {done.failure} failure{_errors(done.error)}"
    unscored = f", {summary.steps_unscored} could not be scored" if summary.steps_unscored else ""
    yield "steps scored", f"{summary.steps_scored} of {summary.failed_steps} in failed trajectories{unscored}"
    yield "candidate critical steps", str(summary.critical_candidates)
    yield "branches", f"{branches.success} verified, {branches.failure} refuted{_errors(branches.error)}"
    if controls.success or controls.failure or controls.error:
        yield "controls", f"{controls.success} success, {controls.failure} failure{_errors(controls.error)}"
    yield "preference pairs", str(summary.pairs)
    if summary.supervised_share is not None:
        yield "steps supervised", f"{summary.supervised_share:.1%} of the steps of failed trajectories"
    yield from spending_rows(summary, currency)
    if summary.budget_spent:
        cap = summary.budget_spent
        yield "budget spent", f"{cap.setting} is {cap.cap:,.10g}: nothing new is begun until it is raised"
    if summary.resting_tasks:
        yield (
            "at rest",
            f"{counted(summary.resting_tasks, 'task')} whose own budget is spent: `cso tail --kind budget-spent`",
        )
    if summary.resumed:
        yield "last resumed", _resumption(summary.resumed)
    if summary.owed:
        yield "still open", counted(summary.owed, "delivery", "deliveries") + _put_off(summary)
    for letter in summary.set_aside:
        yield "set aside", f"{letter.deliveries} × {letter.handler}: {letter.cause}"
    if summary.set_aside:
        yield "", "put back with `cso retry --all`; which tasks: `cso tail --kind delivery-failed`"


def _put_off(summary: Summary) -> str:
    if not summary.put_off:
        return ""
    when = "" if summary.next_try is None else f", the next for {time_until(summary.next_try / 1e6)} more"
    return f", {summary.put_off} of them put off after a failure{when}"


def _errors(count: int) -> str:
    return f", {count} error (never used as evidence)" if count else ""


def _resumption(resumed: Resumption) -> str:
    when = datetime.fromtimestamp(resumed.time / 1e6).astimezone()
    return (
        f"{when:%Y-%m-%d %H:%M:%S}, with {counted(resumed.deliveries, 'delivery', 'deliveries')} owed and"
        f" {counted(resumed.trajectories, 'rollout')} under way, of which {counted(resumed.steps, 'step')} and"
        f" {counted(resumed.calls, 'paid reply', 'paid replies')} were kept"
    )
