"""Pause: operators can stop all consumers, also over restarts. The store holds the order, since all processes share it.

The order is an event of the project `_eventmill`: the same identity each time, so that the latest version wins.
"""

import asyncio
import logging
import time

import msgspec

from eventmill.event import Event, EventBatch, create_event
from eventmill.interfaces import Store
from eventmill.shutdown import Shutdown

log = logging.getLogger(__name__)

PROJECT = "_eventmill"
WATCH_SECONDS = 5.0
LOOK_UP_SECONDS = 5.0
_TIMESTAMP_MS = 3_471_292_800_000  # 2080-01-01: no retention deletes it


class Order(msgspec.Struct, frozen=True):
    """The latest order of an operator.

    Attributes:
        is_pause: whether the consumers must pause.
        since_ms: when it was given, unix milliseconds; 0 if no operator ever gave one.
        by: the name and the id of the key that gave it.
        reason: why, in words for other operators.
    """

    is_pause: bool = False
    since_ms: int = 0
    by: str = ""
    reason: str = ""


class Pause:
    """Whether a consumer is paused: it stores what it holds, and receives nothing.

    Args:
        is_shared: whether other processes may give orders; otherwise `obey` is called for each.
    """

    def __init__(self, store: Store, shutdown: Shutdown, *, is_shared: bool = True) -> None:
        self.is_on = False
        self._is_shared = is_shared
        self._store = store
        self._shutdown = shutdown

    async def watch(self) -> None:
        """Follow the order in the store until the shutdown. While the store is unavailable nothing changes."""
        while self._is_shared:
            await self._shutdown.sleep(WATCH_SECONDS)
            if self._shutdown.is_asked:
                return
            try:
                async with asyncio.timeout(LOOK_UP_SECONDS):
                    await self.look_up()
            except Exception as error:
                log.debug("cannot read whether the consumer is paused (%s): %s", type(error).__name__, error)

    async def look_up(self) -> None:
        """Obey the order in the store. Raise StoreUnavailable or StoreMisconfigured."""
        self.obey(await read_order(self._store))

    def obey(self, order: Order) -> None:
        """Pause or resume."""
        if order.is_pause != self.is_on:
            log.info("paused by an operator: receiving nothing" if order.is_pause else "resumed by an operator")
        self.is_on = order.is_pause


async def read_order(store: Store) -> Order:
    """Return the latest order. Raise StoreUnavailable or StoreMisconfigured."""
    found = await store.find([_event(Order()).identity])
    if not found:
        return Order()
    latest = max(found, key=lambda event: event.version)
    try:
        return msgspec.json.decode(bytes(latest.metadata), type=Order)
    except msgspec.DecodeError:  # of a newer program
        return Order()


async def give_order(store: Store, *, is_pause: bool, by: str, reason: str = "") -> Order:
    """Order all consumers to pause or to resume. They obey within a few seconds. Raise StoreUnavailable."""
    former = await read_order(store)
    order = Order(is_pause, max(time.time_ns() // 1_000_000, former.since_ms + 1), by, reason)
    await store.insert(EventBatch.of([_event(order)]))
    return order


def _event(order: Order) -> Event:
    return create_event(
        project=PROJECT,
        event_name="pause",
        channel="operator",
        user_id="operator",
        timestamp_us=_TIMESTAMP_MS * 1000,
        event_id="pause",
        received_at_ms=order.since_ms or _TIMESTAMP_MS,
        metadata=msgspec.Raw(msgspec.json.encode(order)),
    )
