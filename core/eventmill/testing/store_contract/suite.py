"""What the parts of the suite for stores share."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, ClassVar

import pytest

from eventmill import (
    ALL_TIME,
    UNITS,
    Bucket,
    Dimension,
    Event,
    EventBatch,
    EventFilter,
    MetricsQuery,
    Property,
    Store,
    StoreBackend,
    StoreMisconfigured,
    StoreUnavailable,
    reference,
)
from eventmill.testing.contract import LIMIT_SECONDS, Contract, limited
from eventmill.testing.events import NOON_MS

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
GROUP_BYS: list[str | None] = [None, "channel", "hour", "day"]
HOSTILE = [
    "'",
    '"',
    "\\",
    "' OR 1=1 --",
    "'; DROP TABLE events; --",
    "{event_name:String}",
    "%s %(a)s {0} $1 ?",
    "*",
    "_%",
    "\u202e rtl",
    "null",
    "\ufeff",
    "é" * 256,
    "\U0001f600" * 64,
    "`",
    "/*",
    "$$",
    "${x}",
    "\ufffe",
]


async def insert(store: Store, events: Sequence[Event]) -> None:
    await store.insert(EventBatch.of(events))


async def scan_all(store: Store, filter: EventFilter, limit: int = 1000) -> list[Event]:
    """Return all matching events, page by page, and check the size of each page."""
    events: list[Event] = []
    async for page in reference.pages(store, filter, limit):
        assert len(page) <= limit
        events += page
        assert len(events) < 100_000, "paging does not end"
    return events


def everything(project: str = "default", **fields: Any) -> EventFilter:
    return EventFilter(project, *ALL_TIME, **fields)


def in_order(events: Sequence[Event]) -> list[Event]:
    return sorted(events, key=lambda event: (-event.timestamp_ms, event.event_name, event.event_id))


def metrics_query(event_name: str = "page_view", group_by: str | None = None, **fields: Any) -> MetricsQuery:
    bounds = {"start_ms": NOON_MS - 30 * DAY_MS, "end_ms": NOON_MS + 30 * DAY_MS}
    wanted = EventFilter(**({"project": "default", "event_names": (event_name,)} | bounds | fields))
    return MetricsQuery(wanted, (_dimension(group_by),) if group_by else ())


def _dimension(name: str) -> Dimension:
    return Bucket(name) if name in UNITS else Property(name)


class StoreSuite(Contract):
    """The fixtures that all parts of the suite share."""

    backend: ClassVar[StoreBackend]

    @pytest.fixture
    async def store(self, settings: Any) -> AsyncIterator[Store]:
        async with limited(self.backend.open(settings)) as store:
            async with asyncio.timeout(LIMIT_SECONDS):
                await store.migrate()
            yield store


async def passes(check: Callable[[], Awaitable[object]]) -> bool:
    try:
        await check()
    except (StoreUnavailable, StoreMisconfigured):
        return False
    return True
