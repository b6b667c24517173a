"""Events: what is stored is what was told."""

from __future__ import annotations

import pytest

from store.events import KINDS, StepScored, decode_event


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_has_a_docstring_and_its_own_name(kind: str) -> None:
    assert KINDS[kind].__doc__
    assert KINDS[kind].kind == kind


def test_an_event_survives_its_stored_form() -> None:
    told = StepScored(run=1, task=2, trajectory=3, step=4, score=None, alternatives=5, good=1, critical=True)
    stamped = told.stamped(seq=9, time=10)
    assert decode_event(told.kind, run=1, task=2, seq=9, time=10, body=stamped.body()) == stamped


def test_an_unknown_kind_and_a_wrong_body_are_told() -> None:
    with pytest.raises(ValueError, match="unknown kind 'later'"):
        decode_event("later", run=1, task=None, seq=1, time=1, body=b"[]")
    with pytest.raises(ValueError, match="does not fit"):
        decode_event("step-scored", run=1, task=None, seq=1, time=1, body=b"[1]")
