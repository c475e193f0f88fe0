"""Reading events: page by page, or by identity."""

from collections.abc import AsyncIterator, Iterable
from typing import Protocol

from eventmill.event import Event, Identity, Position
from eventmill.queries.filters import EventFilter

PAGE_EVENTS = 5_000


class Scannable(Protocol):
    """Anything with the method `scan` of a Store."""

    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]: ...


async def pages(store: Scannable, filter: EventFilter, limit: int = PAGE_EVENTS) -> AsyncIterator[list[Event]]:
    """Yield all matching events, page by page. Only an empty page is the end; a short one need not be the last."""
    before: Position | None = None
    while page := await store.scan(filter, before, limit):
        yield page
        before = page[-1].position


async def find(store: Scannable, identities: Iterable[Identity]) -> list[Event]:
    """Return the stored events with these identities by scanning the millisecond of each."""
    wanted = set(identities)
    found = []
    for project, name, timestamp_ms in {identity[:3] for identity in wanted}:
        moment = EventFilter(project, timestamp_ms, timestamp_ms + 1, (name,))
        found += [event async for page in pages(store, moment) for event in page if event.identity in wanted]
    return found
