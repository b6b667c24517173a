"""The limit on processes leaves room for those that are not the code's, counted now and then."""

from __future__ import annotations

import os
import threading

import pytest

from runtime.sandbox.census import Census, count_tasks


def test_threads_count_as_the_kernel_counts_them() -> None:
    end = threading.Event()
    before = count_tasks(os.getuid())
    threads = [threading.Thread(target=end.wait) for _ in range(200)]
    for thread in threads:
        thread.start()
    try:
        # What else this user runs comes and goes meanwhile.
        assert count_tasks(os.getuid()) > before + 100
    finally:
        end.set()
        for thread in threads:
            thread.join()


def test_a_user_without_processes_has_none() -> None:
    assert count_tasks(1_999_999_999) == 0


async def test_the_count_is_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter((100, 200))
    monkeypatch.setattr("runtime.sandbox.census.count_tasks", lambda _uid: next(counts))
    census = Census()
    first = await census.others()
    assert first > 100
    assert await census.others() == first
    monkeypatch.setattr("runtime.sandbox.census._EVERY_S", -1.0)
    assert await census.others() == first + 100
