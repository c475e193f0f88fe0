"""Checks and migrations."""

import asyncio
import time
from typing import Any

import pytest

from eventmill import (
    Store,
    StoreMisconfigured,
    StoreUnavailable,
)
from eventmill.testing.contract import check_metrics
from eventmill.testing.events import make_event, make_events
from eventmill.testing.store_contract.suite import (
    DAY_MS,
    StoreSuite,
    everything,
    in_order,
    insert,
    metrics_query,
    scan_all,
)


class StoreOperating(StoreSuite):
    """Checks and migrations."""

    async def test_migrating_again_and_concurrently_keeps_all_events(self, store: Store, settings: Any) -> None:
        """migrate is idempotent, also concurrently. Likely cause: CREATE without IF NOT EXISTS."""
        events = make_events(10)
        await insert(store, events)
        async with self.another(store, settings) as second:
            await asyncio.gather(store.migrate(), second.migrate(), store.migrate())
        assert await scan_all(store, everything()) == in_order(events)

    async def test_metrics_have_proper_names_and_few_labels(self, store: Store) -> None:
        """collect returns metrics whose names start with the backend's, with few labels and counters that only grow.

        Likely cause: a label holds an id, an address or an error text; or a gauge is declared as a counter.
        """
        before = list(store.collect())
        await insert(store, make_events(150))
        await store.metrics(metrics_query())
        check_metrics(before, list(store.collect()), f"eventmill_store_{self.backend.name.lower()}_")

    async def test_a_store_that_is_not_migrated_says_so(self, settings: Any) -> None:
        """Without its schema, check and insert raise StoreMisconfigured or StoreUnavailable, never RejectedEvents.

        Likely cause: the error for a missing table is taken for an error of the events, which dead-letters them all.
        """
        event = make_event()
        async with self.backend.open(settings) as store:
            try:
                await store.check()
            except (StoreMisconfigured, StoreUnavailable):
                with pytest.raises((StoreMisconfigured, StoreUnavailable)):
                    await insert(store, [event])
            else:  # a store that needs no migration
                await insert(store, [event])
                assert await scan_all(store, everything()) == [event]

    async def test_the_retention_can_change_in_both_directions(self, store: Store) -> None:
        """migrate accepts a longer retention, a shorter one and none, also concurrently, and keeps recent events.

        Likely cause: migrate ignores its argument, or a retention is set only once.
        """
        now_ms = time.time_ns() // 1_000_000
        event = make_event(timestamp_ms=now_ms - DAY_MS, received_at_ms=now_ms)
        await insert(store, [event])
        for retention_days in (30, 60, 10, None, 7_300):
            await asyncio.gather(store.migrate(retention_days), store.migrate(retention_days))
            await insert(store, [event])
            assert await scan_all(store, everything()) == [event]

    async def test_a_working_store_passes_its_check(self, store: Store) -> None:
        """check returns a list of warnings. Likely cause: check returns None."""
        warnings = await store.check()
        assert isinstance(warnings, list)
        assert all(isinstance(warning, str) for warning in warnings)

    async def test_an_unreachable_server_is_reported_in_time(self, settings: Any, unreachable_settings: Any) -> None:
        """Without a server every call raises StoreUnavailable within its time limit, and never RejectedEvents.

        Likely cause: the driver retries, or connection errors are not translated.
        """
        if unreachable_settings is None:
            assert settings.reach != "network", "define the fixture `unreachable_settings`"
            return
        async with asyncio.timeout(30), self.backend.open(unreachable_settings) as store:
            for call in (
                store.check,
                lambda: store.scan(everything(), None, 1),
                lambda: store.metrics(metrics_query()),
            ):
                with pytest.raises(StoreUnavailable):
                    await call()
            with pytest.raises((StoreUnavailable, StoreMisconfigured)):
                await insert(store, make_events(1))
