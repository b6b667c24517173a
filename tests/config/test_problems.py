"""Each problem is one sentence with its place, what is allowed and the nearest valid key, and no secret."""

from __future__ import annotations

import pytest

from runtime.config.layers import Layer, Origin, plant, read_environment
from runtime.config.lines import KeyLines
from runtime.config.problems import problems_of, unknown_variable

PASTED = "sk-secret-0123456789"


def _in_file(key: str, value: object) -> list[str]:
    data: dict[str, object] = {}
    plant(data, tuple(key.split(".")), value)
    return problems_of(Layer(Origin("file", "c.toml"), data, KeyLines(f"{key} = 0\n")))


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("run.rollouts", "8", "c.toml:1: run.rollouts must be a whole number from 1 to 4096, got text"),
        ("run.rollouts", 0, "c.toml:1: run.rollouts must be a whole number from 1 to 4096, got 0"),
        ("run.rollouts", True, "c.toml:1: run.rollouts must be a whole number from 1 to 4096, got true"),
        ("run.name", 5, "c.toml:1: run.name must be 1 to 64 letters"),
        ("run", 5, "c.toml:1: run must be a table, got 5"),
        ("verify.first_success", [1], "verify.first_success must be true or false, got a list"),
        ("judge.method", {}, 'judge.method must be "exact" or "model", got a table'),
        ("judge.method", None, 'judge.method must be "exact" or "model", got a NoneType'),
        (
            "models.policy.base_url",
            "x",
            "URL such as http://localhost:8000/v1, a list of them, or empty, got text: it does not start",
        ),
        ("agent.prompts.Bad", "x", "agent.prompts.Bad must be a table of module name = path"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_allowed(key: str, value: object, sentence: str) -> None:
    problems = _in_file(key, value)
    assert len(problems) == 1
    assert sentence in problems[0]


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("run.nmae", "c.toml:1: unknown key run.nmae; did you mean run.name?"),
        ("runn", "unknown key runn; did you mean run?"),
        ("models.polcy", "unknown key models.polcy; did you mean models.policy?"),
        ("run.max_steps", "did you mean agent.max_steps?"),
        ("alternatives", "did you mean resample.alternatives?"),
        ("log.zzzz", "valid here: level"),
        ("models.policy.api_key", "put it into the environment variable that api_key_env names"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_valid_one(key: str, sentence: str) -> None:
    problems = _in_file(key, 1)
    assert len(problems) == 1
    assert sentence in problems[0]


def test_problems_come_in_the_order_of_their_lines() -> None:
    text = "[agent]\nmax_stps = 1\n[run]\nseed = 'x'\n"
    layer = Layer(Origin("file", "c.toml"), {"agent": {"max_stps": 1}, "run": {"seed": "x"}}, KeyLines(text))
    assert [problem.partition(": ")[0] for problem in problems_of(layer)] == ["c.toml:2", "c.toml:4"]


@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        ("CSO_MODELS__POLCY__MODEL", "unknown setting models.polcy; did you mean CSO_MODELS__POLICY__MODEL?"),
        ("CSO_RUN__NAM", "unknown setting run.nam; did you mean CSO_RUN__NAME?"),
        ("CSO_RUN__ROLLOUTS", "run.rollouts must be a whole number from 1 to 4096, got text"),
        ("CSO_RUN__NAME__MORE", "run.name must be 1 to 64 letters"),
    ],
)
def test_a_wrong_variable_is_told_by_its_name(variable: str, sentence: str) -> None:
    layers, _ = read_environment({variable: "word"})
    problems = [problem for layer in layers for problem in problems_of(layer)]
    assert len(problems) == 1
    assert problems[0].startswith(f"{variable}: {sentence}")


@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        ("CSO_RUN_NAME", "unknown setting; did you mean CSO_RUN__NAME?"),
        ("CSO_RUN", "run must be a JSON object, or set one value as in CSO_RUN__NAME"),
        ("CSO_AGENT__PROMPTS", "agent.prompts must be a JSON object"),
        ("CSO_ZZZZZZZZ", "unknown setting; `cso config` lists every setting"),
    ],
)
def test_a_variable_that_could_not_be_read_is_told_with_the_nearest_one(variable: str, sentence: str) -> None:
    assert unknown_variable(variable) == f"{variable}: {sentence}"


@pytest.mark.parametrize(
    "key",
    ["models.policy.base_url", "models.policy.api_key_env", "models.policy.api_key", "run.seed", "judge.method", "x"],
)
def test_no_problem_repeats_a_text_that_could_be_a_key(key: str) -> None:
    for value in (PASTED, f"http://{PASTED}@host", f"http://host:{PASTED}/", [PASTED], {"x": PASTED}):
        problems = " ".join(_in_file(key, value))
        assert problems
        assert PASTED not in problems
