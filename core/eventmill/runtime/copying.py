"""Copying events from a source to a target, page by page, so that an interrupted copy goes on where it stopped."""

import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from eventmill.event import ALL_TIME, Event, EventBatch
from eventmill.interfaces import Store
from eventmill.queries.discovery import MAX_NAMES
from eventmill.queries.filters import EventFilter
from eventmill.runtime.event_files import EventFile, read_events

Name = tuple[str, str]  # project and name of events


@dataclass(slots=True)
class Progress:
    """How far a copy is: what the source needs to go on, the size of a target file, and the events per name."""

    place: Any = None
    size: int = 0
    copied: Counter[Name] = field(default_factory=Counter)

    @classmethod
    def load(cls, file: Path) -> "Progress":
        """Return the progress of an interrupted copy, or that of a new one."""
        try:
            saved = json.loads(file.read_text())
        except FileNotFoundError:
            return cls()
        return cls(saved["place"], saved["size"], Counter({(p, n): count for p, n, count in saved["copied"]}))

    def save(self, file: Path) -> None:
        """Write the file as a whole or not at all."""
        counts = [[project, name, count] for (project, name), count in self.copied.items()]
        temporary = file.with_name(f"{file.name}.new")
        temporary.write_text(json.dumps({"place": self.place, "size": self.size, "copied": counts}))
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(file)


class Source(Protocol):
    """Where the events come from."""

    def pages(self, place: Any) -> AsyncIterator[tuple[list[Event], Any]]:
        """Yield the events after a place in pages, each with the place after it."""
        ...


class CopyTarget(ABC):
    """Where the events go."""

    @abstractmethod
    async def write(self, events: Sequence[Event], progress: Progress) -> None:
        """Return when the page is durable, and note in the progress what is needed to go on."""

    @abstractmethod
    async def finish(self, copied: Counter[Name]) -> dict[Name, int]:
        """Complete the target; return how many events of each name it holds."""


class FileSource:
    """A file; the place is the number of events that were read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def pages(self, place: Any) -> AsyncIterator[tuple[list[Event], Any]]:
        count = place or 0
        for page in read_events(self._path, count):
            count += len(page)
            yield page, count


class FileTarget(CopyTarget):
    """A file."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self._file = EventFile(path, progress.size)

    async def write(self, events: Sequence[Event], progress: Progress) -> None:
        self._file.write(events)
        progress.size = self._file.size

    async def finish(self, copied: Counter[Name]) -> dict[Name, int]:
        self._file.finish()
        return dict(copied)


class StoreTarget(CopyTarget):
    """A store. Inserting an event again changes nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def write(self, events: Sequence[Event], progress: Progress) -> None:
        await self._store.insert(EventBatch.of(events))

    async def finish(self, copied: Counter[Name]) -> dict[Name, int]:
        found: dict[Name, int] = {}
        for project in {project for project, _ in copied}:
            for name in await self._store.event_names(EventFilter(project, *ALL_TIME), MAX_NAMES):
                found[project, name.event_name] = name.total_count
        return found


async def copy_events(source: Source, target: CopyTarget, progress: Progress, file: Path) -> AsyncIterator[int]:
    """Copy all events, and save the progress after each page. Yield how many are copied."""
    async for page, place in source.pages(progress.place):
        await target.write(page, progress)
        progress.place = place
        progress.copied.update((event.project, event.event_name) for event in page)
        progress.save(file)
        yield progress.copied.total()


def differences(copied: Counter[Name], found: dict[Name, int]) -> Iterator[tuple[Name, int, int]]:
    """Yield the names of which the target holds fewer events than were copied, with both numbers."""
    for name, count in sorted(copied.items()):
        if found.get(name, 0) < count:
            yield name, count, found.get(name, 0)
