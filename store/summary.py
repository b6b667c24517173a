"""The state of a run in numbers, counted from what is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from store.causes import cause_of
from store.database import Reader, View
from store.events import BudgetSpent, Resumed, decode_event
from store.jsontypes import JsonValue
from store.runs import Run
from store.spending import Spent, by_role, load_spending, price_of_pair
from store.transaction import now_us


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Rollouts by how they ended; `error` is never evidence. `open` have not yet, `cancelled` never will."""

    success: int = 0
    failure: int = 0
    error: int = 0
    open: int = 0
    cancelled: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Deliveries that were set aside for the same cause, and the whole error of one of them."""

    handler: str
    cause: str
    error: str
    deliveries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """When work last went on after a stop (microseconds since 1970, UTC), and what had been left open."""

    time: int
    deliveries: int
    trajectories: int
    steps: int
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpentCap:
    """A cap of the budget that a run has reached: the setting's dotted key, the cap, and what was bought then."""

    setting: str
    cap: float
    spent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A run in numbers. `calls`, `tokens` and `models` are by role; tokens are prompt and completion together.

    `supervised_share` is the share of the failed trajectories' steps for which there is a pair, in [0, 1]; None
    before the first failure. `next_try` (microseconds since 1970, UTC) is when the next delivery that is put off is
    due, if one is. `resting_tasks` have spent their own budget and wait for a greater one, as the whole run does
    where `budget_spent` is there. `newest` is the seq of the last event that is counted.
    """

    run: str
    paused: bool
    tasks: int
    tasks_finished: int
    tasks_cancelled: int = 0
    trajectories: Outcomes
    steps_scored: int
    steps_unscored: int
    critical_candidates: int
    failed_steps: int  # steps of failed trajectories with an action of the policy: those that are to be scored
    branches: Outcomes
    controls: Outcomes
    pairs: int
    supervised_share: float | None
    calls: Mapping[str, int]
    tokens: Mapping[str, int]
    owed: int
    put_off: int
    resting_tasks: int
    budget_spent: SpentCap | None
    spending: list[Spent]
    models: Mapping[str, str]
    resumed: Resumption | None
    newest: int
    next_try: int | None = None
    set_aside: list[DeadLetter] = field(default_factory=list)

    def as_json(self) -> dict[str, JsonValue]:
        """The same as plain JSON values."""
        return {**asdict(self), "per_pair": price_of_pair(self.spending, self.pairs)}


async def summarise(reader: Reader, run: Run) -> Summary:
    """Count a run as it stands at one moment."""
    async with reader.view() as view:
        return await _summarise(view, run)


async def _summarise(view: View, run: Run) -> Summary:
    rollouts = await _count_rollouts(view, run.id)
    counts = await _count_steps(view, run)
    spending = await load_spending(view, run.id)
    roles = by_role(spending)
    failed_steps, supervised = counts["failed_steps"], counts["supervised_steps"]
    return Summary(
        run=run.name,
        paused=run.paused,
        tasks=counts["tasks"],
        tasks_finished=counts["finished"],
        tasks_cancelled=counts["cancelled"],
        trajectories=rollouts["trajectories"],
        steps_scored=counts["scored"],
        steps_unscored=counts["unscored"],
        critical_candidates=counts["critical"],
        failed_steps=failed_steps,
        branches=rollouts["branches"],
        controls=rollouts["controls"],
        pairs=counts["pairs"],
        supervised_share=supervised / failed_steps if failed_steps else None,
        calls={role: int(one.calls) for role, one in roles.items()},
        tokens={role: int(one.tokens) for role, one in roles.items()},
        owed=counts["owed"],
        put_off=counts["put_off"],
        next_try=counts["next_try"] or None,
        resting_tasks=counts["resting"],
        budget_spent=await _spent_cap(view, run.id),
        spending=spending,
        models=_models(run),
        resumed=await _last_resumption(view, run.id),
        set_aside=await _set_aside(view, run.id),
        newest=await view.newest(),
    )


def _models(run: Run) -> dict[str, str]:
    """The names of the models that a run fixes, by role."""
    keys = {key: key.split(".") for key in run.identity}
    return {
        parts[1]: str(run.identity[key])
        for key, parts in keys.items()
        if len(parts) == 3 and parts[0] == "models" and parts[2] == "model"
    }


async def _count_rollouts(view: View, run: int) -> dict[str, Outcomes]:
    rows = await view.fetch(
        """
        SELECT CASE WHEN t.parent IS NULL THEN 'trajectories' WHEN c.ordinal = 0 THEN 'controls'
                    ELSE 'branches' END AS sort,
               CASE WHEN t.outcome IS NOT NULL THEN t.outcome
                    WHEN t.task IN (SELECT task FROM events INDEXED BY events_ended
                                    WHERE run = :run AND kind IN ('task-finished', 'task-cancelled')
                                    AND kind = 'task-cancelled')
                    THEN 'cancelled' ELSE 'open' END AS outcome, count(*) AS n
        FROM trajectories t JOIN tasks k ON k.id = t.task LEFT JOIN candidates c ON c.id = t.candidate
        WHERE k.run = :run GROUP BY 1, 2
        """,
        {"run": run},
    )
    found: dict[str, dict[str, int]] = {"trajectories": {}, "branches": {}, "controls": {}}
    for row in rows:
        found[row["sort"]][row["outcome"]] = row["n"]
    return {sort: Outcomes(**counts) for sort, counts in found.items()}


async def _count_steps(view: View, run: Run) -> Mapping[str, int]:
    bad_max, good_min = (float(str(run.identity[f"critical.{name}"])) for name in ("bad_max", "good_min"))
    row = await view.fetch_one(
        """
        WITH mine AS (
            SELECT t.id, t.outcome FROM trajectories t JOIN tasks k ON k.id = t.task
            WHERE k.run = :run AND t.parent IS NULL
        ),
        own AS (SELECT c.trajectory, c.step, c.score FROM candidates c JOIN mine m ON m.id = c.trajectory
                WHERE c.ordinal = 0),
        ended AS MATERIALIZED (SELECT DISTINCT kind, task FROM events
                WHERE run = :run AND kind IN ('task-finished', 'task-cancelled'))
        SELECT
            (SELECT count(*) FROM tasks WHERE run = :run) AS tasks,
            (SELECT count(*) FROM ended WHERE kind = 'task-finished') AS finished,
            (SELECT count(*) FROM ended WHERE kind = 'task-cancelled') AS cancelled,
            (SELECT count(*) FROM own WHERE score IS NOT NULL) AS scored,
            (SELECT count(*) FROM own WHERE score IS NULL) AS unscored,
            (SELECT count(*) FROM own o WHERE o.score < :bad_max AND EXISTS (
                SELECT 1 FROM candidates a WHERE a.trajectory = o.trajectory AND a.step = o.step
                AND a.ordinal > 0 AND a.score > :good_min)) AS critical,
            (SELECT count(*) FROM pairs p JOIN mine m ON m.id = p.trajectory) AS pairs,
            (SELECT count(*) FROM (SELECT DISTINCT p.trajectory, p.step FROM pairs p
                JOIN mine m ON m.id = p.trajectory)) AS supervised_steps,
            (SELECT count(*) FROM steps s JOIN mine m ON m.id = s.trajectory
                WHERE m.outcome = 'failure' AND s.action_call IS NOT NULL) AS failed_steps,
            (SELECT count(*) FROM deliveries WHERE run = :run AND dead = 0) AS owed,
            (SELECT count(*) FROM deliveries WHERE run = :run AND dead = 0 AND attempts > 0) AS put_off,
            (SELECT ifnull(min(due), 0) FROM deliveries WHERE run = :run AND dead = 0 AND due > :now) AS next_try,
            (SELECT count(DISTINCT task) FROM deliveries WHERE run = :run AND dead = 2) AS resting
        """,
        {"run": run.id, "bad_max": bad_max, "good_min": good_min, "now": now_us()},
    )
    assert row is not None  # a query without FROM has one row
    return dict(row)


async def _last_resumption(view: View, run: int) -> Resumption | None:
    row = await view.fetch_one(
        "SELECT * FROM events WHERE run = ? AND kind = 'resumed' ORDER BY seq DESC LIMIT 1", (run,)
    )
    if row is None:
        return None
    event = decode_event(
        row["kind"], run=row["run"], task=row["task"], seq=row["seq"], time=row["time"], body=row["body"]
    )
    assert isinstance(event, Resumed)  # the kind that was asked for
    return Resumption(
        time=event.time,
        deliveries=event.deliveries,
        trajectories=event.trajectories,
        steps=event.steps,
        calls=event.calls,
    )


async def _spent_cap(view: View, run: int) -> SpentCap | None:
    row = await view.fetch_one(
        "SELECT * FROM events WHERE run = :run AND kind = 'budget-spent' AND task IS NULL AND seq >"
        " (SELECT ifnull(max(seq), 0) FROM events WHERE run = :run AND kind = 'resumed') ORDER BY seq DESC LIMIT 1",
        {"run": run},
    )
    if row is None:
        return None
    event = decode_event(
        row["kind"], run=row["run"], task=row["task"], seq=row["seq"], time=row["time"], body=row["body"]
    )
    assert isinstance(event, BudgetSpent)  # the kind that was asked for
    return SpentCap(setting=event.setting, cap=event.cap, spent=event.spent)


async def _set_aside(view: View, run: int) -> list[DeadLetter]:
    rows = await view.fetch(
        "SELECT handler, error, count(*) AS n FROM deliveries WHERE run = ? AND dead = 1"
        " GROUP BY handler, error ORDER BY n DESC, error",
        (run,),
    )
    examples: dict[tuple[str, str], str] = {}
    numbers = Counter[tuple[str, str]]()
    for row in rows:
        cause = row["handler"], cause_of(row["error"])
        examples.setdefault(cause, row["error"])
        numbers[cause] += row["n"]
    return [
        DeadLetter(handler=handler, cause=cause, error=examples[handler, cause], deliveries=number)
        for (handler, cause), number in numbers.most_common()
    ]
