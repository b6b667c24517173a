"""The house rules that no tool checks: import direction, docstrings, and what the constraints may hold."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each package and the ones that it must not import.
FORBIDDEN = {"store": {"runtime", "handlers"}, "runtime": {"handlers"}, "handlers": set[str]()}
MODULES = sorted(path.relative_to(ROOT) for package in FORBIDDEN for path in (ROOT / package).rglob("*.py"))


def _parse(module: Path) -> ast.Module:
    return ast.parse((ROOT / module).read_text(encoding="utf-8"), str(module))


def _imported(tree: ast.Module) -> set[str]:
    """Return the top-level packages that a module imports anywhere, also inside functions and by name."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            names |= {str(arg.value) for arg in node.args if isinstance(arg, ast.Constant)}
    return {name.partition(".")[0] for name in names}


def test_there_are_modules_to_check() -> None:
    assert {module.parts[0] for module in MODULES} == FORBIDDEN.keys()


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_point_in_one_direction(module: Path) -> None:
    assert not _imported(_parse(module)) & FORBIDDEN[module.parts[0]]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_module_says_what_it_owns(module: Path) -> None:
    tree = _parse(module)
    # An empty __init__.py only marks a folder as a package.
    assert ast.get_docstring(tree) or (module.name == "__init__.py" and not tree.body)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import handlers.collect", {"handlers"}),
        ("def f():\n    from handlers import collect", {"handlers"}),
        ("import_module('handlers.collect')", {"handlers"}),
        ("from . import handlers", set()),
        ("from runtime.handlers import x", {"runtime"}),
    ],
)
def test_imports_are_found_wherever_they_stand(code: str, found: set[str]) -> None:
    assert _imported(ast.parse(code)) == found


def test_constraints_are_names_and_versions_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.+!]*", line)] == []
    assert len({line.partition("==")[0].lower() for line in lines}) == len(lines)
