"""A run's numbers for people: what a newcomer needs to understand what was made, and at what price."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import typer

from store.export import Pair
from store.jsontypes import JsonValue
from store.summary import Summary


def summary_json(summary: Summary, *, dataset: Path | None) -> dict[str, JsonValue]:
    """The one object that `--json` prints."""
    return {**summary.as_json(), "dataset": None if dataset is None else str(dataset)}


def summary_text(
    summary: Summary, *, dataset: Path | None, log: Path | None, more: Sequence[tuple[str, str]] = ()
) -> str:
    """The same as a table, with `more` rows before those that say where things are."""
    rows = [*_rows(summary), *more]
    if dataset is not None:
        rows.append(("dataset", str(dataset)))
    if log is not None:
        rows.append(("log", str(log)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{heading(f'{name:<{width}}')}  {value}" for name, value in rows)


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


def _rows(summary: Summary) -> Iterator[tuple[str, str]]:
    done, branches, controls = summary.trajectories, summary.branches, summary.controls
    yield "tasks", f"{summary.tasks_finished} of {summary.tasks} finished"
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
    yield "model calls", _by_role(summary.calls)
    yield "tokens", _by_role(summary.tokens)
    if summary.pairs:
        calls, tokens = sum(summary.calls.values()), sum(summary.tokens.values())
        yield "per pair", f"{calls / summary.pairs:,.0f} calls, {tokens / summary.pairs:,.0f} tokens"
    if summary.owed:
        yield "still open", f"{summary.owed} deliveries, {summary.put_off} of them put off after a failure"
    for letter in summary.set_aside:
        yield "set aside", f"{letter.deliveries} × {letter.handler}: {letter.error.splitlines()[0]}"


def _errors(count: int) -> str:
    return f", {count} error (never used as evidence)" if count else ""


def _by_role(counts: Mapping[str, int]) -> str:
    roles = ", ".join(f"{role} {count:,}" for role, count in counts.items())
    return f"{sum(counts.values()):,} ({roles})" if counts else "0"
