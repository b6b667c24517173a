"""The bounded line of deliveries in front of a handler.

The database holds everything that is owed; a line holds at most `capacity` of it in memory. Fresh events go
straight into a line that has room and is not behind; otherwise the line is behind, and is filled from the database
as its workers make room. The higher priority goes first, then the older: what waits here and would have to let a
fresh event pass, without there being room for it, goes back to the database.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Collection

import anyio

from runtime.handler import Handler
from store.database import Reader
from store.deliveries import Delivery, load_due, next_due
from store.events import Event
from store.transaction import now_us

# Whatever the settings say of delays, an idle line does not ask the database all the time.
_LEAST_LOOK_S = 1.0


class Line:
    """Deliveries for one handler: waiting in memory, in work, or known to be left in the database.

    Args:
        runs: those whose deliveries are wanted; the caller may change the set, and says `look` when it grows.
        capacity: how many are held at most.
        longest_delay: seconds after which the database is asked again whatever it said.
    """

    def __init__(self, handler: Handler, *, runs: Collection[int], capacity: int, longest_delay: float) -> None:
        self.handler = handler
        self._runs = runs
        self._capacity = capacity
        self.longest_delay = longest_delay
        self._held: set[int] = set()
        self._released: set[int] | None = None  # while a reading is under way, which may still show them as owed
        self._left = -math.inf  # the highest priority that was left to the database since the last reading began
        # Unbounded, because `capacity` already bounds what is put into it.
        self._waiting: asyncio.PriorityQueue[tuple[int, int, Delivery]] = asyncio.PriorityQueue()
        self._ranks: Counter[int] = Counter()  # of what waits: its priorities negated, the least goes first
        self._behind = True  # what an earlier process left has yet to be looked up
        self._looked = 0  # when (µs) the database was last asked what is due
        self._room = anyio.Event()

    @property
    def idle(self) -> bool:
        """Whether the line holds nothing and knows of nothing to fetch."""
        return not self._held and not self._behind

    def widen(self, capacity: int) -> None:
        """Hold at least so many deliveries from now on."""
        self._capacity = max(self._capacity, capacity)
        self._call_feeder()

    def offer(self, event: Event) -> None:
        """A fresh event has been committed for the handler."""
        if event.seq in self._held:
            return
        if not self._behind and len(self._held) < self._capacity:
            self._push(Delivery(self.handler.name, event))
            return
        if max(self._ranks, default=-math.inf) > -event.priority:
            self._put_back()
        self._left = max(self._left, event.priority)
        self.look()

    def look(self) -> None:
        """The database may owe the handler more than the line holds."""
        self._behind = True
        self._call_feeder()

    async def take(self) -> Delivery:
        """The next delivery, waiting for one as long as it takes; `release` must follow."""
        rank, _, delivery = await self._waiting.get()
        self._leave(rank)
        return delivery

    def release(self, delivery: Delivery) -> None:
        """A delivery is done, put off or set aside: there is room again."""
        self._held.discard(delivery.event.seq)
        if self._released is not None:
            self._released.add(delivery.event.seq)
        if self._behind:
            self._call_feeder()

    async def feed(self, reader: Reader) -> None:
        """Keep the line filled from the database until cancelled."""
        while True:
            while self._behind and self._has_room:
                await self._fill(reader)
            until_due = await self._until_due(reader)
            if until_due <= 0:
                self._behind = True
                if self._has_room:
                    continue
                until_due = math.inf  # it is looked up once there is room
            # A clock that was set back would otherwise put deliveries off for as long.
            longest = max(self.longest_delay, _LEAST_LOOK_S)
            with anyio.move_on_after(min(until_due, longest)) as wait:
                await self._room.wait()
            self._room = anyio.Event()
            if wait.cancelled_caught:
                self._behind = True

    @property
    def _has_room(self) -> bool:
        # Half empty rather than one place free, so that reading from the database goes by the batch.
        return len(self._held) <= self._capacity // 2

    def _call_feeder(self) -> None:
        if self._has_room:
            self._room.set()

    async def _fill(self, reader: Reader) -> None:
        # Cleared first: an event committed while we read marks the line again, or is found and not taken twice.
        self._behind = False
        self._left = -math.inf
        released = self._released = set()
        room = self._capacity - len(self._held)
        now = self._looked = now_us()
        found = await load_due(
            reader,
            self.handler.name,
            runs=self._runs,
            now=now,
            horizon=now + int(self.longest_delay * 1e6),
            limit=room,
            held=frozenset(self._held),
        )
        for delivery in found:
            event = delivery.event
            # What was left to the database meanwhile may go first, and is found by the reading that follows this one.
            if event.priority >= self._left and event.seq not in self._held and event.seq not in released:
                self._push(delivery)
        self._released = None
        if len(found) == room:
            self._behind = True

    async def _until_due(self, reader: Reader) -> float:
        """Seconds until a delivery comes due that was put off when we last looked; infinite if there is none.

        None has passed that we did not see: 0 or less where it has come due since.
        """
        due = await next_due(reader, self.handler.name, after=self._looked)
        return math.inf if due is None else (due - now_us()) / 1e6

    def _push(self, delivery: Delivery) -> None:
        rank = -delivery.event.priority
        self._held.add(delivery.event.seq)
        self._ranks[rank] += 1
        self._waiting.put_nowait((rank, delivery.event.seq, delivery))

    def _put_back(self) -> None:
        """Leave what waits to the database, which knows the order of all."""
        while not self._waiting.empty():
            rank, seq, _ = self._waiting.get_nowait()
            self._leave(rank)
            self._held.discard(seq)

    def _leave(self, rank: int) -> None:
        self._ranks[rank] -= 1
        if not self._ranks[rank]:
            del self._ranks[rank]
