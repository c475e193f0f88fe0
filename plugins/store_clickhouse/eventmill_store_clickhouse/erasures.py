"""Users who are to be forgotten: tombstones, and the rows that they hide."""

from typing import Any

from eventmill import Event
from eventmill_store_clickhouse import questions
from eventmill_store_clickhouse.statements import Statements

_CLOCK_SKEW_S = 300  # between the servers of one cluster
_KEYS = 500  # of rows that one statement deletes by name


class Erasures:
    """Knows the tombstones, and takes what they hide off the disk."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self._until_ms: dict[tuple[str, str], int] = {}  # by project and user
        self._known_at_s = 0  # the server's time up to which all tombstones are known

    def __len__(self) -> int:
        return len(self._until_ms)

    def hide(self, event: Event) -> bool:
        """Whether a tombstone hides the event."""
        return event.timestamp_ms <= self._until_ms.get((event.project, event.user_id), -1)

    async def learn(self) -> None:
        """Read the tombstones that are new since the last time."""
        since = {"since_s": max(0, self._known_at_s - _CLOCK_SKEW_S)}
        [[now_s, *columns]] = await self._statements.look(questions.ERASURES, since)
        self._known_at_s = now_s
        for project, user_id, until_ms in zip(*columns, strict=True):
            self._until_ms[project, user_id] = max(until_ms, self._until_ms.get((project, user_id), until_ms))

    async def add(self, project: str, user_id: str, until_ms: int) -> int:
        """Write a tombstone, delete what it hides, and return how many events that were."""
        user = {"project": project, "user_id": user_id, "until_ms": until_ms}
        # First the tombstone: from here on nothing of the user is answered or stored, whatever happens next.
        await self._statements.execute(questions.ERASE, user)
        found = await self._statements.look(questions.OF_USER, user)
        await self._delete(user)
        return int(found[0][0])

    async def sweep(self, gone: list[Event]) -> None:
        """Take off the disk what an insert left there of erased users."""
        for project in {event.project for event in gone}:
            ours = [event for event in gone if event.project == project]
            for (user_id,) in await self._statements.look(*questions.users_on_disk(project, ours)):
                until_ms = self._until_ms[project, user_id]
                await self._delete({"project": project, "user_id": user_id, "until_ms": until_ms})

    async def _delete(self, user: dict[str, Any]) -> None:
        """Delete a user's rows, where the table is not spread over a cluster.

        A delete costs time for each part that it might touch, so it is told the months.
        """
        if "MergeTree" not in await self._statements.engine():
            return
        for (month,) in await self._statements.look(questions.MONTHS_OF_USER, user):
            # First what this user's newer versions had overtaken, or it would come up again.
            overtaken = [key for (key,) in await self._statements.look(questions.OVERTAKEN, user | {"month": month})]
            for start in range(0, len(overtaken), _KEYS):
                keys = {
                    "project": user["project"],
                    "user_id": user["user_id"],
                    "keys": overtaken[start : start + _KEYS],
                }
                await self._statements.execute(questions.delete_keys(month), keys)
            await self._statements.execute(questions.delete_user(month), user)
