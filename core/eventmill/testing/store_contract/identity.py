"""Identity: an event is stored once, in its greatest version."""

import random

import pytest

from eventmill import (
    Group,
    Store,
)
from eventmill.testing.events import NOON_MS, make_event, make_events
from eventmill.testing.store_contract.suite import (
    GROUP_BYS,
    StoreSuite,
    everything,
    in_order,
    insert,
    metrics_query,
    scan_all,
)


class StoreIdentity(StoreSuite):
    """Identity: an event is stored once, in its greatest version."""

    async def test_the_same_batch_again_changes_no_answer(self, store: Store) -> None:
        """Inserting a batch again changes no answer. Likely cause: no deduplication by identity."""
        events = make_events(500)
        await insert(store, events)
        before = [await store.metrics(metrics_query(group_by=group_by)) for group_by in GROUP_BYS]
        await insert(store, events)
        await insert(store, events)
        assert [await store.metrics(metrics_query(group_by=group_by)) for group_by in GROUP_BYS] == before
        assert await scan_all(store, everything()) == in_order(events)

    async def test_the_same_events_in_other_batches_change_no_answer(self, store: Store) -> None:
        """Events are deduplicated across batches. Likely cause: only whole batches are deduplicated."""
        events = make_events(500)
        await insert(store, events)
        random.Random(1).shuffle(events)
        for start in range(0, 500, 70):
            await insert(store, [*events[start : start + 70], make_event(event_id="everywhere")])
        assert await scan_all(store, everything()) == in_order([*events, make_event(event_id="everywhere")])

    @pytest.mark.parametrize("reverse", [False, True])
    async def test_the_greatest_version_wins_whatever_the_order(self, store: Store, reverse: bool) -> None:
        """The greatest version wins in any order of arrival. Likely cause: the last arrival wins."""
        versions = [
            make_event(event_id="same", received_at_ms=NOON_MS + late, channel=channel, user_id=f"user {channel}")
            for late, channel in [(0, "first"), (5, "second"), (5, "third"), (60_000, "winner")]
        ]
        for event in reversed(versions) if reverse else versions:
            await insert(store, [event])
        assert await scan_all(store, everything()) == [versions[-1]]
        assert (await store.metrics(metrics_query(group_by="channel"))).groups == (Group(("winner",), 1, 1),)

    @pytest.mark.parametrize("reverse", [False, True])
    async def test_of_two_received_at_once_the_greater_content_hash_wins(self, store: Store, reverse: bool) -> None:
        """Versions are compared as a whole. Likely cause: versions are truncated to milliseconds."""
        one, two = (make_event(event_id="same", channel=channel) for channel in ("one", "two"))
        for event in (two, one) if reverse else (one, two):
            await insert(store, [event])
        assert await scan_all(store, everything()) == [max(one, two, key=lambda event: event.version)]

    async def test_events_that_differ_in_any_part_of_the_identity_are_different(self, store: Store) -> None:
        """Project, name, millisecond and id together identify an event.

        Likely cause: the id alone is the key, or it is compared without case.
        """
        events = [
            make_event(event_id="same"),
            make_event(event_id="same", timestamp_ms=NOON_MS + 1),
            make_event(event_id="same", event_name="other"),
            make_event(event_id="Same"),
        ]
        await insert(store, [*events, make_event(event_id="same", project="other")])
        assert await scan_all(store, everything()) == in_order(events)

    async def test_texts_that_look_alike_are_different(self, store: Store) -> None:
        """Texts are compared by code point. Likely cause: a collation, or Unicode normalization."""
        texts = ["a", "a ", " a", "A", "\u00e9", "e\u0301", "\uff41"]
        events = [make_event(event_id=text, channel=text, user_id=text) for text in texts]
        await insert(store, events)
        assert await scan_all(store, everything()) == in_order(events)
        answer = await store.metrics(metrics_query(group_by="channel"))
        assert (answer.unique_count, {group.values[0] for group in answer.groups}) == (len(texts), set(texts))
