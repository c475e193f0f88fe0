"""A simulated store. It fails according to the plan, within what the contract allows."""

import asyncio
from collections.abc import Sequence
from hashlib import blake2b

from eventmill import (
    Event,
    EventBatch,
    EventFilter,
    Identity,
    Position,
    RejectedEvents,
    Store,
    StoreUnavailable,
)
from eventmill.testing.simulation.world import HANG_SECONDS, Process, World

_SICK_SHARE = 0.3


class Table:
    """The server: the events, and when each was first stored."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.events: dict[Identity, Event] = {}
        self.stored_at: dict[str, float] = {}

    def put(self, events: Sequence[Event]) -> None:
        for event in events:
            other = self.events.get(event.identity)
            if other is None or event.version > other.version:
                self.events[event.identity] = event
            self.stored_at.setdefault(event.event_id, self.world.now)

    def is_on_sick_shard(self, event: Event) -> bool:
        """Return whether this row fails while the store is partly unavailable."""
        place = blake2b(event.event_id.encode(), digest_size=4).digest()
        return int.from_bytes(place) / 2**32 < max(_SICK_SHARE, self.world.plan.share)

    def is_sick(self, event: Event) -> bool:
        return self.world.is_on("store partly unavailable") and self.is_on_sick_shard(event)


class SimulatedStore(Store):
    """The handle of one process on a table."""

    def __init__(self, process: Process, table: Table) -> None:
        self._process = process
        self._table = table
        self._world = table.world

    async def migrate(self, retention_days: int | None = None) -> None:
        return

    async def insert(self, batch: EventBatch) -> None:
        await self._process.step()
        if self._world.is_on("store hangs"):
            await asyncio.sleep(HANG_SECONDS)
            raise StoreUnavailable("no answer in time")
        if any(event.user_id == "poison" for event in batch.events):
            self._world.tell(f"{self._process.name}: crashes on a poison event")
            self._process.die()
            await self._process.step()
        events = self._taken(batch.events)
        effect = self._table.put
        await self._world.call(
            self._process, lambda: effect(events), "store loses replies", StoreUnavailable("reply lost")
        )

    def _taken(self, events: Sequence[Event]) -> Sequence[Event]:
        """Return the events if the store accepts them all. Raise its error otherwise."""
        if self._world.is_on("store unavailable"):
            raise StoreUnavailable("unavailable")
        if self._world.is_on("store rejects all"):
            raise RejectedEvents("no such column", [0])
        sick = [event for event in events if self._table.is_sick(event)]
        bad = [index for index, event in enumerate(events) if event.user_id == "rejected"]
        if (sick or bad) and self._world.plan.half_stored:
            self._table.put([event for event in events if event.user_id == "good" and event not in sick])
        if sick:
            raise StoreUnavailable("a part is unavailable") if len(sick) % 2 else RuntimeError("a part is unavailable")
        if bad:
            named = {"all named": bad, "one named": bad[:1], "none named": None}[self._world.plan.rejection]
            raise RejectedEvents("no such user", named)
        return events

    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        found = [event for event in self._table.events.values() if filter.matches(event)]
        found.sort(key=lambda event: (-event.timestamp_ms, event.event_name, event.event_id))
        if before is not None:
            edge = (-before.timestamp_ms, before.event_name, before.event_id)
            found = [event for event in found if (-event.timestamp_ms, event.event_name, event.event_id) > edge]
        return found[:limit]

    async def erase(self, project: str, user_id: str, until_ms: int) -> int:
        erased = [
            identity
            for identity, event in self._table.events.items()
            if (event.project, event.user_id) == (project, user_id) and event.timestamp_ms <= until_ms
        ]
        for identity in erased:
            del self._table.events[identity]
        return len(erased)

    async def check(self) -> list[str]:
        await self._world.pause()
        if self._world.is_on("store unavailable") or self._world.is_on("store hangs"):
            raise StoreUnavailable("unavailable")
        return []
