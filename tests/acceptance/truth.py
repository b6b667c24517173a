"""Whether everything that a run has decided was decided by replies that a model truly gave.

The other side of the story is the server's own record: a reply is true if the server gave it without a fault.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Sequence
from pathlib import Path

import orjson

from handlers.judging import parse_verdict
from handlers.scoring import parse_score
from runtime.simulation.faults import Fault
from runtime.simulation.record import Entry
from runtime.simulation.standins import Standins
from runtime.simulation.world import World
from store.blobs import decode_text
from store.calls import FILTERED
from store.database import FILE_NAME

_CALLS = """
SELECT c.digest, c.trajectory, c.step, c.role, c.finish_reason, b.data FROM calls c JOIN blobs b ON b.id = c.reply
"""
_JUDGED = """
SELECT t.id, t.outcome, b.data FROM trajectories t LEFT JOIN blobs b ON b.id = t.answer
WHERE t.outcome IN ('success', 'failure')
"""
_PAIRS = """
SELECT p.successes, p.rollouts, sum(t.outcome = 'success') AS flipped, count(*) AS judged
FROM pairs p JOIN trajectories t ON t.candidate = p.candidate WHERE t.outcome IN ('success', 'failure') GROUP BY p.id
"""


def assert_only_true_replies_count(
    data: Path, world: World, entries: Sequence[Entry], *, refusals: Collection[Fault]
) -> None:
    """Fail if a reply in the journal, an outcome, a score or a pair does not go back to what a model said.

    Args:
        entries: the server's record of the whole run.
        refusals: faults that the journal may hold, as what they are.
    """
    with contextlib.closing(sqlite3.connect(data / FILE_NAME)) as connection:
        connection.row_factory = sqlite3.Row
        calls = connection.execute(_CALLS).fetchall()
        _assert_replies(calls, world, entries, refusals)
        _assert_outcomes(calls, connection.execute(_JUDGED).fetchall())
        _assert_scores(calls, connection.execute("SELECT * FROM candidates WHERE score IS NOT NULL").fetchall())
        for pair in connection.execute(_PAIRS).fetchall():
            assert (pair["successes"], pair["rollouts"]) == (pair["flipped"], pair["judged"])


def _assert_replies(
    calls: Sequence[sqlite3.Row], world: World, entries: Sequence[Entry], refusals: Collection[Fault]
) -> None:
    standins = Standins(world)
    given = {entry.digest: entry.body for entry in entries if entry.fault is None and entry.status == 200}
    refused = {entry.digest for entry in entries if entry.fault in refusals}
    for call in calls:
        if call["finish_reason"] == FILTERED:
            assert call["digest"].hex() in refused
        else:
            assert decode_text(call["data"]) == standins.reply(orjson.loads(given[call["digest"].hex()]))


def _assert_outcomes(calls: Sequence[sqlite3.Row], trajectories: Sequence[sqlite3.Row]) -> None:
    verdicts = {
        (call["trajectory"], parse_verdict(decode_text(call["data"]))) for call in calls if _is(call, "judge")
    }
    for trajectory in trajectories:
        if decode_text(trajectory["data"]).strip():
            assert (trajectory["id"], trajectory["outcome"] == "success") in verdicts
        else:  # there is nothing to judge
            assert trajectory["outcome"] == "failure"


def _assert_scores(calls: Sequence[sqlite3.Row], candidates: Sequence[sqlite3.Row]) -> None:
    scores = {
        (call["trajectory"], call["step"], parse_score(decode_text(call["data"])))
        for call in calls
        if _is(call, "prm")
    }
    for candidate in candidates:
        assert (candidate["trajectory"], candidate["step"], candidate["score"]) in scores


def _is(call: sqlite3.Row, role: str) -> bool:
    return bool(call["role"] == role and call["finish_reason"] != FILTERED)
