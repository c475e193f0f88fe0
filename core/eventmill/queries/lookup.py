"""Reading events: page by page, or by identity."""

import time
from collections.abc import AsyncIterator, Iterable
from typing import Protocol

from eventmill.errors import QueryTooLarge
from eventmill.event import Event, Identity, Position
from eventmill.queries.filters import EventFilter

PAGE_EVENTS = 5_000
MAX_SCANNED_EVENTS = 1_000_000  # by a reference answer, which reads every event
MAX_SECONDS = 10.0


class Scannable(Protocol):
    """Anything with the method `scan` of a Store."""

    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]: ...


async def pages(store: Scannable, filter: EventFilter, limit: int = PAGE_EVENTS) -> AsyncIterator[list[Event]]:
    """Yield all matching events, page by page. Only an empty page is the end; a short one need not be the last."""
    before: Position | None = None
    while page := await store.scan(filter, before, limit):
        yield page
        before = page[-1].position


async def bounded_pages(store: Scannable, filter: EventFilter) -> AsyncIterator[list[Event]]:
    """Yield all matching events. Raise QueryTooLarge for more than 1,000,000, or after 10 s."""
    count, until = 0, time.monotonic() + MAX_SECONDS
    async for page in pages(store, filter):
        yield page
        count += len(page)
        if count > MAX_SCANNED_EVENTS:
            raise QueryTooLarge(f"more than {MAX_SCANNED_EVENTS} events match: ask for a shorter time")
        if time.monotonic() > until:
            raise QueryTooLarge(f"the answer takes more than {MAX_SECONDS:.0f} s: ask for a shorter time")


async def read_bounded(store: Scannable, filter: EventFilter) -> list[Event]:
    """Return all matching events. Raise QueryTooLarge as `bounded_pages` does."""
    return [event async for page in bounded_pages(store, filter) for event in page]


async def find(store: Scannable, identities: Iterable[Identity]) -> list[Event]:
    """Return the stored events with these identities by scanning the millisecond of each."""
    wanted = set(identities)
    found = []
    for project, name, timestamp_ms in {identity[:3] for identity in wanted}:
        moment = EventFilter(project, timestamp_ms, timestamp_ms + 1, (name,))
        found += [event async for page in pages(store, moment) for event in page if event.identity in wanted]
    return found
