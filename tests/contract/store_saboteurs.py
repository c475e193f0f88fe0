"""Stores that break the contract, each in one way. They wrap the memory store."""

import asyncio
import dataclasses
import itertools
import time
import unicodedata
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily

import eventmill_store_memory
from eventmill import (
    Event,
    EventBatch,
    EventFilter,
    EventName,
    Funnel,
    FunnelQuery,
    Group,
    Identity,
    Metrics,
    MetricsQuery,
    Period,
    Position,
    RejectedEvents,
    Retention,
    RetentionQuery,
    Store,
    StoreBackend,
    StoreMisconfigured,
    StoreUnavailable,
)
from eventmill.event import MAX_TIME_MS, MIN_TIME_MS
from eventmill_store_memory.settings import MemoryStoreSettings
from support.proxies import StoreProxy
from support.switch import Switch

SWITCH = Switch(StoreUnavailable)


class Honest(StoreProxy):
    """The base of the saboteurs, which must pass the suite. It behaves as if a server held its events."""

    async def insert(self, batch: EventBatch) -> None:
        await SWITCH.reach()
        await self.inner.insert(batch)

    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        await SWITCH.reach()
        return await self.inner.scan(filter, before, limit)

    async def check(self) -> list[str]:
        await SWITCH.reach()
        return await self.inner.check()


class Loses(Honest):
    async def insert(self, batch: EventBatch) -> None:
        await self.inner.insert(batch.take(range(min(len(batch), 10_000))))


class Truncates(Honest):
    async def insert(self, batch: EventBatch) -> None:
        short = [msgspec.structs.replace(event, metadata=msgspec.Raw(b"{}")) for event in batch.events]
        await self.inner.insert(EventBatch.of(short))


