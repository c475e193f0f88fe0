"""Inserting: every event and every field is stored."""

from typing import Any

import pytest

from eventmill import (
    MAX_TIME_MS,
    MIN_TIME_MS,
    Group,
    Position,
    Store,
)
from eventmill.testing.events import NOON_MS, make_event, make_events
from eventmill.testing.store_contract.suite import (
    DAY_MS,
    HOSTILE,
    StoreSuite,
    everything,
    in_order,
    insert,
    metrics_query,
    scan_all,
)


class StoreInserting(StoreSuite):
    """Inserting: every event and every field is stored."""

    @pytest.mark.parametrize("count", [1, 1000, 12_345])
    async def test_every_event_is_stored(self, store: Store, count: int) -> None:
        """Every event of a batch of any size is stored. Likely cause: a batch is cut at a limit of the service."""
        events = make_events(count)
        await insert(store, events)
        assert await scan_all(store, everything()) == in_order(events)

    async def test_inserted_events_are_visible_at_once_to_every_handle(self, store: Store, settings: Any) -> None:
        """An event is visible through every handle when insert returns.

        Likely cause: inserts are asynchronous, or reads use a cache or a lagging replica.
        """
        async with self.another(store, settings) as second:
            for number in range(5):
                await insert(store, [make_event(event_id=f"{number}")])
                assert len(await scan_all(second, everything())) == number + 1

    async def test_every_field_is_returned_unchanged(self, store: Store) -> None:
        """Every field is returned unchanged; metadata as bytes.

        Likely cause: metadata is parsed, times lose milliseconds, or texts are cut.
        """
        metadata = (
            b'{"a": {"b": [1, 2.50, 1e3, -0.0, true, null, "\\u0000\\"\\\\\\n"]}, "a": 12345678901234567890123,'
            b' "\xf0\x9f\x98\x80": "' + b"x" * 20_000 + b'", "": {}}'
        )
        events = [
            make_event(metadata=metadata, tags=tuple(f"tag {number} ' é" for number in range(64))),
            make_event(event_id="i" * 128, user_id="\U0001f600" * 256, channel="c" * 64, campaign_id="p" * 256),
            make_event(event_id="empty", campaign_id="", tags=(), metadata=b"{}"),
            make_event(event_id="ms", timestamp_ms=NOON_MS + 1, received_at_ms=NOON_MS + 999),
            make_event(event_id="first", timestamp_ms=MIN_TIME_MS),
            make_event(event_id="last", timestamp_ms=MAX_TIME_MS, received_at_ms=MAX_TIME_MS),
        ]
        await insert(store, events)
        assert await scan_all(store, everything()) == in_order(events)

    @pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
    async def test_hostile_text_is_data(self, store: Store, text: str) -> None:
        """Texts with quotes, placeholders and wildcards are data.

        Likely cause: values are formatted into statements.
        """
        short = text[:64]
        harmless = make_event(event_id="harmless")
        hostile = make_event(
            project=short, event_name=text, event_id=short, channel=short, user_id=text, campaign_id=text, tags=(short,)
        )
        await insert(store, [harmless, hostile])
        assert await scan_all(store, everything(short, event_names=(text,))) == [hostile]
        assert await scan_all(store, everything(event_names=(text,))) == []
        answer = await store.metrics(metrics_query(text, "channel", project=short))
        assert answer.groups == (Group((short,), 1, 1),)
        assert await store.find([hostile.identity]) == [hostile]
        before = Position(hostile.timestamp_ms, text, short)
        assert await store.scan(everything(short), before, 10) == []
        assert await store.erase(short, text, NOON_MS) == 1
        assert await scan_all(store, everything(short)) == []
        assert await scan_all(store, everything()) == [harmless]

    async def test_a_batch_over_many_months_is_stored_whole(self, store: Store) -> None:
        """A batch may span any time. Likely cause: a limit on partitions per insert."""
        events = [
            make_event(timestamp_ms=MIN_TIME_MS + month * 31 * DAY_MS, event_id=f"{month}") for month in range(150)
        ]
        await insert(store, events)
        assert await scan_all(store, everything()) == in_order(events)

    async def test_an_empty_batch_is_harmless(self, store: Store) -> None:
        """An empty batch is accepted. Likely cause: an empty statement is sent."""
        await insert(store, [])
        assert await scan_all(store, everything()) == []
