"""The store: a dictionary by identity, tombstones, and a scan in order."""

import heapq
import itertools
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from eventmill import Event, EventBatch, EventFilter, Identity, Position, Store, forget

Key = tuple[int, str, str]  # (-timestamp_ms, event_name, event_id): the order of `scan`
_FEW = 100


class MemoryStore(Store):
    """Events by identity, erased ones too; for each project and name the keys, in the order of `scan`."""

    def __init__(self) -> None:
        self._events: dict[Identity, Event] = {}
        self._keys: defaultdict[str, defaultdict[str, list[Key]]] = defaultdict(lambda: defaultdict(list))
        self._tombstones: dict[tuple[str, str], int] = {}

    async def migrate(self, retention_days: int | None = None) -> None:
        return

    async def insert(self, batch: EventBatch) -> None:
        fresh: defaultdict[tuple[str, str], list[Key]] = defaultdict(list)
        for event in batch.events:
            if self._is_erased(event):
                event = forget(event)
            other = self._events.get(event.identity)
            if other is None:
                key = (-event.timestamp_ms, event.event_name, event.event_id)
                fresh[event.project, event.event_name].append(key)
            if other is None or event.version > other.version:
                self._events[event.identity] = event
        for (project, name), keys in fresh.items():
            known = self._keys[project][name]
            if len(keys) <= _FEW:
                for key in keys:
                    insort(known, key)
            else:
                known += keys
                known.sort()

    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        names = self._keys[filter.project]
        wanted = names if filter.event_names is None else set(filter.event_names) & names.keys()
        spans = [self._span(names[name], filter, before) for name in wanted]
        events = (
            self._events[Identity(filter.project, name, -negative, event_id)]
            for negative, name, event_id in heapq.merge(*spans)
        )
        return list(itertools.islice((event for event in _shown(events) if filter.matches(event)), limit))

    async def find(self, identities: Sequence[Identity]) -> list[Event]:
        return list(_shown(self._events[identity] for identity in set(identities) if identity in self._events))

    async def erase(self, project: str, user_id: str, until_ms: int) -> int:
        key = (project, user_id)
        self._tombstones[key] = max(until_ms, self._tombstones.get(key, until_ms))
        erased = [event for event in self._events.values() if self._is_erased(event)]
        self._events |= {event.identity: forget(event) for event in erased}
        return len(erased)

    async def projects(self) -> list[str]:
        return [project for project, names in self._keys.items() if names]

    async def check(self) -> list[str]:
        return ["events in the memory store are lost on exit"]

    def _is_erased(self, event: Event) -> bool:
        until_ms = self._tombstones.get((event.project, event.user_id))
        return until_ms is not None and event.timestamp_ms <= until_ms

    @staticmethod
    def _span(keys: list[Key], filter: EventFilter, before: Position | None) -> Iterator[Key]:
        """The keys of one name that lie between the filter's bounds and behind the position."""
        start = bisect_left(keys, (1 - filter.end_ms,))
        if before is not None:
            start = max(start, bisect_right(keys, (-before.timestamp_ms, before.event_name, before.event_id)))
        for index in range(start, len(keys)):
            if -keys[index][0] < filter.start_ms:
                return
            yield keys[index]


def _shown(events: Iterable[Event]) -> Iterator[Event]:
    """Without those that are forgotten."""
    return (event for event in events if event.user_id)
