"""What a run has bought: calls, tokens and cost by role and by stage of the method, counted with every reply."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from store.database import Reader, View
from store.jsontypes import JsonValue
from store.transaction import Transaction

Stage = Literal["collect", "resample", "verify"]
STAGES: tuple[Stage, ...] = ("collect", "resample", "verify")
MICROS = 1_000_000  # the journal counts money in millionths, so that sums stay exact


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Calls and what they took. `cached_tokens` are part of `prompt_tokens`.

    `cost` is in the currency of the prices, over the calls whose cost is known; None if it is known of none. Of
    `unpriced` calls it is not; `unmetered` ones are those among them whose endpoint did not report its tokens.
    """

    role: str
    stage: Stage
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost: float | None
    unpriced: int
    unmetered: int

    @property
    def tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Bought:
    """The counters of a budget: calls, tokens, and cost in millionths, unknown ones as 0."""

    calls: int = 0
    tokens: int = 0
    micros: int = 0


def add_spending(
    transaction: Transaction,
    *,
    run: int,
    trajectory: int,
    role: str,
    prompt_tokens: int,
    completion_tokens: int,
    cached_tokens: int,
    cost: int | None,
) -> None:
    """Count a call that is journalled with this write, about a trajectory of the run; `cost` is in millionths.

    Calls about a branch are of verify; those of expert and PRM about another trajectory are of resample.
    """
    transaction.execute(
        """
        INSERT INTO spending VALUES (
            :run, :role,
            CASE WHEN (SELECT parent FROM trajectories WHERE id = :trajectory) IS NOT NULL THEN 'verify'
                 WHEN :role IN ('expert', 'prm') THEN 'resample' ELSE 'collect' END,
            1, :prompt_tokens, :completion_tokens, :cached_tokens, ifnull(:cost, 0), :cost IS NULL,
            :cost IS NULL AND :prompt_tokens = 0
        )
        ON CONFLICT DO UPDATE SET
            calls = calls + 1,
            prompt_tokens = prompt_tokens + excluded.prompt_tokens,
            completion_tokens = completion_tokens + excluded.completion_tokens,
            cached_tokens = cached_tokens + excluded.cached_tokens,
            cost = cost + excluded.cost,
            unpriced = unpriced + excluded.unpriced,
            unmetered = unmetered + excluded.unmetered
        """,
        {
            "run": run,
            "trajectory": trajectory,
            "role": role,
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "cached_tokens": cached_tokens,
            "cost": cost,
        },
    )


async def roles_heard(reader: Reader) -> frozenset[str]:
    """The roles that have replied to any run."""
    return frozenset(row["role"] for row in await reader.fetch("SELECT DISTINCT role FROM spending"))


async def load_spending(view: View, run: int) -> list[Spent]:
    """What a run has bought so far, by role and stage: those that have calls, roles in alphabetical order."""
    rows = await view.fetch("SELECT * FROM spending WHERE run = ? ORDER BY role, stage", (run,))
    return [
        Spent(
            role=row["role"],
            stage=row["stage"],
            calls=row["calls"],
            prompt_tokens=row["prompt_tokens"],
            completion_tokens=row["completion_tokens"],
            cached_tokens=row["cached_tokens"],
            cost=None if row["unpriced"] == row["calls"] else row["cost"] / MICROS,
            unpriced=row["unpriced"],
            unmetered=row["unmetered"],
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What every run has bought, and every task of which something is still owed, up to the event `newest`."""

    runs: Mapping[int, Bought]
    tasks: Mapping[int, Bought]
    newest: int


async def count_bought(reader: Reader) -> Counted:
    """What has been bought, as of one moment."""
    async with reader.view() as view:
        newest = await view.newest()
        runs = await view.fetch(
            "SELECT run AS id, sum(calls) AS calls, sum(prompt_tokens + completion_tokens) AS tokens,"
            " sum(cost) AS micros FROM spending GROUP BY run"
        )
        tasks = await view.fetch(
            "SELECT t.task AS id, count(*) AS calls, sum(c.prompt_tokens + c.completion_tokens) AS tokens,"
            " ifnull(sum(c.cost), 0) AS micros FROM trajectories t JOIN calls c ON c.trajectory = t.id"
            " WHERE t.task IN (SELECT task FROM deliveries) GROUP BY t.task"
        )
    return Counted(runs=_bought(runs), tasks=_bought(tasks), newest=newest)


def _bought(rows: Iterable[sqlite3.Row]) -> dict[int, Bought]:
    return {row["id"]: Bought(row["calls"], row["tokens"], row["micros"]) for row in rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """Calls, tokens and cost of several together; `cost` is of those whose cost is known, None if it is of none."""

    calls: float
    tokens: float
    cost: float | None

    def per(self, count: int) -> Sum:
        """The share of one among `count`, which is above 0."""
        cost = None if self.cost is None else self.cost / count
        return Sum(calls=self.calls / count, tokens=self.tokens / count, cost=cost)

    def as_json(self) -> dict[str, JsonValue]:
        """The same as plain JSON values."""
        return {"calls": self.calls, "tokens": self.tokens, "cost": self.cost}


def add_up(spending: Iterable[Spent]) -> Sum:
    """All of it together."""
    spent = list(spending)
    known = [one.cost for one in spent if one.cost is not None]
    return Sum(
        calls=sum(one.calls for one in spent),
        tokens=sum(one.tokens for one in spent),
        cost=sum(known) if known else None,
    )


def by_role(spending: Sequence[Spent]) -> dict[str, Sum]:
    """What each role took, in alphabetical order."""
    return {role: add_up(one for one in spending if one.role == role) for role in sorted({s.role for s in spending})}


def by_stage(spending: Sequence[Spent]) -> dict[str, Sum]:
    """What each stage took, in the order of the method."""
    present = {one.stage for one in spending}
    return {stage: add_up(one for one in spending if one.stage == stage) for stage in STAGES if stage in present}


def price_of_pair(spending: Sequence[Spent], pairs: int) -> dict[str, JsonValue] | None:
    """What a verified pair took on average, in all, by role and by stage; None before the first."""
    if not pairs:
        return None
    roles: dict[str, JsonValue] = {role: spent.per(pairs).as_json() for role, spent in by_role(spending).items()}
    stages: dict[str, JsonValue] = {stage: spent.per(pairs).as_json() for stage, spent in by_stage(spending).items()}
    return {**add_up(spending).per(pairs).as_json(), "by_role": roles, "by_stage": stages}
