"""Users who are to be forgotten: tombstones, which hide, and the rows that they hide, which lose their content."""

from collections import defaultdict
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from eventmill import Event, EventBatch, encode_line, forget
from eventmill_store_clickhouse import questions
from eventmill_store_clickhouse.statements import Statements

User = tuple[str, str]  # project, user_id


_CLOCKS_APART_S = 60  # of two servers; emptying rows again is harmless


class Erasures:
    """Knows the tombstones, and empties the rows that they hide: of these only identity and version stay.

    Every question looks at the tombstones itself. What happens here takes content off the disk; nothing waits for it.
    """

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self._until_ms: dict[User, int] = {}
        self._fingerprint: object = None  # of the tombstones that are known
        self._looked_at_s = 0  # by the server's clock

    async def add(self, project: str, user_id: str, until_ms: int) -> int:
        """Write a tombstone, start to empty what it hides, and return about how many events that were."""
        user = {"project": project, "user_id": user_id, "until_ms": until_ms}
        [[before_ms]] = await self._statements.look(questions.ERASED_BEFORE, user)
        await self._statements.execute(questions.ERASE, user)
        return await self._empty_all(user, before_ms)

    async def prepare(self, batch: EventBatch) -> EventBatch:
        """The batch as it may be written: nothing in it is known to be erased."""
        if self._fingerprint is None:
            await self._learn()
        if not any(map(self._hides, batch.events)):
            return batch
        events = [forget(event) if self._hides(event) else event for event in batch.events]
        return EventBatch(events, [encode_line(event) for event in events])

    async def follow(self, written: EventBatch) -> None:
        """Empty what was erased while it was written."""
        await self._learn()
        months: defaultdict[User, set[int]] = defaultdict(set)
        for event in filter(self._hides, written.events):
            months[event.project, event.user_id].add(_month(event))
        for user, its_months in months.items():
            await self._empty(self._tombstone(user), its_months)

    def _hides(self, event: Event) -> bool:
        return bool(self._until_ms) and event.timestamp_ms <= self._until_ms.get((event.project, event.user_id), -1)

    async def _learn(self) -> None:
        """Read the tombstones when they have changed.

        One that is older than the last look was not visible then, as on a replica that lags: earlier inserts could not
        respect it, so the rows are emptied now.
        """
        [[now_s, *fingerprint]] = await self._statements.look(questions.ERASURES_FINGERPRINT)
        if fingerprint == self._fingerprint:
            self._looked_at_s = now_s
            return
        late = []
        for project, user_id, until_ms, erased_at_s in await self._statements.look(questions.ERASURES):
            if until_ms > self._until_ms.get((project, user_id), -1):
                self._until_ms[project, user_id] = until_ms
                if erased_at_s <= self._looked_at_s + _CLOCKS_APART_S:
                    late.append((project, user_id))
        self._fingerprint, self._looked_at_s = fingerprint, now_s
        for user in late:
            await self._empty_all(self._tombstone(user))

    def _tombstone(self, user: User) -> dict[str, Any]:
        return {"project": user[0], "user_id": user[1], "until_ms": self._until_ms[user]}

    async def _empty_all(self, tombstone: dict[str, Any], before_ms: int = 0) -> int:
        """Look for the user's rows, and let the engine empty them; return how many of these were not erased before."""
        months = await self._statements.ask(questions.OF_USER, tombstone | {"before_ms": before_ms}, {})
        await self._empty(tombstone, [month for month, _ in months])
        return sum(count for _, count in months)

    async def _empty(self, tombstone: dict[str, Any], months: Collection[int]) -> None:
        """Let the engine empty the user's rows in the background, where the table is not spread over a cluster."""
        if months and "MergeTree" in await self._statements.engine():
            await self._statements.execute(questions.empty(months), tombstone)


def _month(event: Event) -> int:
    """The partition of an event."""
    day = datetime.fromtimestamp(event.timestamp_ms // 1000, UTC)
    return day.year * 100 + day.month
