"""The state of a run in numbers, counted from what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from store.database import Reader
from store.jsontypes import JsonValue
from store.runs import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Rollouts by how they ended; `error` is never evidence. `open` have not ended."""

    success: int = 0
    failure: int = 0
    error: int = 0
    open: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Deliveries that were set aside with the same error."""

    handler: str
    error: str
    deliveries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A run in numbers. `calls` and `tokens` are by role; tokens are prompt and completion together.

    `supervised_share` is the share of the failed trajectories' steps for which there is a pair, in [0, 1]; None
    before the first failure.
    """

    run: str
    tasks: int
    tasks_finished: int
    trajectories: Outcomes
    steps_scored: int
    steps_unscored: int
    critical_candidates: int
    failed_steps: int  # steps of failed trajectories: those that are to be scored
    branches: Outcomes
    controls: Outcomes
    pairs: int
    supervised_share: float | None
    calls: Mapping[str, int]
    tokens: Mapping[str, int]
    owed: int
    put_off: int
    set_aside: list[DeadLetter] = field(default_factory=list)

    def as_json(self) -> dict[str, JsonValue]:
        """The same as plain JSON values."""
        return asdict(self)


async def summarise(reader: Reader, run: Run) -> Summary:
    """Count a run as it stands now."""
    rollouts = await _count_rollouts(reader, run.id)
    calls = await reader.fetch(
        "SELECT c.role, count(*) AS calls, sum(c.prompt_tokens + c.completion_tokens) AS tokens FROM calls c"
        " JOIN trajectories t ON t.id = c.trajectory JOIN tasks k ON k.id = t.task WHERE k.run = ?"
        " GROUP BY c.role ORDER BY c.role",
        (run.id,),
    )
    counts = await _count_steps(reader, run)
    failed_steps, supervised = counts["failed_steps"], counts["supervised_steps"]
    return Summary(
        run=run.name,
        tasks=counts["tasks"],
        tasks_finished=counts["finished"],
        trajectories=rollouts["trajectories"],
        steps_scored=counts["scored"],
        steps_unscored=counts["unscored"],
        critical_candidates=counts["critical"],
        failed_steps=failed_steps,
        branches=rollouts["branches"],
        controls=rollouts["controls"],
        pairs=counts["pairs"],
        supervised_share=supervised / failed_steps if failed_steps else None,
        calls={row["role"]: row["calls"] for row in calls},
        tokens={row["role"]: row["tokens"] for row in calls},
        owed=counts["owed"],
        put_off=counts["put_off"],
        set_aside=await _set_aside(reader, run.id),
    )


async def _count_rollouts(reader: Reader, run: int) -> dict[str, Outcomes]:
    rows = await reader.fetch(
        """
        SELECT CASE WHEN t.parent IS NULL THEN 'trajectories' WHEN c.ordinal = 0 THEN 'controls'
                    ELSE 'branches' END AS sort,
               ifnull(t.outcome, 'open') AS outcome, count(*) AS n
        FROM trajectories t JOIN tasks k ON k.id = t.task LEFT JOIN candidates c ON c.id = t.candidate
        WHERE k.run = ? GROUP BY 1, 2
        """,
        (run,),
    )
    found: dict[str, dict[str, int]] = {"trajectories": {}, "branches": {}, "controls": {}}
    for row in rows:
        found[row["sort"]][row["outcome"]] = row["n"]
    return {sort: Outcomes(**counts) for sort, counts in found.items()}


async def _count_steps(reader: Reader, run: Run) -> Mapping[str, int]:
    bad_max, good_min = (float(str(run.identity[f"critical.{name}"])) for name in ("bad_max", "good_min"))
    row = await reader.fetch_one(
        """
        WITH mine AS (
            SELECT t.id, t.outcome FROM trajectories t JOIN tasks k ON k.id = t.task
            WHERE k.run = :run AND t.parent IS NULL
        ),
        own AS (SELECT c.trajectory, c.step, c.score FROM candidates c JOIN mine m ON m.id = c.trajectory
                WHERE c.ordinal = 0)
        SELECT
            (SELECT count(*) FROM tasks WHERE run = :run) AS tasks,
            (SELECT count(*) FROM events WHERE run = :run AND kind = 'task-finished') AS finished,
            (SELECT count(*) FROM own WHERE score IS NOT NULL) AS scored,
            (SELECT count(*) FROM own WHERE score IS NULL) AS unscored,
            (SELECT count(*) FROM own o WHERE o.score < :bad_max AND EXISTS (
                SELECT 1 FROM candidates a WHERE a.trajectory = o.trajectory AND a.step = o.step
                AND a.ordinal > 0 AND a.score > :good_min)) AS critical,
            (SELECT count(*) FROM pairs p JOIN mine m ON m.id = p.trajectory) AS pairs,
            (SELECT count(*) FROM (SELECT DISTINCT p.trajectory, p.step FROM pairs p
                JOIN mine m ON m.id = p.trajectory)) AS supervised_steps,
            (SELECT count(*) FROM steps s JOIN mine m ON m.id = s.trajectory
                WHERE m.outcome = 'failure') AS failed_steps,
            (SELECT count(*) FROM deliveries d JOIN events e ON e.seq = d.event
                WHERE e.run = :run AND d.dead = 0) AS owed,
            (SELECT count(*) FROM deliveries d JOIN events e ON e.seq = d.event
                WHERE e.run = :run AND d.dead = 0 AND d.attempts > 0) AS put_off
        """,
        {"run": run.id, "bad_max": bad_max, "good_min": good_min},
    )
    assert row is not None  # a query without FROM has one row
    return dict(row)


async def _set_aside(reader: Reader, run: int) -> list[DeadLetter]:
    rows = await reader.fetch(
        "SELECT d.handler, d.error, count(*) AS n FROM deliveries d JOIN events e ON e.seq = d.event"
        " WHERE e.run = ? AND d.dead = 1 GROUP BY d.handler, d.error ORDER BY n DESC",
        (run,),
    )
    return [DeadLetter(handler=row["handler"], error=row["error"], deliveries=row["n"]) for row in rows]
