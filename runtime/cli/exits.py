"""The exit codes of `cso`, for scripts and supervisors."""

from __future__ import annotations

EXIT_FAILED = 1
EXIT_USAGE = 2
# A cap of the budget was reached with work left: raised, the same command goes on.
EXIT_BUDGET = 3
# The disk is full, read-only or failing, or the database is damaged or of a later release: starting again at once
# will not help.
EXIT_STORAGE = 4
EXIT_INTERRUPTED = 130
