"""Erasures: tombstones hide the events of a user, and mutations empty the hidden rows."""

from collections import defaultdict
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from eventmill import Event, EventBatch, encode_line, forget
from eventmill_store_clickhouse import queries
from eventmill_store_clickhouse.statements import Statements

User = tuple[str, str]  # project, user_id


_CLOCK_SKEW_S = 60  # between two servers; emptying rows again is harmless


class Erasures:
    """Caches the tombstones, and empties the rows that they hide except for identity and version.

    Queries read the tombstones from their table. This class only removes content from the disk; nothing waits for it.
    """

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self._until_ms: dict[User, int] = {}
        self._fingerprint: object = None  # of the cached tombstones
        self._loaded_at_s = 0  # by the server's clock

    async def add(self, project: str, user_id: str, until_ms: int) -> int:
        """Write a tombstone, start to empty the rows that it hides, and return about how many events these are."""
        user = {"project": project, "user_id": user_id, "until_ms": until_ms}
        [[before_ms]] = await self._statements.lookup(queries.ERASED_BEFORE, user)
        await self._statements.execute(queries.ERASE, user)
        return await self._empty_all(user, before_ms)

    async def prepare(self, batch: EventBatch) -> EventBatch:
        """Return the batch with the known erased events emptied."""
        if self._fingerprint is None:
            await self._load()
        if not any(map(self._hides, batch.events)):
            return batch
        events = [forget(event) if self._hides(event) else event for event in batch.events]
        return EventBatch(events, [encode_line(event) for event in events])

    async def finish(self, written: EventBatch) -> None:
        """Empty the events that were erased while the batch was written."""
        await self._load()
        months: defaultdict[User, set[int]] = defaultdict(set)
        for event in filter(self._hides, written.events):
            months[event.project, event.user_id].add(_month(event))
        for user, its_months in months.items():
            await self._empty(self._tombstone(user), its_months)

    def _hides(self, event: Event) -> bool:
        return bool(self._until_ms) and event.timestamp_ms <= self._until_ms.get((event.project, event.user_id), -1)

    async def _load(self) -> None:
        """Read the tombstones if they have changed.

        A tombstone that is older than the last load was not visible then, for example on a lagging replica. Inserts
        since then ignored it, so empty its rows now.
        """
        [[now_s, *fingerprint]] = await self._statements.lookup(queries.ERASURES_FINGERPRINT)
        if fingerprint == self._fingerprint:
            self._loaded_at_s = now_s
            return
        late = []
        for project, user_id, until_ms, erased_at_s in await self._statements.lookup(queries.ERASURES):
            if until_ms > self._until_ms.get((project, user_id), -1):
                self._until_ms[project, user_id] = until_ms
                if erased_at_s <= self._loaded_at_s + _CLOCK_SKEW_S:
                    late.append((project, user_id))
        self._fingerprint, self._loaded_at_s = fingerprint, now_s
        for user in late:
            await self._empty_all(self._tombstone(user))

    def _tombstone(self, user: User) -> dict[str, Any]:
        return {"project": user[0], "user_id": user[1], "until_ms": self._until_ms[user]}

    async def _empty_all(self, tombstone: dict[str, Any], before_ms: int = 0) -> int:
        """Start to empty the user's rows; return how many events of them were not erased before."""
        months = await self._statements.query(queries.OF_USER, tombstone | {"before_ms": before_ms}, {})
        await self._empty(tombstone, [month for month, _ in months])
        return sum(count for _, count in months)

    async def _empty(self, tombstone: dict[str, Any], months: Collection[int]) -> None:
        """Start to empty the user's rows in the background, unless the table is Distributed."""
        if months and "MergeTree" in await self._statements.engine():
            await self._statements.execute(queries.empty(months), tombstone)


def _month(event: Event) -> int:
    """Return the partition of an event."""
    day = datetime.fromtimestamp(event.timestamp_ms // 1000, UTC)
    return day.year * 100 + day.month