class DropsMilliseconds(Honest):
    async def insert(self, batch: EventBatch) -> None:
        whole = [msgspec.structs.replace(e, timestamp_ms=e.timestamp_ms // 1000 * 1000) for e in batch.events]
        await self.inner.insert(EventBatch.of(whole))


class StoresLater(Honest):
    async def insert(self, batch: EventBatch) -> None:
        async def late() -> None:
            await asyncio.sleep(0.2)
            await self.inner.insert(batch)

        self.later = asyncio.create_task(late())


class CountsTwice(Honest):
    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.repeated = 0
        self.seen: set[Identity] = set()

    async def insert(self, batch: EventBatch) -> None:
        self.repeated += sum(event.identity in self.seen for event in batch.events)
        self.seen |= {event.identity for event in batch.events}
        await self.inner.insert(batch)

    async def metrics(self, query: MetricsQuery) -> Metrics:
        answer = await super().metrics(query)
        return dataclasses.replace(answer, total_count=answer.total_count + self.repeated)


class LastArrivalWins(Honest):
    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.arrivals = itertools.count()
        self.versions: dict[int, int] = {}

    async def insert(self, batch: EventBatch) -> None:
        numbered = []
        for event in batch.events:
            number = next(self.arrivals)
            self.versions[number] = event.version
            numbered.append(msgspec.structs.replace(event, version=number))
        await self.inner.insert(EventBatch.of(numbered))

    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        page = await self.inner.scan(filter, before, limit)
        return [msgspec.structs.replace(event, version=self.versions[event.version]) for event in page]


class FirstArrivalWins(Honest):
    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.seen: set[Identity] = set()

    async def insert(self, batch: EventBatch) -> None:
        fresh = [i for i, event in enumerate(batch.events) if event.identity not in self.seen]
        self.seen |= {event.identity for event in batch.events}
        await self.inner.insert(batch.take(fresh))


class MergesByIdAlone(FirstArrivalWins):
    async def insert(self, batch: EventBatch) -> None:
        fresh = []
        for number, event in enumerate(batch.events):
            key = Identity(event.project, "", 0, event.event_id)
            if key not in self.seen:
                fresh.append(number)
                self.seen.add(key)
        await self.inner.insert(batch.take(fresh))


class IgnoresNames(Honest):
    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        return await self.inner.scan(dataclasses.replace(filter, event_names=None), before, limit)


class IgnoresIds(Honest):
    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        return await self.inner.scan(dataclasses.replace(filter, event_id=None), before, limit)


class FindsFormerUsers(Honest):
    """It looks for a user before it drops former versions."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._every: list[Event] = []

    async def insert(self, batch: EventBatch) -> None:
        self._every += batch.events
        await super().insert(batch)

    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        if filter.user_id is None or before is not None:
            return await super().scan(filter, before, limit)
        found = EventBatch.of(event for event in self._every if filter.matches(event)).events
        return sorted(found, key=lambda event: (-event.timestamp_ms, event.event_name, event.event_id))


class CountsBackwards(Honest):
    _count = 1000.0

    def collect(self) -> Iterable[Metric]:
        self._count -= 1
        return [CounterMetricFamily("eventmill_store_countsbackwards_calls", "It falls.", self._count)]


class IgnoresProjects(Honest):
    async def insert(self, batch: EventBatch) -> None:
        await self.inner.insert(EventBatch.of(msgspec.structs.replace(e, project="all") for e in batch.events))

    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        return await self.inner.scan(dataclasses.replace(filter, project="all"), before, limit)


class IgnoresTheStart(Honest):
    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        return await self.inner.scan(dataclasses.replace(filter, start_ms=MIN_TIME_MS), before, limit)


class IncludesTheEnd(Honest):
    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        return await self.inner.scan(dataclasses.replace(filter, end_ms=filter.end_ms + 1), before, limit)


class RepeatsThePosition(Honest):
    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        if before is not None and limit > 1:
            here = EventFilter(filter.project, before.timestamp_ms, before.timestamp_ms + 1, (before.event_name,))
            found = await self.inner.scan(here, None, 1000)
            repeated = [event for event in found if event.event_id == before.event_id]
            rest = await self.inner.scan(filter, before, limit - 1)
            return repeated + rest if rest else []
        return await self.inner.scan(filter, before, limit)


class SkipsWithinAMillisecond(Honest):
    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        end_ms = filter.end_ms if before is None else min(filter.end_ms, before.timestamp_ms)
        return await self.inner.scan(dataclasses.replace(filter, end_ms=end_ms), None, limit)


class PagesByOffset(Honest):
    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.offset = 0

    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        self.offset = 0 if before is None else self.offset + limit
        everything = await self.inner.scan(filter, None, self.offset + limit)
        return everything[self.offset :]


class OldestFirst(Honest):
    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        page = await self.inner.scan(filter, before, limit)
        return sorted(page, key=lambda event: event.timestamp_ms)


class GivesTooMany(Honest):
    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        return await self.inner.scan(filter, before, limit + 1)


class ForgetsErasures(Honest):
    async def erase(self, project: str, user_id: str, until_ms: int) -> int:
        events = await self.inner.scan(EventFilter(project, MIN_TIME_MS, MAX_TIME_MS), None, 1000)
        gone = [event for event in events if event.user_id == user_id and event.timestamp_ms <= until_ms]
        self.gone = getattr(self, "gone", set()) | {(id(self), event.identity) for event in gone}
        return len(gone)

    async def insert(self, batch: EventBatch) -> None:
        self.gone = getattr(self, "gone", set()) - {(id(self), event.identity) for event in batch.events}
        await self.inner.insert(batch)

    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        page = await self.inner.scan(filter, before, limit)
        return [event for event in page if (id(self), event.identity) not in getattr(self, "gone", set())]


class ErasesOnlyAPage(Honest):
    async def erase(self, project: str, user_id: str, until_ms: int) -> int:
        page = await self.inner.scan(EventFilter(project, MIN_TIME_MS, MAX_TIME_MS), None, 1000)
        oldest = min((event.timestamp_ms for event in page), default=until_ms)
        return 1 if len(page) == 1000 else await self.inner.erase(project, user_id, max(oldest, until_ms))


class Normalises(Honest):
    async def insert(self, batch: EventBatch) -> None:
        alike = [
            msgspec.structs.replace(event, user_id=unicodedata.normalize("NFC", event.user_id).strip())
            for event in batch.events
        ]
        await self.inner.insert(EventBatch.of(alike))


class ErasesForEver(Honest):
    async def erase(self, project: str, user_id: str, until_ms: int) -> int:
        return await self.inner.erase(project, user_id, MAX_TIME_MS)


class ErasesEverywhere(Honest):
    async def erase(self, project: str, user_id: str, until_ms: int) -> int:
        await self.inner.erase("other", user_id, until_ms)
        return await self.inner.erase(project, user_id, until_ms)


class ApproximatesUsers(Honest):
    async def metrics(self, query: MetricsQuery) -> Metrics:
        answer = await super().metrics(query)
        return dataclasses.replace(answer, unique_count=round((answer.unique_count or 0) * 1.003))


class CountsInAnotherZone(Honest):
    async def metrics(self, query: MetricsQuery) -> Metrics:
        answer = await super().metrics(query)
        return dataclasses.replace(answer, groups=tuple(map(self._shift, answer.groups)))

    @staticmethod
    def _shift(group: Group) -> Group:
        return dataclasses.replace(group, values=tuple(value and value.replace(" 0", " 1") for value in group.values))


class SortsByNameAlone(Honest):
    async def metrics(self, query: MetricsQuery) -> Metrics:
        answer = await super().metrics(query)
        return dataclasses.replace(answer, groups=tuple(sorted(answer.groups, key=lambda group: str(group.values))))


class CutsGroupsSilently(Honest):
    async def metrics(self, query: MetricsQuery) -> Metrics:
        total = await super().metrics(dataclasses.replace(query, group_by=()))
        return total if total.total_count > 10_000 else await super().metrics(query)


class DropsTheErased(Honest):
    """What an erased event had overtaken comes up again: nothing of it is stored when it arrives late."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.erased: set[str] = set()

    async def insert(self, batch: EventBatch) -> None:
        kept = [event for event in batch.events if event.user_id not in self.erased]
        await self.inner.insert(EventBatch.of(kept))

    async def erase(self, project: str, user_id: str, until_ms: int) -> int:
        self.erased.add(user_id)
        return await self.inner.erase(project, user_id, until_ms)


class EmptiesByMigrating(Honest):
    async def migrate(self, retention_days: int | None = None) -> None:
        async with eventmill_store_memory.backend.open(MemoryStoreSettings()) as empty:
            self.inner = empty


class SplitsTheSnapshot(Honest):
    async def metrics(self, query: MetricsQuery) -> Metrics:
        groups = (await super().metrics(query)).groups
        await asyncio.sleep(0.01)
        return dataclasses.replace(await super().metrics(dataclasses.replace(query, group_by=())), groups=groups)


class KeepsEventsInMemory(Honest):
    """The server forgets its events when it is killed."""

    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        return [] if SWITCH.kills else await super().scan(filter, before, limit)


class ChecksBlindly(Honest):
    async def check(self) -> list[str]:
        return []


class NeverReconnects(Honest):
    async def check(self) -> list[str]:
        if SWITCH.kills:
            raise StoreUnavailable("the connection is broken")
        return await super().check()


class ErasesOnlyWhatItSees(Honest):
    """Erases the events that are stored now, without a tombstone for events that are being inserted."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.hidden: set[Identity] = set()

    async def erase(self, project: str, user_id: str, until_ms: int) -> int:
        page = await self.inner.scan(EventFilter(project, MIN_TIME_MS, MAX_TIME_MS), None, 100_000)
        seen = {event.identity for event in page if event.user_id == user_id and event.timestamp_ms <= until_ms}
        await asyncio.sleep(0)
        self.hidden |= seen
        return len(seen)

    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        page = await super().scan(filter, before, limit)
        return [event for event in page if event.identity not in self.hidden]


class RefusesRetentions(Honest):
    async def migrate(self) -> None:  # type: ignore[override]  # as before stores received the retention
        return


class RejectsDuringOutages(Honest):
    async def insert(self, batch: EventBatch) -> None:
        try:
            await super().insert(batch)
        except StoreUnavailable as error:
            raise RejectedEvents(str(error)) from error


class RejectsWithoutSchema(Honest):
    is_migrated = False

    async def migrate(self, retention_days: int | None = None) -> None:
        self.is_migrated = True

    async def check(self) -> list[str]:
        if not self.is_migrated:
            raise StoreMisconfigured("no schema")
        return await super().check()

    async def insert(self, batch: EventBatch) -> None:
        if not self.is_migrated:
            raise RejectedEvents("no such table")
        await super().insert(batch)


class FailsLate(Honest):
    """Accepts queries while it is frozen, and answers cancelled ones after a while."""

    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        try:
            await SWITCH.reach(time.monotonic() + 60)
            return await self.inner.scan(filter, before, limit)
        except asyncio.CancelledError:
            await asyncio.sleep(10)
            raise


class IgnoresConditions(Honest):
    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        return await super().scan(dataclasses.replace(filter, where=filter.where[:1]), before, limit)


class ConfusesMissingValues(Honest):
    async def metrics(self, query: MetricsQuery) -> Metrics:
        answer = await super().metrics(query)
        groups = (
            dataclasses.replace(group, values=tuple(value or "" for value in group.values)) for group in answer.groups
        )
        return dataclasses.replace(answer, groups=tuple(groups))


class ForgetsTheRest(Honest):
    async def metrics(self, query: MetricsQuery) -> Metrics:
        return dataclasses.replace(await super().metrics(query), other=())


class GuessesUsers(Honest):
    async def metrics(self, query: MetricsQuery) -> Metrics:
        answer = await super().metrics(query)
        is_guess = query.precision == "approximate" and answer.unique_count
        return dataclasses.replace(answer, unique_count=answer.unique_count * 11 // 10) if is_guess else answer  # type: ignore[operator]  # there is one


class IgnoresTheWindow(Honest):
    async def funnel(self, query: FunnelQuery) -> Funnel:
        return await super().funnel(dataclasses.replace(query, window_ms=2**50))


class CountsTheStartAsAReturn(Honest):
    async def retention(self, query: RetentionQuery) -> Retention:
        answer = await super().retention(query)
        cohorts = []
        for cohort in answer.cohorts:
            first, *others = cohort.periods
            periods = (Period(cohort.users, first.is_complete), *others)
            cohorts.append(dataclasses.replace(cohort, periods=periods))
        return Retention(tuple(cohorts))


class ListsAllNames(Honest):
    async def event_names(self, filter: EventFilter, limit: int) -> list[EventName]:
        return await super().event_names(filter, 1000)


CAUGHT_BY: dict[type[Honest], str] = {
    Loses: "test_every_event_is_stored",
    Truncates: "test_every_field_is_returned_unchanged",
    DropsMilliseconds: "test_every_field_is_returned_unchanged",
    StoresLater: "test_inserted_events_are_visible_at_once_to_every_handle",
    CountsTwice: "test_the_same_batch_again_changes_no_answer",
    LastArrivalWins: "test_the_greatest_version_wins_whatever_the_order",
    FirstArrivalWins: "test_the_greatest_version_wins_whatever_the_order",
    MergesByIdAlone: "test_events_that_differ_in_any_part_of_the_identity_are_different",
    IgnoresIds: "test_a_scan_finds_the_events_of_an_id_and_of_a_user",
    FindsFormerUsers: "test_a_scan_finds_the_events_of_an_id_and_of_a_user",
    CountsBackwards: "test_metrics_have_proper_names_and_few_labels",
    IgnoresNames: "test_a_scan_keeps_to_its_project_and_names",
    IgnoresProjects: "test_a_scan_keeps_to_its_project_and_names",
    IgnoresTheStart: "test_a_scan_starts_at_its_start_and_ends_before_its_end",
    IncludesTheEnd: "test_a_scan_starts_at_its_start_and_ends_before_its_end",
    RepeatsThePosition: "test_pages_hold_each_event_once_in_order",
    SkipsWithinAMillisecond: "test_pages_hold_each_event_once_in_order",
    PagesByOffset: "test_pages_skip_and_repeat_nothing_while_events_arrive",
    OldestFirst: "test_pages_hold_each_event_once_in_order",
    GivesTooMany: "test_pages_hold_each_event_once_in_order",
    ForgetsErasures: "test_an_erasure_covers_events_that_arrive_later_through_any_handle",
    ErasesOnlyAPage: "test_an_erasure_covers_all_events_of_the_user",
    Normalises: "test_texts_that_look_alike_are_different",
    DropsTheErased: "test_the_latest_version_determines_the_owner_in_any_order",
    ErasesForEver: "test_an_erasure_ends_at_its_time",
    ErasesEverywhere: "test_an_erased_user_is_neither_scanned_nor_counted",
    ApproximatesUsers: "test_counts_and_unique_users_are_exact",
    CountsInAnotherZone: "test_hours_and_days_are_in_utc",
    SortsByNameAlone: "test_groups_are_ordered_by_count_then_by_value",
    CutsGroupsSilently: "test_too_many_groups_are_rejected",
    SplitsTheSnapshot: "test_total_and_groups_are_from_one_snapshot",
    KeepsEventsInMemory: "test_stored_events_survive_a_killed_server",
    ChecksBlindly: "test_a_store_recovers_when_its_server_is_back",
    NeverReconnects: "test_a_store_recovers_when_its_server_is_back",
    ErasesOnlyWhatItSees: "test_an_erasure_during_inserts_covers_the_user_and_nothing_else",
    RefusesRetentions: "test_the_retention_can_change_in_both_directions",
    RejectsDuringOutages: "test_a_store_recovers_when_its_server_is_back",
    RejectsWithoutSchema: "test_a_store_that_is_not_migrated_says_so",
    FailsLate: "test_a_frozen_server_delays_no_cancelled_call",
    EmptiesByMigrating: "test_migrating_again_and_concurrently_keeps_all_events",
    IgnoresConditions: "test_scans_meet_all_conditions",
    ConfusesMissingValues: "test_metrics_equal_the_reference",
    ForgetsTheRest: "test_a_limit_answers_the_largest_of_many_groups",
    GuessesUsers: "test_approximate_users_are_within_two_percent",
    IgnoresTheWindow: "test_funnels_equal_the_reference",
    CountsTheStartAsAReturn: "test_retention_equals_the_reference",
    ListsAllNames: "test_event_names_equal_the_reference",
}


def sabotage(saboteur: type[Honest]) -> StoreBackend:
    """Return a backend whose store is this saboteur."""

    @asynccontextmanager
    async def open_store(settings: Any) -> AsyncIterator[Store]:
        async with eventmill_store_memory.backend.open(settings) as inner:
            yield saboteur(inner)

    return StoreBackend(saboteur.__name__, MemoryStoreSettings, open_store)
