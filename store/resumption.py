"""What an earlier process left open in a run: the work that goes on instead of beginning anew."""

from __future__ import annotations

from dataclasses import dataclass

from store.database import Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWork:
    """Counts of what is open: deliveries owed, rollouts begun, and the steps and replies that they keep.

    `begun` is whether anything has ever been done in the run: any model has replied, or any rollout is under way.
    """

    begun: bool
    deliveries: int
    trajectories: int
    steps: int
    calls: int


async def count_open_work(reader: Reader, run: int) -> OpenWork:
    """What of a run is open."""
    # Open work is found through its deliveries, which are few, not by looking through all tasks or trajectories.
    row = await reader.fetch_one(
        """
        WITH owed AS (
            SELECT task FROM deliveries WHERE run = ? AND dead = 0
        ),
        begun AS (
            SELECT id FROM trajectories WHERE outcome IS NULL AND task IN (SELECT task FROM owed)
        )
        SELECT EXISTS (SELECT 1 FROM spending WHERE run = ?) OR EXISTS (SELECT 1 FROM begun) AS begun,
               (SELECT count(*) FROM owed) AS deliveries,
               (SELECT count(*) FROM begun) AS trajectories,
               (SELECT count(*) FROM steps WHERE trajectory IN (SELECT id FROM begun)) AS steps,
               (SELECT count(*) FROM calls WHERE trajectory IN (SELECT id FROM begun)) AS calls
        """,
        (run, run),
    )
    assert row is not None  # a query without FROM has one row
    return OpenWork(
        begun=bool(row["begun"]),
        deliveries=row["deliveries"],
        trajectories=row["trajectories"],
        steps=row["steps"],
        calls=row["calls"],
    )
