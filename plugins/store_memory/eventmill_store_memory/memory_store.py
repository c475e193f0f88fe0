"""The store: a dictionary by identity, tombstones, and a scan in order."""

from bisect import bisect_left, bisect_right
from collections import defaultdict

from eventmill import Event, EventBatch, EventFilter, Identity, Position, Store

Key = tuple[int, str, str]  # (-timestamp_ms, event_name, event_id): the order of `scan`


class MemoryStore(Store):
    """Events by identity, and each project's keys in the order of `scan`."""

    def __init__(self) -> None:
        self._events: dict[Identity, Event] = {}
        self._keys: defaultdict[str, list[Key]] = defaultdict(list)
        self._tombstones: dict[tuple[str, str], int] = {}

    async def migrate(self) -> None:
        return

    async def insert(self, batch: EventBatch) -> None:
        fresh: defaultdict[str, list[Key]] = defaultdict(list)
        for event in batch.events:
            if self._is_erased(event):
                continue
            other = self._events.get(event.identity)
            if other is None:
                fresh[event.project].append((-event.timestamp_ms, event.event_name, event.event_id))
            if other is None or event.version > other.version:
                self._events[event.identity] = event
        for project, keys in fresh.items():
            self._keys[project] += keys
            self._keys[project].sort()  # quick: it was sorted but for its end

    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        keys = self._keys.get(filter.project, [])
        start = bisect_left(keys, (1 - filter.end_ms,))
        if before is not None:
            start = max(start, bisect_right(keys, (-before.timestamp_ms, before.event_name, before.event_id)))
        page: list[Event] = []
        for index in range(start, len(keys)):
            negative_ms, name, event_id = keys[index]
            if -negative_ms < filter.start_ms or len(page) == limit:
                break
            if filter.event_names is None or name in filter.event_names:
                page.append(self._events[Identity(filter.project, name, -negative_ms, event_id)])
        return page

    async def erase(self, project: str, user_id: str, until_ms: int) -> int:
        key = (project, user_id)
        self._tombstones[key] = max(until_ms, self._tombstones.get(key, until_ms))
        erased = [identity for identity, event in self._events.items() if self._is_erased(event)]
        for identity in erased:
            del self._events[identity]
        if erased:
            self._keys[project] = [
                k for k in self._keys[project] if Identity(project, k[1], -k[0], k[2]) in self._events
            ]
        return len(erased)

    async def check(self) -> list[str]:
        return ["the memory store is lost on exit"]

    def _is_erased(self, event: Event) -> bool:
        until_ms = self._tombstones.get((event.project, event.user_id))
        return until_ms is not None and event.timestamp_ms <= until_ms
