"""Erasing."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import Any

import pytest

from eventmill import (
    Event,
    EventFilter,
    Group,
    Store,
)
from eventmill.testing.events import NOON_MS, make_event
from eventmill.testing.store_contract.suite import (
    DAY_MS,
    HOUR_MS,
    StoreSuite,
    everything,
    in_order,
    insert,
    metrics_query,
    scan_all,
)


class StoreErasing(StoreSuite):
    """Erasing."""

    async def test_an_erased_user_is_neither_scanned_nor_counted(self, store: Store) -> None:
        """Erased events appear in no answer; other users and projects are unaffected.

        Likely cause: users are compared without case, or projects are ignored.
        """
        gone = [make_event(user_id="gone", event_id=f"{number}") for number in range(3)]
        kept = [make_event(user_id="kept"), make_event(user_id="gone2"), make_event(user_id="Gone")]
        other = make_event(user_id="gone", project="other")
        await insert(store, [*gone, *kept, other])
        assert await store.erase("default", "gone", NOON_MS) == 3
        assert await scan_all(store, everything()) == in_order(kept)
        answer = await store.metrics(metrics_query(group_by="channel"))
        assert (answer.total_count, answer.unique_count, answer.groups) == (3, 3, (Group(("web",), 3, 3),))
        assert await scan_all(store, everything("other")) == [other]

    async def test_an_erasure_covers_all_events_of_the_user(self, store: Store) -> None:
        """An erasure covers any number of events. Likely cause: only one page is erased."""
        await insert(store, [make_event(user_id="gone", event_id=f"{number}") for number in range(1500)])
        await store.erase("default", "gone", NOON_MS)
        assert (await store.metrics(metrics_query())).total_count == 0
        assert await scan_all(store, everything()) == []

    async def test_an_erasure_covers_events_that_arrive_later_through_any_handle(
        self, store: Store, settings: Any
    ) -> None:
        """An erasure also covers events that arrive later through any handle.

        Likely cause: no tombstone is stored, or it is cached per process.
        """
        async with self.another(store, settings) as second:
            await insert(second, [make_event(event_id="before")])
            await store.erase("default", "gone", NOON_MS)
            await insert(second, [make_event(user_id="gone"), make_event(user_id="kept")])
            await insert(store, [make_event(user_id="gone", timestamp_ms=NOON_MS - DAY_MS)])
            for handle in (store, second):
                assert {event.user_id for event in await scan_all(handle, everything())} == {"user_1", "kept"}
                assert (await handle.metrics(metrics_query())).total_count == 2

    async def test_an_erasure_ends_at_its_time(self, store: Store) -> None:
        """An erasure covers events up to until_ms only. Likely cause: the user is erased as a whole."""
        events = [make_event(user_id="back", timestamp_ms=NOON_MS + late) for late in (-1, 0, 1)]
        await insert(store, events[:2])
        await store.erase("default", "back", NOON_MS)
        await insert(store, events)
        assert await scan_all(store, everything()) == [events[2]]

    @pytest.mark.parametrize("users", ["gone kept", "kept gone", "kept gone kept", "gone kept gone", "kept kept gone"])
    async def test_the_latest_version_determines_the_owner_in_any_order(self, store: Store, users: str) -> None:
        """Versions of one event by several users, in every order, with an erasure at every point: the latest version
        determines the owner.

        Likely cause: erased rows are deleted, so that older versions of other users reappear.
        """
        owners = users.split()
        orders = list(itertools.permutations(range(len(owners))))
        moments = range(len(owners) + 1)

        async def arrive(step: int, erased: bool) -> None:
            await insert(
                store,
                [
                    make_event(event_id=f"{order} {moment}", user_id=owners[late], received_at_ms=NOON_MS + late)
                    for order in orders
                    for moment in moments
                    if (step >= moment) == erased
                    for late in [order[step]]
                ],
            )

        for step in range(len(owners)):
            await arrive(step, erased=False)
        await store.erase("default", "gone", NOON_MS)
        for step in range(len(owners)):
            await arrive(step, erased=True)
        total = len(orders) * len(moments) if owners[-1] == "kept" else 0
        assert {event.user_id for event in await scan_all(store, everything())} <= {"kept"}
        assert (await store.metrics(metrics_query())).total_count == total
        found = await store.find(
            [make_event(event_id=f"{order} {moment}").identity for order in orders for moment in moments]
        )
        assert {event.received_at_ms - NOON_MS for event in found} == ({len(owners) - 1} if total else set())

    async def test_an_erasure_during_inserts_covers_the_user_and_nothing_else(
        self, store: Store, settings: Any
    ) -> None:
        """An erasure during inserts of two handles covers the user and nothing else, and delays no insert.

        Likely cause: an erasure deletes existing rows without a tombstone that inserts respect, or locks the
        table.
        """
        until_ms = NOON_MS + HOUR_MS
        batches = [
            [
                make_event(user_id=user_id, event_id=f"{user_id} {number} {n}", timestamp_ms=until_ms + late)
                for user_id, late in (("gone", 0), ("gone", 1), ("kept", 0), ("kept", 1))
                for n in range(25)
            ]
            for number in range(60)
        ]
        slowest = 0.0

        async def write(handle: Store, todo: Sequence[list[Event]]) -> None:
            nonlocal slowest
            for batch in todo:
                started = time.monotonic()
                await insert(handle, batch)
                slowest = max(slowest, time.monotonic() - started)

        async def erase(handle: Store) -> None:
            while not await handle.scan(everything(), None, 1):
                pass
            for _ in range(3):
                await handle.erase("default", "gone", until_ms)
                seen = await scan_all(handle, EventFilter("default", until_ms, until_ms + 1))
                assert {event.user_id for event in seen} <= {"kept"}

        async with self.another(store, settings) as second:
            await asyncio.gather(write(store, batches[::2]), write(second, batches[1::2]), erase(second), erase(store))
            expected = [
                event
                for batch in batches
                for event in batch
                if (event.user_id, event.timestamp_ms) != ("gone", until_ms)
            ]
            for handle in (store, second):
                assert await scan_all(handle, everything()) == in_order(expected)
        assert slowest < 5

    async def test_erasing_again_only_extends_the_erasure(self, store: Store) -> None:
        """Erasing again never shortens an erasure. Likely cause: the tombstone is overwritten with an earlier time."""
        event = make_event(user_id="gone")
        await insert(store, [event])
        await store.erase("default", "gone", NOON_MS)
        await store.erase("default", "gone", NOON_MS - DAY_MS)
        await insert(store, [event])
        assert await scan_all(store, everything()) == []
        assert await store.erase("default", "gone", NOON_MS) == 0
