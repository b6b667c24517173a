"""The replicas of a model role: who gets a call, and who is left alone for a while.

The calls of one trajectory and of its branches share a prefix, so they go to the replica that has seen it, as long
as it has room while others have not; others go where the load is least. A replica that fails several times in a
row is taken out and tried again with single calls, at growing intervals; calls that wait for it are sent to others.
What fails at one replica is asked of another within the call's deadline, without waiting. With all replicas out, the
one that is due first is asked all the same: being out is a guess, and a guess must not fail a call.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import anyio

from runtime.clock import loop_time
from runtime.models.call import Call, Keep
from runtime.models.chat import ChatReply, ChatRequest
from runtime.models.endpoint import Endpoint, EndpointSnapshot
from runtime.models.errors import EndpointStopped, EndpointUnavailable
from runtime.models.faults import REFUSED, Fault
from runtime.models.settings import EndpointSettings
from runtime.models.trouble import Tell, silent

_FAILURES_TO_GO_OUT = 3
_FIRST_ABSENCE = 1.0
_LONGEST_ABSENCE = 60.0
_CLEARLY_LESS = 0.75
_MOST_HOMES = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSnapshot:
    """One replica at one moment; `out_for` is in seconds, 0 for one that takes part."""

    address: str
    out_for: float
    endpoint: EndpointSnapshot


class _Replica:
    """An endpoint, and what is thought of its health."""

    def __init__(self, settings: EndpointSettings, tell: Tell, *, has_replied: bool) -> None:
        self.endpoint = Endpoint(settings, tell, has_replied=has_replied)
        self.address = urlsplit(settings.base_url).netloc or settings.region
        self.out_until = 0.0
        self._failures = 0
        self._absences = 0
        self._is_probed = False

    @property
    def is_in(self) -> bool:
        """Whether it takes part."""
        return self._absences == 0

    @property
    def is_due(self) -> bool:
        """Whether it has been out long enough, and a single call should find out how it is."""
        return not self.is_in and not self._is_probed and loop_time() >= self.out_until

    @contextmanager
    def asked(self) -> Iterator[bool]:
        """Ask it in the block; whether that is the single call of one that is due."""
        if not self.is_due:
            yield False
            return
        self._is_probed = True
        try:
            yield True
        finally:
            self._is_probed = False

    def succeeded(self) -> None:
        """It has answered well, so it takes part."""
        self._failures = self._absences = 0
        self.out_until = 0.0

    def failed(self, fault: Fault, *, is_probe: bool) -> None:
        """It has not; after several times in a row it goes out, after a probe for longer than before."""
        # One that sheds load is alive, and its own limiter knows what to do about it.
        if fault.status in REFUSED:
            return
        self._failures += 1
        now = loop_time()
        if self._failures >= _FAILURES_TO_GO_OUT and (is_probe or now >= self.out_until):
            self.out_until = now + min(_LONGEST_ABSENCE, _FIRST_ABSENCE * 2.0 ** min(self._absences, 32))
            self._absences += 1
            self.endpoint.dismiss()


class Pool:
    """One or more replicas of a role; an async context manager that may be entered once.

    With a single replica everything is as with that endpoint alone. For `tell` and `has_replied` see `Endpoint`.
    """

    def __init__(
        self, replicas: Sequence[EndpointSettings], tell: Tell = silent, *, has_replied: bool = False
    ) -> None:
        if len(replicas) > 1:
            replicas = [_renamed(settings) for settings in replicas]
        self._replicas = [_Replica(settings, tell, has_replied=has_replied) for settings in replicas]
        self._homes: OrderedDict[str, _Replica] = OrderedDict()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for replica in self._replicas:
            await self._stack.enter_async_context(replica.endpoint)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def settings(self) -> EndpointSettings:
        """The settings of the first replica; all but the address are the same for all."""
        return self._replicas[0].endpoint.settings

    @property
    def is_stopped(self) -> bool:
        """Whether none of them is asked, see `Endpoint.is_stopped`."""
        return all(replica.endpoint.is_stopped for replica in self._replicas)

    def adjust(self, settings: Sequence[EndpointSettings]) -> None:
        """Take over what may change while calls are on their way, see `Endpoint.adjust`."""
        for replica, each in zip(self._replicas, settings, strict=False):
            replica.endpoint.adjust(each)

    def ask_again(self) -> None:
        """Ask as usual where an endpoint has stopped us, see `Endpoint.ask_again`."""
        for replica in self._replicas:
            replica.endpoint.ask_again()

    def snapshot(self) -> EndpointSnapshot:
        """The replicas together: sums, and what limits the one at which most calls wait."""
        each = [replica.endpoint.snapshot() for replica in self._replicas]
        # A role whose replicas have all stopped is asked again when the first of them may be.
        stopped = min(each, key=lambda one: one.until or 0.0)
        return EndpointSnapshot(
            in_flight=sum(one.in_flight for one in each),
            limit=sum(one.limit for one in each),
            waiting=sum(one.waiting for one in each),
            limiting=max(each, key=lambda one: one.waiting).limiting,
            refused=sum(one.refused for one in each),
            retried=sum(one.retried for one in each),
            calls=sum(one.calls for one in each),
            stopped=stopped.stopped,
            reason=stopped.reason,
            until=stopped.until,
        )

    def replicas(self) -> tuple[ReplicaSnapshot, ...]:
        """Look at each replica by itself."""
        now = loop_time()
        return tuple(
            ReplicaSnapshot(
                address=replica.address,
                out_for=0.0 if replica.is_in else max(0.0, replica.out_until - now),
                endpoint=replica.endpoint.snapshot(),
            )
            for replica in self._replicas
        )

    def encode(self, request: ChatRequest) -> bytes:
        """Serialise a request as the replicas are sent it."""
        return self._replicas[0].endpoint.encode(request)

    async def complete(
        self,
        request: ChatRequest,
        *,
        headers: Mapping[str, str],
        keep: Keep | None = None,
        body: bytes | None = None,
        affinity: str = "",
    ) -> ChatReply:
        """Ask for one completion, see `Endpoint.complete`; calls of one `affinity` prefer one replica.

        A replica that refuses its key is left out as long as there are others; raises EndpointStopped after the last.
        """
        if len(self._replicas) == 1:
            return await self._replicas[0].endpoint.complete(request, headers=headers, keep=keep, body=body)
        first = self._choose(affinity, avoid=()).endpoint
        call = first.begin(request, headers=headers, keep=keep, body=body)
        call.most_attempts += len(self._replicas) - 1
        await first.check_length(call)
        tried: list[_Replica] = []
        while True:
            replica = self._choose(affinity, avoid=tried, deadline=call.deadline)
            if replica in tried:
                await anyio.sleep(replica.endpoint.back_off(call))
                tried.clear()
                continue
            tried.append(replica)
            reply = await self._attempt(replica, call)
            if reply is not None:
                return reply

    async def _attempt(self, replica: _Replica, call: Call) -> ChatReply | None:
        """One attempt at one replica: a reply, or None if another one should be asked. Raises the final ones."""
        before, fault = call.attempts, call.fault
        with replica.asked() as is_probe:
            try:
                reply = await replica.endpoint.attempt(call)
            except EndpointStopped:
                if self.is_stopped:
                    raise
                call.fault = fault  # or the others would be taken for stopped, or left alone for as long
                return None
            except EndpointUnavailable:
                self._note_fault(replica, call, before, is_probe=is_probe)
                raise
            if reply is None:
                self._note_fault(replica, call, before, is_probe=is_probe)
            else:
                replica.succeeded()
            return reply

    def _note_fault(self, replica: _Replica, call: Call, before: int, *, is_probe: bool) -> None:
        """Think less of a replica if the call has been made in vain there, and spare others the wait."""
        if call.fault is None or call.attempts == before:
            return
        replica.failed(call.fault, is_probe=is_probe)
        others = [each.endpoint for each in self._replicas if each is not replica and each.is_in]
        if call.fault.retry_after and any(other.paused_for < call.fault.retry_after for other in others):
            replica.endpoint.dismiss()

    def _choose(self, affinity: str, *, avoid: Collection[_Replica], deadline: float = math.inf) -> _Replica:
        """Who gets the next attempt: none of `avoid`, unless nobody else takes part, and nobody else is left.

        One that is to be left alone until `deadline` (loop time) comes last.
        """
        asked = [each for each in self._replicas if not each.endpoint.is_closed] or self._replicas
        longest = deadline - loop_time()
        asked = [each for each in asked if each.endpoint.paused_for < longest] or asked
        fresh = [each for each in asked if each not in avoid and (each.is_in or each.is_due)]
        if not fresh:
            stand_ins = [each for each in asked if each.is_in] or [each for each in asked if each not in avoid]
            stand_ins = stand_ins or asked
            return min(stand_ins, key=lambda each: (each.out_until, each.endpoint.paused_for, each.endpoint.load))
        due = next((each for each in fresh if each.is_due), None)
        return due or self._at_home(affinity, fresh, settle=not avoid)

    def _at_home(self, affinity: str, fresh: Sequence[_Replica], *, settle: bool) -> _Replica:
        """The replica that has the prefix, or the least loaded one, which then is to have it if `settle` says so."""
        home = self._homes.get(affinity)
        best = min(fresh, key=lambda each: (each.endpoint.paused_for, each.endpoint.load, _rank(affinity, each)))
        if home is not None and home in fresh and not _is_worth_moving(home, best):
            self._homes.move_to_end(affinity)
            return home
        if affinity and settle:
            self._homes[affinity] = best
            if len(self._homes) > _MOST_HOMES:
                self._homes.popitem(last=False)
        return best


def _is_worth_moving(home: _Replica, best: _Replica) -> bool:
    """Whether waiting at the replica that has the prefix would cost more than computing the prefix anew."""
    if home.endpoint.paused_for > best.endpoint.paused_for:
        return True
    return home.endpoint.load >= 1 and best.endpoint.load < _CLEARLY_LESS


def _rank(affinity: str, replica: _Replica) -> bytes:
    """Who comes first of several that are equally loaded: the same one after a restart, whose cache is still warm."""
    return hashlib.blake2b(f"{affinity}|{replica.address}".encode(), digest_size=8).digest()


def _renamed(settings: EndpointSettings) -> EndpointSettings:
    """A replica's settings under a name that tells it from the others."""
    return replace(settings, name=f"{settings.name} ({urlsplit(settings.base_url).netloc})")
