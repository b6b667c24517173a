"""The errors of the runtime, one class for each way in which a caller reacts.

CsoError                   the base that all rooms share, from store/errors.py
├── ConfigError            the user's settings or files are at fault: say where, stop
├── BudgetSpentError       a cap is reached: leave the work owed, begin nothing new
├── InfrastructureError    ours or an endpoint's fault: retry, set aside, never evidence
│   └── UnrepeatableError  the same would come of another attempt: set aside until a person says retry
└── ToolError              raised into action code, where the model reads the message
"""

from __future__ import annotations

from store.errors import CsoError

__all__ = ["BudgetSpentError", "ConfigError", "CsoError", "InfrastructureError", "ToolError", "UnrepeatableError"]


class ConfigError(CsoError):
    """Raised when a setting or an input file is wrong; the message names the place and the next step."""


class BudgetSpentError(CsoError):
    """Raised instead of buying from a model when a cap of the budget is reached: of a task, or with None of its run.

    `setting` is the cap's dotted key, `cap` and `spent` are in its unit.
    """

    def __init__(self, *, run: int, task: int | None, setting: str, cap: float, spent: float) -> None:
        self.run = run
        self.task = task
        self.setting = setting
        self.cap = cap
        self.spent = spent
        super().__init__(f"{setting} is spent: {spent:,.10g} of {cap:,.10g}")


class InfrastructureError(CsoError):
    """Raised when a model endpoint, the sandbox or the machine failed: retried, and never an outcome."""


class UnrepeatableError(InfrastructureError):
    """Raised when another attempt would end like this one."""


class ToolError(CsoError):
    """Raised by a tool to hand a message to the action code that called it."""
