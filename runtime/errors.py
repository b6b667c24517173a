"""The errors of the runtime, one class for each way in which a caller reacts.

CsoError                   the base that all rooms share, from store/errors.py
├── ConfigError            the user's settings or files are at fault: say where, stop
├── InfrastructureError    ours or an endpoint's fault: retry, set aside, never evidence
└── ToolError              raised into action code, where the model reads the message
"""

from __future__ import annotations

from store.errors import CsoError

__all__ = ["ConfigError", "CsoError", "InfrastructureError", "ToolError"]


class ConfigError(CsoError):
    """Raised when a setting or an input file is wrong; the message names the place and the next step."""


class InfrastructureError(CsoError):
    """Raised when a model endpoint, the sandbox or the machine failed: retried, and never an outcome."""


class ToolError(CsoError):
    """Raised by a tool to hand a message to the action code that called it."""
