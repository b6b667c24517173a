"""Web search as the agents see it: a query in, a few hits out. Backends are found by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from runtime.errors import ToolError


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One result of a search, as the engine gave it: untrusted text."""

    title: str
    link: str
    content: str


class Search(Protocol):
    """A search backend."""

    async def search(self, query: str, limit: int) -> list[SearchHit]:
        """At most `limit` hits, best first.

        Raises:
            ToolError: the search cannot be made; the message is for the model.
            InfrastructureError: the backend is down or refuses us for now.
        """
        ...


class NoSearch:
    """What stands in when no backend is configured: it says so to the model instead of finding nothing."""

    async def search(self, query: str, limit: int) -> list[SearchHit]:  # noqa: ARG002 - the protocol's
        """Always refuse."""
        raise ToolError("web search is not available in this run; work with the files and what you know")


def render_hits(hits: list[SearchHit]) -> str:
    """Hits as the text that action code gets: one line each, numbered from 0."""
    if not hits:
        return "No results."
    return "\n".join(
        f"({number}) title: {hit.title}, link: {hit.link}, content: {hit.content}" for number, hit in enumerate(hits)
    )
