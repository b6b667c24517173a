"""Settings become flat values, and values become TOML that reads back the same."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from runtime.config.settings import Settings
from runtime.config.values import as_toml, flatten

if TYPE_CHECKING:
    from store.jsontypes import JsonValue


def test_settings_are_flattened_to_dotted_keys_with_paths_as_text() -> None:
    flat = flatten(Settings())
    assert flat["run.data"] == "cso-data"
    assert flat["agent.prompts"] == {}
    assert flat["models.expert.temperature"] == 0.8


def test_entries_of_a_filled_table_are_flattened_too() -> None:
    settings = Settings.model_validate({"agent": {"prompts": {"plan": "a.txt", "end": Path("b.txt")}}})
    flat = flatten(settings)
    assert "agent.prompts" not in flat
    assert (flat["agent.prompts.plan"], flat["agent.prompts.end"]) == ("a.txt", "b.txt")


def test_a_value_of_another_kind_is_refused() -> None:
    class Sample(BaseModel):
        odd: tuple[int, ...] = (1,)

    with pytest.raises(TypeError, match="tuple"):
        flatten(Sample())


@given(st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text()))
def test_any_value_reads_back_from_toml_as_it_was(value: JsonValue) -> None:
    assert tomllib.loads(f"key = {as_toml(value)}")["key"] == value


def test_tables_are_written_in_one_line() -> None:
    assert as_toml({}) == "{}"
    assert as_toml({"plan": "a.txt", "end": "b.txt"}) == '{ plan = "a.txt", end = "b.txt" }'
