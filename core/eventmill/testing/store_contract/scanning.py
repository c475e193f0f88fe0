"""Scanning and finding."""

import msgspec
import pytest

from eventmill import (
    MAX_TIME_MS,
    MIN_TIME_MS,
    Event,
    EventFilter,
    Store,
    reference,
)
from eventmill.testing.events import NOON_MS, make_event, make_events
from eventmill.testing.store_contract.suite import StoreSuite, everything, in_order, insert, scan_all


class StoreScanning(StoreSuite):
    """Scanning and finding."""

    async def test_a_scan_keeps_to_its_project_and_names(self, store: Store) -> None:
        """A scan returns events of its project and names only.

        Likely cause: an empty list of names is treated as no filter.
        """
        events = [
            make_event(project=project, event_name=name) for project in ("default", "other") for name in ("a", "b", "c")
        ]
        await insert(store, events)
        assert await scan_all(store, everything(event_names=("c", "a", "none"))) == [events[0], events[2]]
        assert await scan_all(store, everything("other", event_names=("b",))) == [events[4]]
        assert await scan_all(store, everything("nobody")) == []
        assert await scan_all(store, everything(event_names=())) == []

    async def test_a_scan_finds_the_events_of_an_id_and_of_a_user(self, store: Store) -> None:
        """A scan returns events with the filter's id, and those whose latest version is of the filter's user.

        Likely cause: the new fields of EventFilter are ignored, or the user is compared before deduplication.
        """
        events = [
            make_event(timestamp_ms=NOON_MS + late, event_id=event_id, user_id=user)
            for late in (0, 90_000_000)
            for event_id, user in (("one", "ada"), ("two", "bob"), ("Two", "Ada"))
        ]
        moved = msgspec.structs.replace(events[0], user_id="bob", version=events[0].version + 1)
        await insert(store, events)
        await insert(store, [moved])
        assert await scan_all(store, everything(event_id="two")) == in_order([events[1], events[4]])
        assert await scan_all(store, everything(user_id="ada")) == [events[3]]
        assert await scan_all(store, everything(user_id="bob")) == in_order([moved, events[1], events[4]])
        assert await scan_all(store, everything(event_id="one", user_id="Ada")) == []

    async def test_a_scan_starts_at_its_start_and_ends_before_its_end(self, store: Store) -> None:
        """start_ms is inclusive and end_ms is exclusive. Likely cause: BETWEEN, or times in seconds."""
        events = [make_event(timestamp_ms=NOON_MS + late) for late in range(-2, 3)]
        await insert(store, events)
        found = await scan_all(store, EventFilter("default", NOON_MS - 1, NOON_MS + 1))
        assert found == in_order(events[1:3])

    @pytest.mark.parametrize("limit", [1, 7, 100])
    async def test_pages_hold_each_event_once_in_order(self, store: Store, limit: int) -> None:
        """Pages contain every event once, in the order of the contract.

        Likely cause: the position compares the time only, or texts by a collation.
        """
        events = [
            make_event(timestamp_ms=NOON_MS + late, event_name=name, event_id=f"{number:02}")
            for late in (0, 1)
            for name in ("a", "B", "é")
            for number in range(9)
        ]
        await insert(store, events)
        assert await scan_all(store, everything(), limit) == in_order(events)

    async def test_pages_skip_and_repeat_nothing_while_events_arrive(self, store: Store) -> None:
        """Inserts do not disturb paging. Likely cause: pages are cut by OFFSET."""
        events = make_events(300)
        await insert(store, events)
        late = make_events(300, seed=1)
        seen: list[Event] = []
        async for page in reference.pages(store, everything(), 20):
            seen += page
            await insert(store, [late.pop() for _ in range(20) if late])
        assert len({event.identity for event in seen}) == len(seen)
        assert {event.identity for event in events} <= {event.identity for event in seen}

    async def test_events_are_found_by_their_identity(self, store: Store) -> None:
        """find returns exactly the stored events among the identities. Likely cause: erased events are returned."""
        events = make_events(500)
        crowd = [make_event(event_id=f"{number}") for number in range(50)]  # in one millisecond
        await insert(store, [*events, *crowd, make_event(project="other", event_id="7")])
        ends = [make_event(timestamp_ms=time_ms) for time_ms in (MIN_TIME_MS, MAX_TIME_MS)]
        await insert(store, ends)
        wanted = [*events[::50], *crowd[7:9], *ends]
        missing = [make_event(event_id="missing"), make_event(event_name="missing", event_id="7")]
        found = await store.find([event.identity for event in [*wanted, *missing]])
        assert in_order(found) == in_order(wanted)
        await store.erase("default", crowd[7].user_id, MAX_TIME_MS)
        assert await store.find([crowd[7].identity]) == []
