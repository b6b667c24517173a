"""The journalled models: a reply is committed before anything acts on it, and never paid for twice.

A call is known by its place (trajectory, step, role, module, ordinal) and the digest of its request. Work that is
done again after a crash asks the same and is answered from the journal.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from runtime.models.chat import ChatReply, ChatRequest
from runtime.models.endpoint import Endpoint
from store.calls import CallRecord, JournalledReply, Place, load_journal, record_call
from store.database import Database
from store.messages import Message
from store.tasks import Task
from store.trajectories import Trajectory
from store.transaction import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A model role: where it is served and how it is sampled. None leaves a parameter to the endpoint."""

    endpoint: Endpoint
    model: str
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    send_seed: bool


class Models:
    """The model roles of a run, each behind the journal."""

    def __init__(self, roles: Mapping[str, Role], *, database: Database, seed: int, trace_headers: bool) -> None:
        self.roles = roles
        self.database = database
        self.seed = seed
        self.trace_headers = trace_headers

    async def journal(self, trajectory: Trajectory, task: Task) -> Journal:
        """The journal of a trajectory, with every reply that it has."""
        return Journal(self, trajectory, task, await load_journal(self.database, trajectory.id))


class Journal:
    """Model calls of one trajectory, or about it."""

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

    async def ask(
        self, *, role: str, module: str, step: int, messages: tuple[Message, ...], ordinal: int = 0
    ) -> JournalledReply:
        """A model's reply, from the journal if it is there.

        Args:
            role: policy, expert, prm or judge.
            module: what the call is for: plan, action, end, score, judge, …
            step: the step that it belongs to, WHOLE_TRAJECTORY for none.
            ordinal: tells calls of one role and module at one step apart; consecutive ones have consecutive seeds.

        Raises:
            InfrastructureError: the endpoint failed for good, or until the deadline.
        """
        place = Place(trajectory=self._trajectory.id, step=step, role=role, module=module, ordinal=ordinal)
        chosen = self._models.roles[role]
        request = ChatRequest(
            model=chosen.model,
            messages=messages,
            temperature=chosen.temperature,
            top_p=chosen.top_p,
            max_tokens=chosen.max_tokens,
            seed=self._seed(place) if chosen.send_seed and self._models.seed else None,
        )
        key = (place, request.digest())
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = await self._buy(chosen, request, place)
        return known

    async def _buy(self, role: Role, request: ChatRequest, place: Place) -> JournalledReply:
        saving: list[asyncio.Future[JournalledReply]] = []

        def keep(reply: ChatReply) -> None:
            saving.append(self._keep(reply, request, place))

        await role.endpoint.complete(request, headers=self._headers(place), keep=keep)
        return await saving[0]

    def _keep(self, reply: ChatReply, request: ChatRequest, place: Place) -> asyncio.Future[JournalledReply]:
        """Put a reply in line for its commit, at once: whatever happens to the caller, it is saved."""
        record = _record(reply, place, request.digest())
        run, task, messages = self._task.run, self._task.id, request.messages

        def write(transaction: Transaction) -> JournalledReply:
            call = record_call(transaction, run=run, task=task, messages=messages, record=record)
            return JournalledReply(call, record.content, record.latency)

        return self._models.database.submit(write)

    def _seed(self, place: Place) -> int:
        """A seed in [0, 2**31) that depends on the run's seed and the place alone, not on row numbers or timing."""
        name = f"{self._models.seed}|{self._trajectory.label}|{place.step}|{place.role}|{place.module}"
        first = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest()) >> 2
        return first + place.ordinal

    def _headers(self, place: Place) -> dict[str, str]:
        if not self._models.trace_headers:
            return {}
        return {
            "x-cso-role": place.role,
            "x-cso-module": place.module,
            "x-cso-run": _header_text(self._task.run_name),
            "x-cso-task": _header_text(self._task.name),
            "x-cso-trajectory": _header_text(self._trajectory.label),
            "x-cso-step": str(place.step),
        }


def _record(reply: ChatReply, place: Place, digest: bytes) -> CallRecord:
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
    )


def _header_text(text: str) -> str:
    """A name as a header can carry it: percent-encoded where it is not plain ASCII."""
    return quote(text, safe=" /@#.:,+()[]=!&")
