"""Keys of a TOML text are found on their lines."""

from __future__ import annotations

from runtime.config.lines import KeyLines
from runtime.config.rendering import render_default_config
from runtime.config.settings import Settings
from runtime.config.values import flatten

TEXT = '''\
# a comment = 1
top = 1
[run]
name = "x"  # [not.a.header]
"quoted key" = 2
a . b = 3
[ models . policy ] # remark
text = """
temperature = 1
[log]
"""
after = 1
inline = { deep = 1 }
[[list]]
item = 1
'''


def test_keys_and_tables_are_found_on_their_lines() -> None:
    lines = KeyLines(TEXT)
    assert lines.find(("top",)) == 2
    assert lines.find(("run",)) == 3
    assert lines.find(("run", "name")) == 4
    assert lines.find(("run", "quoted key")) == 5
    assert lines.find(("run", "a", "b")) == 6
    assert lines.find(("models", "policy")) == 7
    assert lines.find(("models", "policy", "after")) == 12
    assert lines.find(("list", "item")) == 15


def test_the_inside_of_a_multi_line_string_is_no_key() -> None:
    lines = KeyLines(TEXT)
    assert lines.find(("log",)) is None
    assert lines.find(("models", "policy", "temperature")) == 7


def test_what_cannot_be_placed_has_the_line_of_its_parent_or_none() -> None:
    lines = KeyLines(TEXT)
    assert lines.find(("models", "policy", "inline", "deep")) == 13
    assert lines.find(("nowhere", "at", "all")) is None


def test_every_key_of_the_default_file_is_found_on_its_own_line() -> None:
    text = render_default_config()
    rows, lines = text.splitlines(), KeyLines(text)
    for key in flatten(Settings()):
        line = lines.find(tuple(key.split(".")))
        assert line is not None
        assert rows[line - 1].startswith((f"{key.rpartition('.')[2]} = ", f"[{key}]"))
