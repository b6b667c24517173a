"""The type of values that cross a border as JSON.

Floats are finite wherever our own parsers made the value; integers may be wider than 64 bits, which not every JSON
library writes, so a border that serialises them says what it does with wide ones.
"""

from __future__ import annotations

from typing import TypeAlias

JsonValue: TypeAlias = "None | bool | int | float | str | list[JsonValue] | dict[str, JsonValue]"
