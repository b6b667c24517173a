"""How a command that worked ends: a word on what is left to do, and its exit code."""

from __future__ import annotations

import signal

from runtime.cli.exits import EXIT_BUDGET, EXIT_FAILED, EXIT_INTERRUPTED
from runtime.cli.output import say
from runtime.cli.working import Worked


def exit_code(worked: Worked) -> int:
    """What a shell learns of the work: whether it was stopped, ran out of budget, or had to set anything aside."""
    if worked.stopped_by is signal.SIGINT:
        say("interrupted: the same command goes on from here")
        return EXIT_INTERRUPTED
    if worked.stopped_by is signal.SIGTERM:
        say("stopped: the same command goes on from here")
        return 0
    if worked.summary.paused:
        say("the run was paused: after `cso resume` the same command goes on")
    if spent := worked.summary.budget_spent:
        say(
            f"{spent.setting} is spent ({spent.spent:,.10g} of {spent.cap:,.10g}): raise it, the same command goes on"
        )
    if resting := worked.summary.resting_tasks:
        say(f"{resting} tasks have spent their own budget: raise budget.task_…, the same command goes on with them")
    if worked.summary.set_aside:
        say("some work was set aside: see `cso status`, mend the cause, put it back with `cso retry --all`")
        return EXIT_FAILED
    return EXIT_BUDGET if spent or resting else 0
