"""Copying events from a source to a target, page by page, so that an interrupted copy goes on where it stopped."""

import asyncio
import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from eventmill.event import ALL_TIME, Event, EventBatch
from eventmill.interfaces import Store
from eventmill.queries.filters import EventFilter
from eventmill.queries.metrics import Measure, MetricsQuery
from eventmill.queries.properties import Property
from eventmill.runtime.event_files import CopyFailed, EventFile, is_written, read_events

Name = tuple[str, str]  # project and name of events
_NAMES_AT_ONCE = 100
_FOUND_AT_ONCE = 500


@dataclass(slots=True)
class Progress:
    """How far a copy is: what the source needs to go on, the size of a target file, and the events per name."""

    place: Any = None
    size: int = 0
    copied: Counter[Name] = field(default_factory=Counter)

    @classmethod
    def load(cls, file: Path) -> "Progress":
        """Return the progress of an interrupted copy, or that of a new one."""
        if not file.exists():
            return cls()
        try:
            saved = json.loads(file.read_text())
            return cls(saved["place"], saved["size"], Counter({(p, n): count for p, n, count in saved["copied"]}))
        except (ValueError, KeyError, TypeError):
            raise CopyFailed(f"{file} is no progress of a copy: remove it to start again") from None

    def restart(self) -> None:
        """Forget what was copied."""
        self.place, self.size, self.copied = None, 0, Counter()

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

    async def count_missing(self, source: Source, names: Collection[Name]) -> int | None:
        """Return how many events of these names of the source it lacks, None if it cannot tell."""
        return None

    def discard(self) -> None:
        """Remove what a copy without events leaves."""
        return


class FileSource:
    """A file, or the events of some projects in it; the place is the number of events that were read."""

    def __init__(self, path: Path, projects: Collection[str] = ()) -> None:
        self._path = path
        self._projects = projects

    async def pages(self, place: Any) -> AsyncIterator[tuple[list[Event], Any]]:
        count = place or 0
        for page in read_events(self._path, count):
            count += len(page)
            yield [event for event in page if not self._projects or event.project in self._projects], count


class FileTarget(CopyTarget):
    """A file. Until it is complete, its events are in `partial`, whose name depends on the source, too."""

    def __init__(self, path: Path, partial: Path, progress: Progress) -> None:
        """Open the file. Start from the beginning if what the progress says was written is gone."""
        if not is_written(path, partial, progress.size):
            progress.restart()
        self._path = path
        self._file = EventFile(path, partial, progress.size)

    async def write(self, events: Sequence[Event], progress: Progress) -> None:
        self._file.write(events)
        progress.size = self._file.size

    async def finish(self, copied: Counter[Name]) -> dict[Name, int]:
        """Give the file its name, and count what it holds."""
        self._file.finish()
        found: Counter[Name] = Counter()
        for page in read_events(self._path, 0):
            found.update((event.project, event.event_name) for event in page)
        return found

    def discard(self) -> None:
        self._file.discard()


class StoreTarget(CopyTarget):
    """A store. Inserting an event again changes nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def write(self, events: Sequence[Event], progress: Progress) -> None:
        await self._store.insert(EventBatch.of(events))

    async def finish(self, copied: Counter[Name]) -> dict[Name, int]:
        """Count the events of the copied names."""
        found: dict[Name, int] = {}
        for project in {project for project, _ in copied}:
            names = sorted(name for each, name in copied if each == project)
            for start in range(0, len(names), _NAMES_AT_ONCE):
                wanted = EventFilter(project, *ALL_TIME, names[start : start + _NAMES_AT_ONCE])
                query = MetricsQuery(wanted, (Property("event_name"),), Measure("count"))
                for group in (await self._store.metrics(query)).groups:
                    found[project, str(group.values[0])] = group.total_count
        return found

    async def count_missing(self, source: Source, names: Collection[Name]) -> int | None:
        """Look each event up: a source may hold one several times, so that a smaller count alone says nothing."""
        missing = 0
        async for page, _ in source.pages(None):
            wanted = list({event.identity for event in page if (event.project, event.event_name) in names})
            for start in range(0, len(wanted), _FOUND_AT_ONCE):
                some = wanted[start : start + _FOUND_AT_ONCE]
                missing += len(some) - len(await self._store.find(some))
        return missing


async def copy_events(source: Source, target: CopyTarget, progress: Progress, file: Path) -> AsyncIterator[int]:
    """Copy all events, and save the progress after each page. Yield how many are copied."""
    async for page, place in source.pages(progress.place):
        await target.write(page, progress)
        progress.place = place
        progress.copied.update((event.project, event.event_name) for event in page)
        progress.save(file)
        yield progress.copied.total()
        await asyncio.sleep(0)  # files never wait: here an interruption is noticed


def differences(copied: Counter[Name], found: dict[Name, int]) -> Iterator[tuple[Name, int, int]]:
    """Yield the names of which the target holds fewer events than were copied, with both numbers."""
    for name, count in sorted(copied.items()):
        if found.get(name, 0) < count:
            yield name, count, found.get(name, 0)
