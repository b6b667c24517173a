"""Every setting is declared completely, and its rule can be said in words."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from runtime.config.fields import allowed, fixed, free, is_identity, leaves, section_of
from runtime.config.settings import Settings

SETTINGS = dict(leaves(Settings))


def test_settings_are_walked_in_order_with_dotted_keys() -> None:
    keys = list(SETTINGS)
    assert keys[:2] == ["run.name", "run.data"]
    assert keys.index("models.policy.base_url") < keys.index("models.expert.base_url") < keys.index("agent.name")
    assert keys[-1] == "log.events_kept"


@pytest.mark.parametrize("key", SETTINGS)
def test_every_setting_has_a_one_line_reason_and_a_rule_in_words(key: str) -> None:
    field = SETTINGS[key]
    assert field.description
    assert "\n" not in field.description
    assert field.description.endswith(".")
    assert allowed(field)


@pytest.mark.parametrize("key", [key for key, field in SETTINGS.items() if field.annotation in (int, float)])
def test_every_number_has_a_range(key: str) -> None:
    assert " from " in allowed(SETTINGS[key])
    assert " to " in allowed(SETTINGS[key])


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("run.rollouts", "a whole number from 1 to 4096"),
        ("critical.good_min", "a number from 0 to 1"),
        ("models.policy.timeout", "a number from 0.1 to 3600"),
        ("run.seed", "a whole number from 0 to 2147483647"),
        ("verify.first_success", "true or false"),
        ("judge.method", '"exact" or "model"'),
        ("run.data", "a path"),
    ],
)
def test_the_rule_of_a_setting_is_said_in_words(key: str, words: str) -> None:
    assert allowed(SETTINGS[key]) == words


def test_a_section_must_be_a_table_and_plain_text_is_text() -> None:
    class Sample(BaseModel):
        text: str = free("", "Some text.")

    assert allowed(Settings.model_fields["run"]) == "a table"
    assert allowed(Sample.model_fields["text"]) == "text"
    assert section_of(Sample.model_fields["text"]) is None


def test_fixed_settings_are_identity_and_free_ones_are_not() -> None:
    class Sample(BaseModel):
        kept: int = fixed(1, "Kept.", ge=0, le=2)
        tuned: int = free(1, "Tuned.", ge=0, le=2)

    assert is_identity(Sample.model_fields["kept"])
    assert not is_identity(Sample.model_fields["tuned"])


def test_a_setting_declared_in_another_way_is_refused() -> None:
    class Sample(BaseModel):
        loose: int = 1

    with pytest.raises(TypeError, match="fixed"):
        allowed(Sample.model_fields["loose"])
