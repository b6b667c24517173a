"""Where in a TOML file each key stands, for error messages and for showing where a value came from.

A scan of lines, not a parser: it knows table headers, `key =` lines and multi-line strings, which is all that
configuration files use in practice. A key it cannot place, as inside an inline table, has its parent's line.
"""

import re
import tomllib

_HEADER = re.compile(r"\s*\[\[?([^\[\]]+)\]\]?\s*(?:#.*)?$")
_KEY = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*'))*)\s*="""
)
_FENCES = ('"""', "'''")


class KeyLines:
    """The line number, counted from 1, of each key of one TOML text."""

    def __init__(self, text: str) -> None:
        self._lines: dict[tuple[str, ...], int] = {}
        table: tuple[str, ...] = ()
        fence = ""
        for number, line in enumerate(text.splitlines(), start=1):
            if fence:
                fence = "" if fence in line else fence
                continue
            if header := _HEADER.match(line):
                table = _parts(header[1])
                self._lines.setdefault(table, number)
            elif key := _KEY.match(line):
                self._lines.setdefault(table + _parts(key[1]), number)
                fence = _opened_fence(line[key.end() :])

    def find(self, key: tuple[str, ...]) -> int | None:
        """Return the line of `key`, else of its nearest parent, else None."""
        for length in range(len(key), 0, -1):
            if line := self._lines.get(key[:length]):
                return line
        return None


def _parts(dotted: str) -> tuple[str, ...]:
    try:
        node: object = tomllib.loads(f"{dotted} = 0")
    except tomllib.TOMLDecodeError:
        return (dotted.strip(),)
    parts: list[str] = []
    while isinstance(node, dict):
        name, node = next(iter(node.items()))
        parts.append(name)
    return tuple(parts)


def _opened_fence(value: str) -> str:
    """Return the quotes of a multi-line string that begins in `value` and does not end there."""
    return next((fence for fence in _FENCES if value.count(fence) == 1), "")
