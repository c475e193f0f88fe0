"""Every insert appends lines; every reader first reads what was appended since it last looked."""

import os
from pathlib import Path

import msgspec

from eventmill import Event, EventBatch, EventFilter, Identity, Position, Store, StoreUnavailable

Tombstone = tuple[str, str, int]  # project, user_id, until_ms


class JsonlStore(Store):
    """A line is an event (an object) or a tombstone (an array). Any number of processes may share the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._events: dict[Identity, Event] = {}
        self._erased: dict[tuple[str, str], int] = {}
        self._decode = msgspec.json.Decoder(Event | Tombstone).decode

    async def migrate(self, retention_days: int | None = None) -> None:
        self._append(b"")

    async def insert(self, batch: EventBatch) -> None:
        self._append(b"".join(line + b"\n" for line in batch.lines))

    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        self._read()

        def order(place: Position) -> tuple[int, str, str]:
            return (-place.timestamp_ms, place.event_name, place.event_id)

        found = [event for event in self._events.values() if filter.matches(event) and not self._is_erased(event)]
        found.sort(key=lambda event: order(event.position))
        return [event for event in found if before is None or order(event.position) > order(before)][:limit]

    async def erase(self, project: str, user_id: str, until_ms: int) -> int:
        self._read()
        live = [event for event in self._events.values() if not self._is_erased(event)]
        self._append(msgspec.json.encode((project, user_id, until_ms)) + b"\n")
        self._read()
        return sum(self._is_erased(event) for event in live)

    async def check(self) -> list[str]:
        self._append(b"")
        return ["the whole file is read into memory"]

    def _append(self, lines: bytes) -> None:
        try:
            with self._path.open("ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreUnavailable(f"cannot write {self._path.name}: {error.strerror}") from error

    def _read(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            appended = file.read()
        complete = appended[: appended.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in complete.split(b"\n")[:-1]:
            item = self._decode(line)
            if isinstance(item, Event):
                other = self._events.setdefault(item.identity, item)
                self._events[item.identity] = max(item, other, key=lambda event: event.version)
            else:
                project, user_id, until_ms = item
                self._erased[project, user_id] = max(until_ms, self._erased.get((project, user_id), until_ms))

    def _is_erased(self, event: Event) -> bool:
        return event.timestamp_ms <= self._erased.get((event.project, event.user_id), -1)
