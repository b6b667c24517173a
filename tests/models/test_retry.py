"""Tests of back-off and Retry-After."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from runtime.models.retry import LONGEST_PAUSE, backoff_delay, retry_after, seconds_until, time_span


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "1e400"}, LONGEST_PAUSE),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Mon, 01 Jan 2026 00:00:00 +99999999999999"}, None),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
        ({"retry-after": "Mon, 02 Nov 2026 10:00:30 GMT", "date": "Mon, 02 Nov 2026 10:00:00 GMT"}, 30.0),
        ({"retry-after": "Mon, 02 Nov 2026 09:00:00 GMT", "date": "Mon, 02 Nov 2026 10:00:00 GMT"}, 0.0),
        ({"retry-after": "Mon, 02 Nov 2026 10:00:30 -0000", "date": "Mon, 02 Nov 2026 10:00:00 GMT"}, 30.0),
    ],
)
def test_retry_after_is_read_in_each_of_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_a_date_of_rfc_3339_is_read_as_well() -> None:
    headers = {"date": "Mon, 02 Nov 2026 10:00:00 GMT"}
    assert seconds_until("2026-11-02T10:00:30Z", headers) == 30.0
    assert seconds_until("", headers) is None


def test_a_date_without_the_servers_clock_is_taken_by_ours() -> None:
    until = datetime.now(UTC) + timedelta(seconds=100)
    assert retry_after({"retry-after": format_datetime(until, usegmt=True)}) == pytest.approx(100, abs=30)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("6m0s", 360.0), ("20ms", 0.02), ("1.5s", 1.5), ("12", 12.0), ("1h1m1s", 3600.0), ("", None), ("2 days", None)],
)
def test_reset_times_are_read_in_each_of_their_forms(text: str, seconds: float | None) -> None:
    assert time_span(text) == seconds


def test_back_off_doubles_its_ceiling_up_to_the_most_and_uses_all_of_it() -> None:
    for failures, ceiling in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (10_000, 5.0)):
        delays = [backoff_delay(failures, base=1.0, most=5.0) for _ in range(400)]
        assert 0 <= min(delays) < 0.1 * ceiling
        assert 0.9 * ceiling < max(delays) <= ceiling
