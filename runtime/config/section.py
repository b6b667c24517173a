"""What every section of the configuration shares: strict types, no unknown keys, frozen once built."""

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

CONFLICT = "conflict"


class Section(BaseModel):
    """Base of all sections; a wrong type or an unknown key raises pydantic's ValidationError."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


def conflict(key: str, other: str, relation: str) -> PydanticCustomError:
    """Return the error of two settings of one section that do not fit together: `key` `relation` `other`.

    It is an error of the merged configuration only: one layer alone may well hold half of a valid change.
    """
    return PydanticCustomError(
        CONFLICT, "{key} {relation} {other}", {"key": key, "relation": relation, "other": other}
    )
