"""Queries."""

import asyncio
from typing import Any

import pytest

from eventmill import (
    MAX_GROUPS,
    Group,
    QueryTooLarge,
    Store,
    reference,
)
from eventmill.testing.events import NOON_MS, make_event, make_events
from eventmill.testing.store_contract.suite import (
    DAY_MS,
    GROUP_BYS,
    HOUR_MS,
    StoreSuite,
    everything,
    in_order,
    insert,
    metrics_query,
)


class StoreQuerying(StoreSuite):
    """Queries."""

    @pytest.mark.parametrize("group_by", GROUP_BYS)
    async def test_answers_equal_the_reference(self, store: Store, group_by: str | None) -> None:
        """metrics equals the reference answer.

        Likely cause: bounds, deduplication or users differ from `reference.count_metrics`.
        """
        events = make_events(3000)
        for start in range(0, 3000, 900):
            await insert(store, events[max(0, start - 300) : start + 900])
        for start_ms, end_ms in [(0, 3 * DAY_MS), (HOUR_MS + 1, DAY_MS), (12 * HOUR_MS, 12 * HOUR_MS + 1)]:
            query = metrics_query("sign_up", group_by, start_ms=NOON_MS + start_ms, end_ms=NOON_MS + end_ms)
            assert await store.metrics(query) == reference.count_metrics(events, query)

    async def test_counts_and_unique_users_are_exact(self, store: Store) -> None:
        """Unique users are exact. Likely cause: an approximate distinct count."""
        await insert(store, [make_event(user_id=f"user {n % 2500}", event_id=f"{n}") for n in range(5000)])
        answer = await store.metrics(metrics_query())
        assert (answer.total_count, answer.unique_count) == (5000, 2500)

    async def test_hours_and_days_are_in_utc(self, store: Store) -> None:
        """Hours and days are those of UTC. Likely cause: the time zone of the server."""
        midnight_ms = NOON_MS + 12 * HOUR_MS
        await insert(store, [make_event(timestamp_ms=midnight_ms + late) for late in (-1, 0, HOUR_MS - 1, HOUR_MS)])
        days = (await store.metrics(metrics_query(group_by="day"))).groups
        assert days == (Group(("2023-11-15",), 1, 1), Group(("2023-11-16",), 3, 1))
        hours = (await store.metrics(metrics_query(group_by="hour"))).groups
        assert [group.values[0] for group in hours] == [
            "2023-11-15 23:00:00",
            "2023-11-16 00:00:00",
            "2023-11-16 01:00:00",
        ]
        assert [group.total_count for group in hours] == [1, 2, 1]

    async def test_groups_are_ordered_by_count_then_by_value(self, store: Store) -> None:
        """Groups are ordered by descending count, then by code point. Likely cause: the order of the database."""
        counts = {"b": 2, "a": 2, "Z": 2, "rare": 1, "often": 3}
        await insert(
            store, [make_event(channel=name, event_id=f"{name}{n}") for name in counts for n in range(counts[name])]
        )
        groups = (await store.metrics(metrics_query(group_by="channel"))).groups
        assert [(group.values[0], group.total_count) for group in groups] == [
            ("often", 3),
            ("Z", 2),
            ("a", 2),
            ("b", 2),
            ("rare", 1),
        ]

    @pytest.mark.parametrize("group_by", GROUP_BYS)
    async def test_no_match_is_zero_without_groups(self, store: Store, group_by: str | None) -> None:
        """Without a match the counts are 0 and there are no groups. Likely cause: NULL for empty aggregates."""
        await insert(store, make_events(10))
        answer = await store.metrics(metrics_query("never happened", group_by))
        assert (answer.total_count, answer.unique_count, answer.groups) == (0, 0, ())

    async def test_too_many_groups_are_rejected(self, store: Store) -> None:
        """More than MAX_GROUPS groups raise QueryTooLarge. Likely cause: groups are cut silently."""
        await insert(
            store, [make_event(channel=f"channel {number}", event_id=f"{number}") for number in range(MAX_GROUPS + 1)]
        )
        with pytest.raises(QueryTooLarge):
            await store.metrics(metrics_query(group_by="channel"))
        assert (await store.metrics(metrics_query())).total_count == MAX_GROUPS + 1

    async def test_queries_during_inserts_never_miscount(self, store: Store) -> None:
        """A count during inserts is between the counts before and after.

        Likely cause: duplicates are visible until a merge.
        """
        events = make_events(2000)
        names = {event.event_name for event in events}
        stored = 0

        async def write(start: int) -> None:
            nonlocal stored
            await insert(store, events[start : start + 50])
            stored += 50
            await insert(store, events[max(0, start - 25) : start + 25])

        async def read() -> None:
            before = stored
            counted = [(await store.metrics(metrics_query(name))).total_count for name in sorted(names)]
            assert before <= sum(counted) <= len(events)

        await asyncio.gather(*(job for start in range(0, 2000, 50) for job in (write(start), read())))
        assert sum([(await store.metrics(metrics_query(name))).total_count for name in names]) == len(events)

    async def test_total_and_groups_are_from_one_snapshot(self, store: Store) -> None:
        """The total of an answer is the total of its groups, also during inserts.

        Likely cause: total and groups are two statements without a transaction.
        """
        events = make_events(3000)
        answers = []

        async def write() -> None:
            for start in range(0, 3000, 50):
                await insert(store, events[start : start + 50])

        writing = asyncio.create_task(write())
        while not writing.done():
            answers.append(await store.metrics(metrics_query("sign_up", "channel")))
            await asyncio.sleep(0)
        await writing
        for answer in answers:
            assert answer.total_count == sum(group.total_count for group in answer.groups)

    async def test_cancelled_queries_disturb_no_others(self, store: Store) -> None:
        """A cancelled query ends and disturbs no other call.

        Likely cause: a connection with an unread answer returns to the pool.
        """
        events = make_events(2000)
        await insert(store, events)
        query, known = metrics_query("sign_up", "channel"), [event.identity for event in events[:50]]

        def ask() -> list[asyncio.Task[Any]]:
            questions = (store.metrics(query), store.find(known), store.scan(everything(), None, 100))
            return [asyncio.ensure_future(call) for call in questions]

        async with asyncio.timeout(20):
            for milliseconds in (0, 1, 2, 5, 10, 20):
                tasks = [task for _ in range(5) for task in ask()]
                await asyncio.wait(tasks, timeout=milliseconds / 1000)
                for task in tasks:
                    task.cancel()
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
                assert [type(outcome) for outcome in outcomes if isinstance(outcome, Exception)] == []
                await insert(store, events[:10])
            counted, found, page = await asyncio.gather(*ask())
        assert counted == reference.count_metrics(events, query)
        assert in_order(found) == in_order(events[:50])
        assert page == in_order(events)[:100]
