"""The progress state: four lists of texts, kept and shown as a Python literal.

It is bounded (see `replies.bounded_state`), so the literal of a state can always be read again.
"""

from __future__ import annotations

from collections.abc import Mapping

from runtime.agents.main.replies import (
    STATE_KEYS,
    ReplyError,
    bounded_state,
    parse_literal,
    parse_plan,
    parse_reply,
)
from store.jsontypes import JsonValue


def first_state() -> str:
    """The state before the first step: nothing in any list."""
    return _literal({key: [] for key in STATE_KEYS})


def next_state(reply: str, before: str) -> str:
    """The state that a plan reply gives; one that cannot be read leaves it as it was."""
    try:
        return _literal(parse_plan(parse_reply(reply), before))
    except ReplyError:
        return before


def with_experience(state: str, lesson: str) -> str:
    """The state with one more item at the end of what has been learnt."""
    known = parse_literal(state)
    learnt = known["experience"]
    assert isinstance(learnt, list)  # in every state that was bounded
    return _literal(bounded_state({**known, "experience": [*learnt, lesson]}, known))


def _literal(state: Mapping[str, JsonValue]) -> str:
    """A progress state as a Python literal, one item a line. The standard library's pretty printer is slow."""
    lines = ["{"]
    for key, items in state.items():
        if isinstance(items, list) and items:
            lines += [f"    {key!r}: [", *(f"        {item!r}," for item in items), "    ],"]
        else:
            lines.append(f"    {key!r}: {items!r},")
    return "\n".join([*lines, "}"])
