"""The budget: how much a run and each of its tasks may still buy.

Counters are derived from the journal when work starts and kept up from the events of its commits, so they are right
after a crash too. Calls that are on their way count as calls and with the mean of tokens and cost so far: where they
may take what is left, a new one waits for them, and where there is no mean yet, for the first. Once a cap is reached
nothing new is begun: a step under way may make the few calls that it still needs to end, and everything else is
refused with `BudgetSpentError`. So a cap on calls is overshot by those steps alone, and one on tokens or cost by them
and by how far calls differ from their mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import anyio

from runtime.errors import BudgetSpentError
from store.database import Reader
from store.events import CallCompleted, Event, TaskCancelled, TaskFinished
from store.spending import MICROS, Bought, count_bought


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """The most that may be bought; 0 is no cap. `micros` is money in millionths."""

    calls: int = 0
    tokens: int = 0
    micros: int = 0

    def __bool__(self) -> bool:
        """Whether there is any cap."""
        return bool(self.calls or self.tokens or self.micros)

    def reached(self, bought: Bought) -> tuple[str, float, float] | None:
        """The name of a cap that is reached, the cap, and what was bought; None if there is room for more."""
        if 0 < self.calls <= bought.calls:
            return "calls", self.calls, bought.calls
        if 0 < self.tokens <= bought.tokens:
            return "tokens", self.tokens, bought.tokens
        if 0 < self.micros <= bought.micros:
            return "cost", self.micros / MICROS, bought.micros / MICROS
        return None

    def may_be_reached(self, account: _Account) -> bool:
        """Whether the calls on their way may reach a cap, or nothing is known yet of what calls take."""
        if not self:
            return False
        if account.open and not account.bought.calls and (self.tokens or self.micros):
            return True
        return self.reached(account.expected) is not None


@dataclass(slots=True)
class _Account:
    """What one run or task has bought, and how many calls of it are on their way."""

    bought: Bought = field(default_factory=Bought)
    open: int = 0

    @property
    def expected(self) -> Bought:
        """What will have been bought once the calls on their way have arrived."""
        calls, tokens, micros = self.bought.calls, self.bought.tokens, self.bought.micros
        share = self.open / calls if calls else 0.0
        return Bought(calls + self.open, tokens + round(tokens * share), micros + round(micros * share))

    def add(self, event: CallCompleted) -> None:
        bought = self.bought
        tokens = event.prompt_tokens + event.completion_tokens
        self.bought = Bought(bought.calls + 1, bought.tokens + tokens, bought.micros + (event.cost or 0))


class Purchase:
    """A call on its way, until its block is left."""

    __slots__ = ("_run", "_task", "_wake")

    def __init__(self, run: _Account, task: _Account, wake: Callable[[], None]) -> None:
        self._run, self._task, self._wake = run, task, wake
        run.open += 1
        task.open += 1

    def __enter__(self) -> None:
        """Begin the call, which counts already."""

    def __exit__(self, *exc_info: object) -> None:
        """The call has ended, with a reply or without."""
        self._run.open -= 1
        self._task.open -= 1
        self._wake()


class Budget:
    """Counts what is bought and says when no more may be; `load` comes before the first purchase.

    Args:
        run: caps for each run.
        task: caps for each task.
    """

    def __init__(self, *, run: Caps | None = None, task: Caps | None = None) -> None:
        self._run_caps = run or Caps()
        self._task_caps = task or Caps()
        self._runs: defaultdict[int, _Account] = defaultdict(_Account)
        self._tasks: defaultdict[int, _Account] = defaultdict(_Account)
        self._landed = anyio.Event()
        self._waiting = 0
        self._counted = -1  # up to this event, by `load`
        self._unsettled: list[CallCompleted] | None = None

    async def load(self, reader: Reader) -> None:
        """Count what has been bought so far, where there is a cap."""
        if self._run_caps or self._task_caps:
            await self._load(reader)

    async def adjust(self, reader: Reader, *, run: Caps, task: Caps) -> None:
        """Have other caps from now on; what has been bought counts under them, too."""
        if run or task:
            await self._load(reader)
        self._run_caps, self._task_caps = run, task
        self._wake()

    async def _load(self, reader: Reader) -> None:
        """Count from the journal. Calls may go on meanwhile: each counts once, from there or from its event."""
        self._unsettled = []
        try:
            counted = await count_bought(reader)
            _set(self._runs, counted.runs)
            _set(self._tasks, counted.tasks)
            self._counted = counted.newest
            for event in self._unsettled:
                self._count(event)
        finally:
            self._unsettled = None

    def note(self, event: Event) -> None:
        """Count a call that was committed; this is for the bus to call with every event."""
        match event:
            case CallCompleted():
                self._count(event)
                if self._unsettled is not None:
                    self._unsettled.append(event)
            case TaskFinished() | TaskCancelled() if event.task is not None:
                self._tasks.pop(event.task, None)

    def spent(self, *, run: int, task: int) -> BudgetSpentError | None:
        """Why nothing new may be begun for a task; None if it may."""
        reached = self._run_caps.reached(self._runs[run].bought)
        if reached is not None:
            name, cap, bought = reached
            return BudgetSpentError(run=run, task=None, setting=f"budget.{name}", cap=cap, spent=bought)
        reached = self._task_caps.reached(self._tasks[task].bought)
        if reached is not None:
            name, cap, bought = reached
            return BudgetSpentError(run=run, task=task, setting=f"budget.task_{name}", cap=cap, spent=bought)
        return None

    def stands(self, error: BudgetSpentError) -> bool:
        """Whether what was refused once would be refused again; its cap may have been raised since."""
        if error.task is None:
            return self._run_caps.reached(self._runs[error.run].bought) is not None
        return self._task_caps.reached(self._tasks[error.task].bought) is not None

    def spent_tasks(self) -> list[int]:
        """The unfinished tasks that have reached a cap of their own."""
        return [number for number, task in self._tasks.items() if self._task_caps.reached(task.bought) is not None]

    async def purchase(self, *, run: int, task: int, ends_step: bool) -> Purchase:
        """Begin a call once it is likely to fit, to be made in a `with` block of what this returns.

        The wait for that ends with the calls under way: it takes one of them to wait for, and each wakes all who wait
        when it ends, however it does. With none left there is room, or a cap is reached.

        Args:
            ends_step: the call is made whatever has been spent.

        Raises:
            BudgetSpentError: nothing new may be bought.
        """
        while not ends_step and self._may_not_fit(run, task):
            if spent := self.spent(run=run, task=task):
                raise spent
            self._waiting += 1
            try:
                await self._landed.wait()
            finally:
                self._waiting -= 1
        return Purchase(self._runs[run], self._tasks[task], self._wake)

    def _may_not_fit(self, run: int, task: int) -> bool:
        return self._run_caps.may_be_reached(self._runs[run]) or self._task_caps.may_be_reached(self._tasks[task])

    def _wake(self) -> None:
        if self._waiting:
            self._landed.set()
            self._landed = anyio.Event()

    def _count(self, event: CallCompleted) -> None:
        if event.seq <= self._counted:  # the reader had seen it before we were told
            return
        self._runs[event.run].add(event)
        if event.task is not None:
            self._tasks[event.task].add(event)


def _set(accounts: defaultdict[int, _Account], counted: Mapping[int, Bought]) -> None:
    for account in accounts.values():
        account.bought = Bought()
    for number, bought in counted.items():
        accounts[number].bought = bought
