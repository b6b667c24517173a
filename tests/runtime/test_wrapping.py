"""Messages are broken to a terminal's width between words, and left whole elsewhere."""

from __future__ import annotations

import io

import pytest

from runtime.wrapping import columns, fitted, wrapped


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_lines_are_broken_between_words_and_go_on_with_what_they_hang_by() -> None:
    assert wrapped("one two three four", 9, hang="  ") == "one two\n  three\n  four"


def test_a_word_that_is_too_long_stays_whole_and_indentation_stays() -> None:
    assert wrapped("see http://models.example/v1 for it", 10) == "see\nhttp://models.example/v1\nfor it"
    assert wrapped("  - one two\n\n  - three", 9) == "  - one\n    two\n\n  - three"
    assert wrapped("  one two", 6) == "  one\n  two"


def test_styles_take_no_room() -> None:
    assert wrapped("\x1b[1mone\x1b[0m two", 7) == "\x1b[1mone\x1b[0m two"


def test_only_a_terminal_has_a_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "7")
    assert fitted("one two three", io.StringIO()) == "one two three"
    assert fitted("one two three", Terminal()) == "one two\nthree"
    monkeypatch.delenv("COLUMNS")
    assert columns(Terminal()) == 80
