"""`cso serve` as it starts: what it hands to the daemon."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from runtime.cli import main as entry
from runtime.config.settings import Settings
from runtime.errors import ConfigError
from runtime.serve import Load


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """What reads the configuration anew, of a daemon that was started in a folder with a `config.toml`."""
    handed: list[Load] = []
    monkeypatch.chdir(tmp_path)
    Path("config.toml").write_text("[budget]\ncalls = 10\n")
    monkeypatch.setattr(anyio, "run", lambda _work, _settings, _environ, load: handed.append(load))
    with pytest.raises(SystemExit) as ended:
        entry.main(["serve"])
    assert ended.value.code == 0
    (one,) = handed
    return one


def test_the_configuration_is_read_anew_from_the_file_that_was_read(load: Load) -> None:
    Path("config.toml").write_text("[budget]\ncalls = 20\n")
    settings: Settings = load()
    assert settings.budget.calls == 20


def test_a_configuration_that_has_gone_is_no_empty_one(load: Load) -> None:
    Path("config.toml").rename("gone.toml")
    with pytest.raises(ConfigError, match=r"config\.toml: no such configuration file"):
        load()
