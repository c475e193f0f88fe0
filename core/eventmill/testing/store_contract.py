"""The suite that every store must pass."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from eventmill import (
    MAX_TIME_MS,
    MIN_TIME_MS,
    Event,
    EventBatch,
    EventFilter,
    EventmillError,
    Group,
    GroupBy,
    MetricsQuery,
    Position,
    QueryTooLarge,
    Store,
    StoreBackend,
    StoreUnavailable,
    answers,
)
from eventmill.testing.contract import Contract
from eventmill.testing.events import NOON_MS, make_event, make_events

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
ALL_TIME = (MIN_TIME_MS, MAX_TIME_MS + 1)
GROUP_BYS: list[GroupBy | None] = [None, "channel", "hour", "day"]
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
    """Everything that matches, page by page, none larger than asked for."""
    events: list[Event] = []
    async for page in answers.pages(store, filter, limit):
        assert len(page) <= limit
        events += page
        assert len(events) < 100_000, "paging does not end"
    return events


def everything(project: str = "default", **fields: Any) -> EventFilter:
    start_ms, end_ms = ALL_TIME
    return EventFilter(project, start_ms, end_ms, **fields)


def in_order(events: Sequence[Event]) -> list[Event]:
    return sorted(events, key=lambda event: (-event.timestamp_ms, event.event_name, event.event_id))


def question(event_name: str = "page_view", group_by: GroupBy | None = None, **fields: Any) -> MetricsQuery:
    bounds = {"start_ms": NOON_MS - 30 * DAY_MS, "end_ms": NOON_MS + 30 * DAY_MS}
    return MetricsQuery(**({"project": "default"} | bounds | fields), event_name=event_name, group_by=group_by)


class StoreContract(Contract):
    """Subclass it, name the `backend`, define the fixture `settings`: an empty store for each test."""

    backend: ClassVar[StoreBackend]

    @pytest.fixture
    async def store(self, settings: Any) -> AsyncIterator[Store]:
        async with self.backend.open(settings) as store:
            await store.migrate()
            yield store

    @asynccontextmanager
    async def another(self, store: Store, settings: Any) -> AsyncIterator[Store]:
        """A second handle, as another process would have; the same one where the reach is one process."""
        if settings.reach == "process":
            yield store
        else:
            async with self.backend.open(settings) as second:
                yield second

    # inserting

    @pytest.mark.parametrize("count", [1, 1000, 12_345])
    async def test_every_event_is_stored(self, store: Store, count: int) -> None:
        events = make_events(count)
        await insert(store, events)
        assert await scan_all(store, everything()) == in_order(events)

    async def test_inserted_events_are_seen_at_once_by_everybody(self, store: Store, settings: Any) -> None:
        async with self.another(store, settings) as second:
            for number in range(5):
                await insert(store, [make_event(event_id=f"{number}")])
                assert len(await scan_all(second, everything())) == number + 1

    async def test_every_field_comes_back_as_it_was(self, store: Store) -> None:
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
        short = text[:64]
        harmless = make_event(event_id="harmless")
        hostile = make_event(
            project=short, event_name=text, event_id=short, channel=short, user_id=text, campaign_id=text, tags=(short,)
        )
        await insert(store, [harmless, hostile])
        assert await scan_all(store, everything(short, event_names=(text,))) == [hostile]
        assert await scan_all(store, everything(event_names=(text,))) == []
        answer = await store.metrics(question(text, "channel", project=short))
        assert answer.groups == (Group(short, 1, 1),)
        assert await store.find([hostile.identity]) == [hostile]
        before = Position(hostile.timestamp_ms, text, short)
        assert await store.scan(everything(short), before, 10) == []
        assert await store.erase(short, text, NOON_MS) == 1
        assert await scan_all(store, everything(short)) == []
        assert await scan_all(store, everything()) == [harmless]

    async def test_a_batch_over_many_months_is_stored_whole(self, store: Store) -> None:
        events = [
            make_event(timestamp_ms=MIN_TIME_MS + month * 31 * DAY_MS, event_id=f"{month}") for month in range(150)
        ]
        await insert(store, events)
        assert await scan_all(store, everything()) == in_order(events)

    async def test_an_empty_batch_is_harmless(self, store: Store) -> None:
        await insert(store, [])
        assert await scan_all(store, everything()) == []

    # identity

    async def test_the_same_batch_again_changes_no_answer(self, store: Store) -> None:
        events = make_events(500)
        await insert(store, events)
        before = [await store.metrics(question(group_by=group_by)) for group_by in GROUP_BYS]
        await insert(store, events)
        await insert(store, events)
        assert [await store.metrics(question(group_by=group_by)) for group_by in GROUP_BYS] == before
        assert await scan_all(store, everything()) == in_order(events)

    async def test_the_same_events_in_other_batches_change_no_answer(self, store: Store) -> None:
        events = make_events(500)
        await insert(store, events)
        random.Random(1).shuffle(events)
        for start in range(0, 500, 70):
            await insert(store, [*events[start : start + 70], make_event(event_id="everywhere")])
        assert await scan_all(store, everything()) == in_order([*events, make_event(event_id="everywhere")])

    @pytest.mark.parametrize("reverse", [False, True])
    async def test_the_greatest_version_wins_whatever_the_order(self, store: Store, reverse: bool) -> None:
        versions = [
            make_event(event_id="same", received_at_ms=NOON_MS + late, channel=channel, user_id=f"user {channel}")
            for late, channel in [(0, "first"), (5, "second"), (5, "third"), (60_000, "winner")]
        ]
        for event in reversed(versions) if reverse else versions:
            await insert(store, [event])
        assert await scan_all(store, everything()) == [versions[-1]]
        assert (await store.metrics(question(group_by="channel"))).groups == (Group("winner", 1, 1),)

    @pytest.mark.parametrize("reverse", [False, True])
    async def test_of_two_received_at_once_the_greater_content_hash_wins(self, store: Store, reverse: bool) -> None:
        one, two = (make_event(event_id="same", channel=channel) for channel in ("one", "two"))
        for event in (two, one) if reverse else (one, two):
            await insert(store, [event])
        assert await scan_all(store, everything()) == [max(one, two, key=lambda event: event.version)]

    async def test_events_that_differ_in_any_part_of_the_identity_are_different(self, store: Store) -> None:
        events = [
            make_event(event_id="same"),
            make_event(event_id="same", timestamp_ms=NOON_MS + 1),
            make_event(event_id="same", event_name="other"),
            make_event(event_id="Same"),
        ]
        await insert(store, [*events, make_event(event_id="same", project="other")])
        assert await scan_all(store, everything()) == in_order(events)

    async def test_texts_that_look_alike_are_different(self, store: Store) -> None:
        texts = ["a", "a ", " a", "A", "\u00e9", "e\u0301", "\uff41"]
        events = [make_event(event_id=text, channel=text, user_id=text) for text in texts]
        await insert(store, events)
        assert await scan_all(store, everything()) == in_order(events)
        answer = await store.metrics(question(group_by="channel"))
        assert (answer.unique_count, {group.value for group in answer.groups}) == (len(texts), set(texts))

    # scanning

    async def test_a_scan_keeps_to_its_project_and_names(self, store: Store) -> None:
        events = [
            make_event(project=project, event_name=name) for project in ("default", "other") for name in ("a", "b", "c")
        ]
        await insert(store, events)
        assert await scan_all(store, everything(event_names=("c", "a", "none"))) == [events[0], events[2]]
        assert await scan_all(store, everything("other", event_names=("b",))) == [events[4]]
        assert await scan_all(store, everything("nobody")) == []
        assert await scan_all(store, everything(event_names=())) == []

    async def test_a_scan_starts_at_its_start_and_ends_before_its_end(self, store: Store) -> None:
        events = [make_event(timestamp_ms=NOON_MS + late) for late in range(-2, 3)]
        await insert(store, events)
        found = await scan_all(store, EventFilter("default", NOON_MS - 1, NOON_MS + 1))
        assert found == in_order(events[1:3])

    @pytest.mark.parametrize("limit", [1, 7, 100])
    async def test_pages_hold_each_event_once_in_order(self, store: Store, limit: int) -> None:
        events = [
            make_event(timestamp_ms=NOON_MS + late, event_name=name, event_id=f"{number:02}")
            for late in (0, 1)
            for name in ("a", "B", "é")
            for number in range(9)
        ]
        await insert(store, events)
        assert await scan_all(store, everything(), limit) == in_order(events)

    async def test_pages_skip_and_repeat_nothing_while_events_arrive(self, store: Store) -> None:
        events = make_events(300)
        await insert(store, events)
        late = make_events(300, seed=1)
        seen: list[Event] = []
        async for page in answers.pages(store, everything(), 20):
            seen += page
            await insert(store, [late.pop() for _ in range(20) if late])
        assert len({event.identity for event in seen}) == len(seen)
        assert {event.identity for event in events} <= {event.identity for event in seen}

    async def test_events_are_found_by_their_identity(self, store: Store) -> None:
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

    # questions

    @pytest.mark.parametrize("group_by", GROUP_BYS)
    async def test_answers_are_those_of_plain_python(self, store: Store, group_by: GroupBy | None) -> None:
        events = make_events(3000)
        for start in range(0, 3000, 900):
            await insert(store, events[max(0, start - 300) : start + 900])
        for start_ms, end_ms in [(0, 3 * DAY_MS), (HOUR_MS + 1, DAY_MS), (12 * HOUR_MS, 12 * HOUR_MS + 1)]:
            query = question("sign_up", group_by, start_ms=NOON_MS + start_ms, end_ms=NOON_MS + end_ms)
            assert await store.metrics(query) == answers.count(events, query)

    async def test_counts_and_unique_users_are_exact(self, store: Store) -> None:
        await insert(store, [make_event(user_id=f"user {n % 2500}", event_id=f"{n}") for n in range(5000)])
        answer = await store.metrics(question())
        assert (answer.total_count, answer.unique_count) == (5000, 2500)

    async def test_hours_and_days_are_those_of_utc(self, store: Store) -> None:
        midnight_ms = NOON_MS + 12 * HOUR_MS
        await insert(store, [make_event(timestamp_ms=midnight_ms + late) for late in (-1, 0, HOUR_MS - 1, HOUR_MS)])
        days = (await store.metrics(question(group_by="day"))).groups
        assert days == (Group("2023-11-15", 1, 1), Group("2023-11-16", 3, 1))
        hours = (await store.metrics(question(group_by="hour"))).groups
        assert [group.value for group in hours] == ["2023-11-15 23:00:00", "2023-11-16 00:00:00", "2023-11-16 01:00:00"]
        assert [group.total_count for group in hours] == [1, 2, 1]

    async def test_channels_stand_by_count_then_by_name(self, store: Store) -> None:
        counts = {"b": 2, "a": 2, "Z": 2, "rare": 1, "often": 3}
        await insert(
            store, [make_event(channel=name, event_id=f"{name}{n}") for name in counts for n in range(counts[name])]
        )
        groups = (await store.metrics(question(group_by="channel"))).groups
        assert [(group.value, group.total_count) for group in groups] == [
            ("often", 3),
            ("Z", 2),
            ("a", 2),
            ("b", 2),
            ("rare", 1),
        ]

    @pytest.mark.parametrize("group_by", GROUP_BYS)
    async def test_nothing_found_is_zero_without_groups(self, store: Store, group_by: GroupBy | None) -> None:
        await insert(store, make_events(10))
        answer = await store.metrics(question("never happened", group_by))
        assert (answer.total_count, answer.unique_count, answer.groups) == (0, 0, ())

    async def test_more_groups_than_an_answer_may_hold_are_refused(self, store: Store) -> None:
        await insert(store, [make_event(channel=f"channel {number}", event_id=f"{number}") for number in range(10_001)])
        with pytest.raises(QueryTooLarge):
            await store.metrics(question(group_by="channel"))
        assert (await store.metrics(question())).total_count == 10_001

    async def test_inserts_and_questions_at_once_never_miscount(self, store: Store) -> None:
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
            counted = [(await store.metrics(question(name))).total_count for name in sorted(names)]
            assert before <= sum(counted) <= len(events)

        await asyncio.gather(*(job for start in range(0, 2000, 50) for job in (write(start), read())))
        assert sum([(await store.metrics(question(name))).total_count for name in names]) == len(events)

    async def test_questions_that_are_cancelled_disturb_no_others(self, store: Store) -> None:
        events = make_events(2000)
        await insert(store, events)
        query, known = question("sign_up", "channel"), [event.identity for event in events[:50]]

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
        assert counted == answers.count(events, query)
        assert in_order(found) == in_order(events[:50])
        assert page == in_order(events)[:100]

    # erasing

    async def test_an_erased_user_is_neither_scanned_nor_counted(self, store: Store) -> None:
        gone = [make_event(user_id="gone", event_id=f"{number}") for number in range(3)]
        kept = [make_event(user_id="kept"), make_event(user_id="gone2"), make_event(user_id="Gone")]
        other = make_event(user_id="gone", project="other")
        await insert(store, [*gone, *kept, other])
        assert await store.erase("default", "gone", NOON_MS) == 3
        assert await scan_all(store, everything()) == in_order(kept)
        answer = await store.metrics(question(group_by="channel"))
        assert (answer.total_count, answer.unique_count, answer.groups) == (3, 3, (Group("web", 3, 3),))
        assert await scan_all(store, everything("other")) == [other]

    async def test_an_erasure_takes_all_of_a_users_events(self, store: Store) -> None:
        await insert(store, [make_event(user_id="gone", event_id=f"{number}") for number in range(1500)])
        await store.erase("default", "gone", NOON_MS)
        assert (await store.metrics(question())).total_count == 0
        assert await scan_all(store, everything()) == []

    async def test_erasure_holds_for_events_that_arrive_later_by_anybody(self, store: Store, settings: Any) -> None:
        async with self.another(store, settings) as second:
            await insert(second, [make_event(event_id="before")])
            await store.erase("default", "gone", NOON_MS)
            await insert(second, [make_event(user_id="gone"), make_event(user_id="kept")])
            await insert(store, [make_event(user_id="gone", timestamp_ms=NOON_MS - DAY_MS)])
            for handle in (store, second):
                assert {event.user_id for event in await scan_all(handle, everything())} == {"user_1", "kept"}
                assert (await handle.metrics(question())).total_count == 2

    async def test_erasure_ends_with_its_last_moment(self, store: Store) -> None:
        events = [make_event(user_id="back", timestamp_ms=NOON_MS + late) for late in (-1, 0, 1)]
        await insert(store, events[:2])
        await store.erase("default", "back", NOON_MS)
        await insert(store, events)
        assert await scan_all(store, everything()) == [events[2]]

    @pytest.mark.parametrize("users", ["gone kept", "kept gone", "kept gone kept", "gone kept gone", "kept kept gone"])
    async def test_the_greatest_version_says_whose_an_event_is_in_any_order(self, store: Store, users: str) -> None:
        """Versions of one event by several users, in every order, with the erasure at every moment between them."""
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
        assert (await store.metrics(question())).total_count == total
        found = await store.find(
            [make_event(event_id=f"{order} {moment}").identity for order in orders for moment in moments]
        )
        assert {event.received_at_ms - NOON_MS for event in found} == ({len(owners) - 1} if total else set())

    async def test_an_erasure_beside_inserts_takes_all_of_the_user_and_nothing_else(
        self, store: Store, settings: Any
    ) -> None:
        """Two handles insert while the user is erased; no insert waits for that."""
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
        event = make_event(user_id="gone")
        await insert(store, [event])
        await store.erase("default", "gone", NOON_MS)
        await store.erase("default", "gone", NOON_MS - DAY_MS)
        await insert(store, [event])
        assert await scan_all(store, everything()) == []
        assert await store.erase("default", "gone", NOON_MS) == 0

    # operating

    async def test_migrating_again_and_at_once_keeps_what_is_there(self, store: Store, settings: Any) -> None:
        events = make_events(10)
        await insert(store, events)
        async with self.another(store, settings) as second:
            await asyncio.gather(store.migrate(), second.migrate(), store.migrate())
        assert await scan_all(store, everything()) == in_order(events)

    async def test_a_working_store_passes_its_check(self, store: Store) -> None:
        warnings = await store.check()
        assert isinstance(warnings, list)
        assert all(isinstance(warning, str) for warning in warnings)

    async def test_a_server_that_is_away_is_reported_in_time(self, settings: Any, unreachable_settings: Any) -> None:
        if unreachable_settings is None:
            assert settings.reach != "network", "define the fixture `unreachable_settings`"
            return
        async with asyncio.timeout(30), self.backend.open(unreachable_settings) as store:
            for failing in (store.check(), store.scan(everything(), None, 1), store.metrics(question())):
                with pytest.raises(StoreUnavailable):
                    await failing
            with pytest.raises(EventmillError):
                await insert(store, make_events(1))
