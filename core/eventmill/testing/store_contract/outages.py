"""Outages of the server."""

import asyncio
import contextlib
import time
from typing import Any

import pytest

from eventmill import (
    Store,
    StoreMisconfigured,
    StoreUnavailable,
)
from eventmill.testing.contract import Server, eventually, require
from eventmill.testing.events import make_events
from eventmill.testing.store_contract.suite import StoreSuite, everything, in_order, insert, passes, scan_all


class StoreOutages(StoreSuite):
    """Outages of the server."""

    async def test_a_store_recovers_when_its_server_is_back(
        self, store: Store, server: Server | None, settings: Any
    ) -> None:
        """Calls raise StoreUnavailable while the server is down, and work again when it is back, without reopening.

        Likely cause: a broken connection is never replaced, `check` does not ask the server, or an outage is taken for
        a rejection.
        """
        server = require(server, settings)
        await insert(store, make_events(10))
        await server.stop()
        lost = make_events(1, seed=1)
        calls = (store.check, lambda: store.scan(everything(), None, 1), lambda: insert(store, lost))
        for call in calls:
            with pytest.raises((StoreUnavailable, StoreMisconfigured)):
                await call()
        await server.start()
        await eventually(lambda: passes(store.check), 10)
        await insert(store, make_events(10, seed=2))
        assert len(await scan_all(store, everything())) >= 20

    async def test_a_frozen_server_delays_no_cancelled_call(
        self, store: Store, server: Server | None, settings: Any
    ) -> None:
        """Cancelled calls end at once, while the server accepts connections but does not answer.

        Likely cause: a cancelled call waits for its answer.
        """
        server = require(server, settings)
        await store.check()
        await server.freeze()
        try:
            started = time.monotonic()
            with pytest.raises((StoreUnavailable, TimeoutError)):
                await asyncio.wait_for(store.scan(everything(), None, 1), 2)  # core cancels queries and checks so
            with contextlib.suppress(StoreUnavailable, TimeoutError):
                await asyncio.wait_for(store.check(), 2)  # it may pass by an insert of less than 30 s ago
            assert time.monotonic() - started < 6
        finally:
            await server.resume()
        await eventually(lambda: passes(store.check), 15)

    async def test_stored_events_survive_a_killed_server(
        self, store: Store, server: Server | None, settings: Any
    ) -> None:
        """Every event of a returned insert is in the store after the server was killed and started again.

        Likely cause: commits are not synced to the disk before insert returns.
        """
        server = require(server, settings)
        events = make_events(500)
        for start in range(0, 500, 100):
            await insert(store, events[start : start + 100])
        await server.stop()
        await server.start()
        await eventually(lambda: passes(store.check), 10)
        assert await scan_all(store, everything()) == in_order(events)
