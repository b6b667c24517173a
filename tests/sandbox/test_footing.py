"""As whom code runs is known before any code does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from runtime.errors import ConfigError
from runtime.sandbox.child.identity import BLOCK, Identity, claim_block
from runtime.sandbox.footing import Footing, closed_folder, find_footing


def test_a_privileged_daemon_gives_code_users_of_its_own_and_others_do_not() -> None:
    footing = find_footing()
    assert (footing.uids is not None) == (os.geteuid() == 0)
    assert footing.python.exists()


def test_an_ordinary_users_code_runs_in_the_daemons_own_interpreter() -> None:
    if os.geteuid() != 0:
        assert find_footing().python == Path(sys.executable)


def test_the_outermost_closed_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/b").chmod(0o700)
    (tmp_path / "a").chmod(0o700)
    closed = closed_folder(tmp_path / "a/b/c")
    assert closed is not None
    assert closed in (tmp_path / "a/b/c").parents
    with pytest.raises(ConfigError, match=r"closed to other users: choose .* \(chmod o\+x"):
        Footing(Path(sys.executable), range(10)).check_workspace(tmp_path / "a/b/c")
    Footing(Path(sys.executable), None).check_workspace(tmp_path / "a/b/c")


def test_two_sandboxes_never_share_user_ids() -> None:
    start = 3_000_000_000
    first, claim = claim_block(start, 2 * BLOCK)
    second, other = claim_block(start, 2 * BLOCK)
    with claim, other:
        assert (first, second) == (start, start + BLOCK)
        with pytest.raises(OSError, match="in use"):
            claim_block(start, 2 * BLOCK)
    third, claim = claim_block(start, 2 * BLOCK)
    with claim:
        assert third == start


def test_no_two_slots_share_a_user_id() -> None:
    ids = [Identity.of_slot(1000, slot) for slot in range(BLOCK // 2)]
    assert sorted(n for i in ids for n in (i.code, i.keeper)) == list(range(1000, 1000 + BLOCK))
