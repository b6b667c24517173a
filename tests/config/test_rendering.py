"""The shipped config.toml is the code's defaults, with every key documented."""

from __future__ import annotations

import tomllib
from pathlib import Path

from runtime.config.loading import load_settings
from runtime.config.rendering import render_default_config
from runtime.config.settings import Settings
from runtime.config.values import flatten

SHIPPED = Path(__file__).parents[2] / "config.toml"


def test_the_shipped_file_is_what_the_code_renders() -> None:
    assert SHIPPED.read_text(encoding="utf-8") == render_default_config(), "write it anew: cso init --force"


def test_the_values_of_the_shipped_file_equal_the_defaults_of_the_code() -> None:
    values = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
    assert Settings.model_validate(values) == Settings()
    loaded = load_settings(SHIPPED, {}, {})
    assert loaded.settings == Settings()
    assert loaded.notices == ()


def test_every_setting_is_in_the_shipped_file() -> None:
    origins = load_settings(SHIPPED, {}, {}).origins
    # An empty table has no entries of its own that could be traced to a line.
    defaults = {key for key, origin in origins.items() if origin.kind == "default"}
    roles = ("policy", "expert", "prm", "judge", "vision")
    assert defaults == {"agent.prompts", "prices", *(f"models.{role}.capabilities" for role in roles)}
    assert origins.keys() == flatten(Settings()).keys()


def test_every_key_and_section_has_one_comment_line_above_it() -> None:
    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        assert len(line) <= 110
        if line and not line.startswith("#"):
            assert lines[number - 1].startswith("# ")
            assert not line.startswith("[") or lines[number - 2] == ""
