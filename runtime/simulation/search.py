"""The simulated world's search: hits that depend on the world and the query alone.

A query that names a scenario finds what is published about it, best match first; all other hits are about nothing in
particular.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from runtime.search import SearchHit
from runtime.simulation.chance import Chance

if TYPE_CHECKING:
    from runtime.simulation.world import World

__all__ = ["SearchHit", "WorldSearch"]

_WORD = re.compile(r"[a-z0-9-]+")
_SITES = ("almanac.example", "notices.example", "records.example", "forum.example", "gazette.example")
_PAGES = (
    ("How to keep a table tidy", "Give each column one meaning, write dates in one way and never merge cells."),
    ("Rounding: when and when not to", "Round once, at the end, and say so. Until then keep all digits."),
    ("Frequently asked questions", "Older notices stay online for reference. The latest edition counts."),
    ("A short history of record keeping", "Clay, paper, cards, disks: the medium changed, the mistakes did not."),
    ("Reading figures with care", "A largest value is not a total, and a total is not an average."),
    ("Opening hours and contact", "The office answers letters within three working days, except in August."),
    ("Style guide for reports", "State the figure first, its unit next, and where it was read last."),
)


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


class WorldSearch:
    """The search backend of a world."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def search(self, query: str, limit: int = 7) -> list[SearchHit]:
        """Return at most `limit` hits for a query, best first."""
        return self.find(query, limit)

    def find(self, query: str, limit: int = 7) -> list[SearchHit]:
        """Return what `search` returns, without waiting."""
        task = self._world.find(query)
        wanted = _words(query)
        published = list(task.hits) if task else []
        published.sort(key=lambda hit: -len(wanted & _words(f"{hit.title} {hit.content}")))
        draws = Chance(self._world.seed, "search", query)
        pages = draws.shuffled(_PAGES)[: max(0, limit - len(published))]
        others = [
            SearchHit(title, f"https://{draws.pick(_SITES)}/{draws.between(100, 9999)}", content)
            for title, content in pages
        ]
        return [*published, *others][:limit]
