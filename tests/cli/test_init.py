"""`cso init` writes the documented default and never overwrites unasked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.cli.init import init
from runtime.cli.main import main
from runtime.config.loading import load_settings
from runtime.config.rendering import render_default_config
from runtime.config.settings import Settings
from runtime.errors import ConfigError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_init_writes_the_documented_default_and_tells_the_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    init()
    assert Path("config.toml").read_text() == render_default_config()
    assert load_settings(None, {}, {}).settings == Settings()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("Wrote config.toml. Next: set base_url and model")


def test_init_leaves_an_existing_file_alone_unless_forced() -> None:
    Path("config.toml").write_text("# mine\n")
    with pytest.raises(ConfigError, match=r"config\.toml exists already; --force overwrites it"):
        init()
    assert Path("config.toml").read_text() == "# mine\n"
    init(force=True)
    assert Path("config.toml").read_text() == render_default_config()


def test_init_writes_into_a_folder_or_to_a_named_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("sub").mkdir()
    init(Path("sub"))
    init(Path("other.toml"))
    assert Path("sub/config.toml").read_text() == Path("other.toml").read_text()
    assert "cso config --changed --config other.toml" in capsys.readouterr().err


def test_init_into_a_missing_folder_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"none/c\.toml cannot be written: No such file"):
        init(Path("none/c.toml"))


def test_init_prints_one_object_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["init", "my.toml", "--json"])
    assert caught.value.code == 0
    assert json.loads(capsys.readouterr().out) == {"written": "my.toml"}
