"""The journalled models: a reply is committed before anything acts on it, and never paid for twice.

A call is known by its place (trajectory, step, role, module, ordinal) and the digest of its request. Work that is
done again after a crash asks the same and is answered from the journal. That a provider's filter refused a call is an
answer, too: whoever reacts to it has to meet it again.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol
from urllib.parse import quote

from runtime.clock import loop_time
from runtime.models.budget import Budget
from runtime.models.call import Keep
from runtime.models.chat import ChatReply, ChatRequest, Usage, digest_of
from runtime.models.errors import ContentFiltered
from runtime.models.prices import PriceList
from store.calls import FILTERED, CallRecord, JournalledReply, Place, load_journal, record_call
from store.database import Database
from store.messages import Message
from store.tasks import Task
from store.trajectories import Trajectory

# What a step may still buy once the budget is spent: its action, and what the action's code asks.
_CALLS_TO_FINISH = 16


class Completions(Protocol):
    """What answers a role's requests: one endpoint, or a pool of them."""

    def encode(self, request: ChatRequest) -> bytes:
        """Serialise a request as it is sent."""

    async def complete(
        self,
        request: ChatRequest,
        *,
        headers: Mapping[str, str],
        keep: Keep | None = None,
        body: bytes | None = None,
        affinity: str = "",
    ) -> ChatReply:
        """Ask for one completion, see `Endpoint.complete` and `Pool.complete`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A model role: where it is served and how it is sampled. None leaves a parameter to the endpoint."""

    endpoint: Completions
    model: str
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    send_seed: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asking:
    """A call that waits for its reply since `since` (loop time, seconds); `what` says which one it is."""

    what: str
    since: float


