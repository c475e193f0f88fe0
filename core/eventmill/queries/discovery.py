"""Discovery: which events exist, and which tags and metadata they have."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eventmill.event import Event
from eventmill.queries.filters import EventFilter
from eventmill.queries.lookup import Scannable, read_bounded
from eventmill.queries.properties import join_path, read_metadata, to_text

MAX_NAMES = 1_000
MAX_SAMPLE = 10_000
MAX_PATHS = 1_000
MAX_TEXTS = 10
MAX_SAMPLE_BYTES = 32 * 1024 * 1024  # of distinct texts, after which a sample ends
_BYTES_PER_TEXT = 200  # of a text in memory, besides its characters
_TEXT_CHARACTERS = 256  # of a frequent value


@dataclass(frozen=True, slots=True)
class EventName:
    """One name of events: how many, of how many users, and the times of the first and the last."""

    event_name: str
    total_count: int
    unique_count: int
    first_ms: int
    last_ms: int


def order_names(names: Iterable[EventName], limit: int) -> list[EventName]:
    """Return the names with the most events, in the order of an answer."""
    return sorted(names, key=lambda name: (-name.total_count, name.event_name))[:limit]


async def compute_event_names(store: Scannable, filter: EventFilter, limit: int) -> list[EventName]:
    """Return the reference answer, computed from scans. Raise QueryTooLarge for too many events."""
    events = await read_bounded(store, filter)
    return await asyncio.to_thread(count_event_names, events, filter, limit)


def count_event_names(events: Iterable[Event], filter: EventFilter, limit: int) -> list[EventName]:
    """Return the reference answer over events in memory, each once and in its latest version."""
    found: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        if filter.matches(event):
            found[event.event_name].append(event)
    return order_names((_describe(name, own) for name, own in found.items()), limit)


def _describe(name: str, events: Sequence[Event]) -> EventName:
    times = [event.timestamp_ms for event in events]
    return EventName(name, len(events), len({event.user_id for event in events}), min(times), max(times))


@dataclass(slots=True)
class PathSummary:
    """A path in the metadata: in how many events it is, the JSON types of its values, and their texts."""

    events: int = 0
    types: Counter[str] = field(default_factory=Counter)
    texts: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class PropertySummary:
    """What a sample of events has: its size, the events of each tag, and the paths in the metadata by name.

    `is_complete` is false if there were more than MAX_PATHS paths. `is_full` says that a sample must end, because its
    distinct texts take MAX_SAMPLE_BYTES.
    """

    events: int = 0
    tags: Counter[str] = field(default_factory=Counter)
    paths: dict[str, PathSummary] = field(default_factory=dict)
    is_complete: bool = True
    _bytes: int = 0

    @property
    def is_full(self) -> bool:
        return self._bytes >= MAX_SAMPLE_BYTES

    def add(self, events: Iterable[Event]) -> None:
        """Count events, until the summary is full."""
        for event in events:
            if self.is_full:
                return
            self.events += 1
            self.tags.update(set(event.tags))
            for keys, value in _leaves(read_metadata(bytes(event.metadata)), ()):
                self._add(join_path(keys), value)

    def _add(self, name: str, value: Any) -> None:
        if name not in self.paths and len(self.paths) == MAX_PATHS:
            self.is_complete = False
            return
        path = self.paths.setdefault(name, PathSummary())
        path.events += 1
        path.types[_type(value)] += 1
        text = to_text(value)[:_TEXT_CHARACTERS]
        if text not in path.texts:
            self._bytes += _BYTES_PER_TEXT + len(text)
        path.texts[text] += 1


def _leaves(value: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield path and value of all members, those of objects instead of the objects; empty objects themselves."""
    for key, member in value.items():
        if not key:
            continue  # no path leads to it
        if isinstance(member, Mapping) and member:
            yield from _leaves(member, (*keys, key))
        else:
            yield (*keys, key), member


def _type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, Mapping) else "array"
