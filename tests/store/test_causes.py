"""Errors that one remedy would end have one cause, whatever else their texts say."""

from __future__ import annotations

import pytest

from store.causes import cause_of


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (
            "endpoint policy: the server failed (status 500, 3 attempts, request req-1f); it said: {\n at 12:01}",
            "endpoint policy: the server failed (status 500)",
        ),
        ("endpoint policy: the server failed (status 500)", "endpoint policy: the server failed (status 500)"),
        ("endpoint prm: cannot connect: refused (4 attempts)", "endpoint prm: cannot connect: refused"),
        ("endpoint prm: rate (request a, 2 attempts) (and 3 more)", "endpoint prm: rate"),
        (
            "the judge gave no readable verdict on t-7/0@3.1.0: other",
            "the judge gave no readable verdict on a rollout: other",
        ),
        ("the judge gave no readable verdict on x/2", "the judge gave no readable verdict on a rollout"),
        ("the disk was full when the code of step 3 ran", "the disk was full when the code of step N ran"),
        ("cannot connect to http://127.0.0.1:9/v1/chat", "cannot connect to http://127.0.0.1:9/v1/chat"),
        ("no complete reply within 30 s", "no complete reply within 30 s"),
        ("ValueError: no\nTraceback", "ValueError: no"),
        ("", ""),
    ],
)
def test_the_cause_is_what_does_not_differ_between_failures(error: str, cause: str) -> None:
    assert cause_of(error) == cause