class Models:
    """The model roles of a run, each behind the journal; `asking` holds the calls that wait for a reply."""

    def __init__(
        self,
        roles: Mapping[str, Role],
        *,
        database: Database,
        seed: int,
        trace_headers: bool,
        prices: PriceList | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.roles = roles
        self.prices = prices or PriceList()
        self.budget = budget or Budget()
        self.database = database
        self.seed = seed
        self.trace_headers = trace_headers
        self.asking: set[Asking] = set()
        self.given_up: set[int] = set()  # trajectories on which the judge gave no verdict, until a person says retry

    async def journal(self, trajectory: Trajectory, task: Task) -> Journal:
        """The journal of a trajectory, with every reply that it has."""
        known = {} if trajectory.untouched else await load_journal(self.database, trajectory.id)
        return Journal(self, trajectory, task, known)


class Journal:
    """Model calls of one trajectory, or about it.

    `bought` counts those that were not in the journal; `is_replay` is whether any were when it was loaded.
    """

    def __init__(
        self,
        models: Models,
        trajectory: Trajectory,
        task: Task,
        known: dict[tuple[Place, bytes], JournalledReply],
    ) -> None:
        self._models = models
        self._trajectory = trajectory
        self._task = task
        self._known = known
        self.is_replay = bool(known)
        self.bought = 0
        self._to_finish: dict[int, int] = {}
        # A branch is labelled after its parent, whose prefix it shares.
        self._affinity = trajectory.label.partition("@")[0]
        self._headers = {
            "x-cso-run": _header_text(task.run_name),
            "x-cso-task": _header_text(task.name),
            "x-cso-trajectory": _header_text(trajectory.label),
        }

    def begin_step(self, step: int) -> None:
        """Say that a step begins. What it needs to end is bought even if the budget is spent meanwhile.

        Raises:
            BudgetSpentError: nothing new may be begun.
        """
        spent = self._models.budget.spent(run=self._task.run, task=self._task.id)
        if spent is not None:
            raise spent
        self._to_finish[step] = _CALLS_TO_FINISH

    async def ask(
        self,
        *,
        role: str,
        module: str,
        step: int,
        messages: tuple[Message, ...],
        ordinal: int = 0,
        keep_refusal: bool = True,
    ) -> JournalledReply:
        """A model's reply, from the journal if it is there.

        Args:
            role: policy, expert, prm or judge.
            module: what the call is for: plan, action, end, score, judge, …
            step: the step that it belongs to, WHOLE_TRAJECTORY for none.
            ordinal: tells calls of one role and module at one step apart; consecutive ones have consecutive seeds.
            keep_refusal: a filter's refusal is final; otherwise it only counts, and the same is asked again when the
                work is done again.

        Raises:
            ContentFiltered: the provider's filter refused the request or its reply, now or when it was asked before.
            ContextOverflow: the messages are too long; that is asked anew each time.
            InfrastructureError: the endpoint failed for good, or until the deadline.
            BudgetSpentError: the reply is not in the journal, and nothing new may be bought.
        """
        place = self.place(role=role, module=module, step=step, ordinal=ordinal)
        chosen = self._models.roles[role]
        request = self._request(place, messages)
        body = chosen.endpoint.encode(request)
        key = (place, digest_of(body))
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = await self._buy(chosen, request, body, *key, keep_refusal)
            self.bought += 1
        if known.filtered:
            raise ContentFiltered(known.content, endpoint=role)
        return known

    def place(self, *, role: str, module: str, step: int, ordinal: int = 0) -> Place:
        """Where a call is made."""
        return Place(trajectory=self._trajectory.id, step=step, role=role, module=module, ordinal=ordinal)

    def has_instead(self, place: Place, *, messages: tuple[Message, ...], of: tuple[Message, ...]) -> bool:
        """Whether these messages, which stand in for others, have a reply from before, and those (`of`) have none."""
        if not self.is_replay or messages == of:
            return False
        encode = self._models.roles[place.role].endpoint.encode
        known, other = ((place, digest_of(encode(self._request(place, each)))) for each in (messages, of))
        return known in self._known and other not in self._known

    def _request(self, place: Place, messages: tuple[Message, ...]) -> ChatRequest:
        chosen = self._models.roles[place.role]
        return ChatRequest(
            model=chosen.model,
            messages=messages,
            temperature=chosen.temperature,
            top_p=chosen.top_p,
            max_tokens=chosen.max_tokens,
            seed=self._seed(place) if chosen.send_seed and self._models.seed else None,
        )

    async def _buy(
        self, role: Role, request: ChatRequest, body: bytes, place: Place, digest: bytes, keep_refusal: bool
    ) -> JournalledReply:
        # A reply that could not be kept is not paid for.
        await self._models.database.until_usable()
        saving: list[asyncio.Future[JournalledReply]] = []

        def keep(reply: ChatReply) -> None:
            cost = self._models.prices.cost(request.model, reply.usage)
            saving.append(self._keep(_record(reply, place, digest, cost), request.messages))

        run, task = self._task.run, self._task.id
        with await self._models.budget.purchase(run=run, task=task, ends_step=self._ends_step(place.step)):
            asking = Asking(what=self._described(place), since=loop_time())
            self._models.asking.add(asking)
            try:
                await role.endpoint.complete(
                    request, headers=self._headers_at(place), keep=keep, body=body, affinity=self._affinity
                )
            except ContentFiltered as error:
                if not keep_refusal:  # it counts, where nobody looks for it
                    place = replace(place, ordinal=-1 - secrets.randbelow(1 << 31))
                keep(_refusal(error))
                if not keep_refusal:
                    await saving[0]
                    raise
            finally:
                self._models.asking.discard(asking)
            return await saving[0]

    def _ends_step(self, step: int) -> bool:
        """Whether a call is one of the few that a step under way may make even if the budget is spent."""
        left = self._to_finish.get(step, 0)
        if left and self._models.budget.spent(run=self._task.run, task=self._task.id) is not None:
            self._to_finish[step] = left - 1
        return left > 0

    def _described(self, place: Place) -> str:
        where = "" if place.step < 0 else f" step {place.step}"
        return f"{place.role} {place.module} of {self._trajectory.label}{where}"

    def _keep(self, record: CallRecord, messages: tuple[Message, ...]) -> asyncio.Future[JournalledReply]:
        """Put a reply in line for its commit, at once: whatever happens to the caller, it is saved."""
        run, task = self._task.run, self._task.id

        return self._models.database.submit(
            partial(record_call, run=run, task=task, messages=messages, record=record)
        )

    def _seed(self, place: Place) -> int:
        """A seed in [0, 2**31) that depends on the run's seed and the place alone, not on row numbers or timing."""
        name = f"{self._models.seed}|{self._trajectory.label}|{place.step}|{place.role}|{place.module}"
        first = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest()) >> 2
        return first + place.ordinal

    def _headers_at(self, place: Place) -> dict[str, str]:
        if not self._models.trace_headers:
            return {}
        return {
            "x-cso-role": place.role,
            "x-cso-module": place.module,
            **self._headers,
            "x-cso-step": str(place.step),
        }


def _refusal(error: ContentFiltered) -> ChatReply:
    """What a filter said, in the place of a reply."""
    return ChatReply(
        content=f"{error.reason}; it said: {error.body}" if error.body else error.reason,
        reasoning="",
        finish_reason=FILTERED,
        usage=error.usage or Usage(prompt=0, completion=0),
        latency=0.0,
        attempts=error.attempts,
        endpoint=error.endpoint,
        request_id=error.request_id,
    )


def _record(reply: ChatReply, place: Place, digest: bytes, cost: int | None) -> CallRecord:
    return CallRecord(
        place=place,
        digest=digest,
        content=reply.content,
        reasoning=reply.reasoning,
        finish_reason=reply.finish_reason,
        prompt_tokens=reply.usage.prompt,
        completion_tokens=reply.usage.completion,
        cached_tokens=reply.usage.cached,
        latency=reply.latency,
        attempts=reply.attempts,
        endpoint=reply.endpoint,
        cost=cost,
    )


def _header_text(text: str) -> str:
    """A name as a header can carry it: percent-encoded where it is not plain ASCII."""
    return quote(text, safe=" /@#.:,+()[]=!&")
