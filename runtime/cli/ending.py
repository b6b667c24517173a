"""How a command that worked ends: a word on what is left to do, and its exit code."""

from __future__ import annotations

import signal

from runtime.cli.exits import EXIT_BUDGET, EXIT_FAILED, EXIT_INTERRUPTED
from runtime.cli.output import say
from runtime.cli.report import counted
from runtime.cli.working import Worked


def exit_code(worked: Worked, *, was_new: bool = False) -> int:
    """What a shell learns of the work: whether it was stopped, ran out of budget, or had to set anything aside.

    `was_new`: the command begins a new run each time, so that another one goes on.
    """
    summary = worked.summary
    same = f"the same command with `--run {summary.run}` instead of --new-run" if was_new else "the same command"
    if worked.stopped_by is signal.SIGINT:
        say(f"interrupted: {same} goes on from here")
        return EXIT_INTERRUPTED
    if worked.stopped_by is not None:
        say(f"stopped: {same} goes on from here")
        return 0
    if summary.paused:
        say(f"the run was paused: after `cso resume --run {summary.run}` {same} goes on")
    if spent := summary.budget_spent:
        say(f"{spent.setting} is spent ({spent.spent:,.10g} of {spent.cap:,.10g}): raise it, {same} goes on")
    if resting := summary.resting_tasks:
        say(
            f"{counted(resting, 'task has', 'tasks have')} spent their own budget: raise the cap that"
            f" `cso tail --kind budget-spent` names, {same} goes on with them"
        )
    if summary.set_aside:
        say("some work was set aside: see `cso status`, mend the cause, put it back with `cso retry --all`")
        return EXIT_FAILED
    if summary.owed and not (summary.paused or spent or resting):
        owed = counted(summary.owed, "delivery is", "deliveries are")
        say(f"{owed} still owed: {same} goes on with them, unless the log says that nobody can")
        return EXIT_FAILED
    return EXIT_BUDGET if spent or resting else 0
