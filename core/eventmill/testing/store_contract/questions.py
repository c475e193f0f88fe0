"""Questions: random ones about events that are hard to answer."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from eventmill import (
    ALL_TIME,
    MAX_GROUPS,
    MAX_TIME_MS,
    EventBatch,
    EventFilter,
    FunnelQuery,
    Measure,
    MetricsQuery,
    Property,
    RetentionQuery,
    Store,
    reference,
)
from eventmill.testing.events import make_event
from eventmill.testing.questions import (
    ERASED,
    agree,
    filters,
    funnel_queries,
    make_hard_events,
    metrics_queries,
    retention_queries,
)
from eventmill.testing.store_contract.suite import StoreSuite, everything, in_order, insert, scan_all

EVENTS = make_hard_events(600)
ANSWERED = [event for event in reference.latest(EVENTS) if event.user_id != ERASED]
_SHOWN = 2_000  # characters of an answer in an error
QUESTIONS = settings(
    max_examples=40,
    derandomize=True,  # a test that fails, fails again
    deadline=None,
    phases=[Phase.generate],  # looking for a smaller example takes minutes on a slow store
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors, HealthCheck.too_slow],
)


def require_equal(got: object, expected: object) -> None:
    """Fail with the start of both, since pytest compares long lists for minutes."""
    if not agree(got, expected):
        pytest.fail(f"the answer is {str(got)[:_SHOWN]}, but the reference is {str(expected)[:_SHOWN]}")


class StoreQuestions(StoreSuite):
    """Questions: random ones about events that are hard to answer."""

    @pytest.fixture
    async def filled(self, store: Store) -> Store:
        """The store with EVENTS, of which a user was erased."""
        for start in range(0, len(EVENTS), 200):
            await store.insert(EventBatch.of(EVENTS[start : start + 200]))
        await store.erase("default", ERASED, MAX_TIME_MS)
        return store

    @QUESTIONS
    @given(query=metrics_queries())
    async def test_metrics_equal_the_reference(self, filled: Store, query: MetricsQuery) -> None:
        """metrics equals the reference answer, for every filter, group, measure and limit.

        Likely cause: how a value compares, see docs/queries.md; a store may leave what it does not know to
        `reference.compute_metrics`.
        """
        require_equal(await filled.metrics(query), reference.count_metrics(ANSWERED, query))

    @QUESTIONS
    @given(filter=filters())
    async def test_scans_meet_all_conditions(self, filled: Store, filter: EventFilter) -> None:
        """scan returns the events that meet all conditions of the filter.

        Likely cause: `EventFilter.where` is ignored; `EventFilter.matches` is always right.
        """
        expected = in_order([event for event in ANSWERED if filter.matches(event)])
        require_equal(await scan_all(filled, filter, 100), expected)

    @QUESTIONS
    @given(query=funnel_queries())
    async def test_funnels_equal_the_reference(self, filled: Store, query: FunnelQuery) -> None:
        """funnel equals the reference answer. Likely cause: ties in time, the window, or which entry counts."""
        require_equal(await filled.funnel(query), reference.count_funnel(ANSWERED, query))

    @QUESTIONS
    @given(query=retention_queries())
    async def test_retention_equals_the_reference(self, filled: Store, query: RetentionQuery) -> None:
        """retention equals the reference answer. Likely cause: period 0, or units across a change of the clocks."""
        require_equal(await filled.retention(query), reference.count_retention(ANSWERED, query))

    @QUESTIONS
    @given(filter=filters())
    async def test_event_names_equal_the_reference(self, filled: Store, filter: EventFilter) -> None:
        """event_names equals the reference answer. Likely cause: the order, or erased users."""
        for limit in (3, 1000):
            expected = reference.count_event_names(ANSWERED, filter, limit)
            require_equal(await filled.event_names(filter, limit), expected)

    async def test_a_limit_answers_the_largest_of_many_groups(self, store: Store) -> None:
        """With a limit there may be more than MAX_GROUPS groups. Likely cause: the limit is applied afterwards."""
        count = MAX_GROUPS + 1
        await insert(store, [make_event(user_id=f"user {n}", event_id=f"{n}") for n in range(count)])
        await insert(store, [make_event(user_id="user 7", event_id="again")])
        answer = await store.metrics(MetricsQuery(everything(), (Property("user_id"),), Measure("users"), limit=1))
        assert [(group.values, group.total_count, group.unique_count) for group in answer.groups] == [
            (("user 7",), 2, 1)
        ]
        assert [(group.total_count, group.unique_count) for group in answer.other] == [(count - 1, count - 1)]
        assert (answer.total_count, answer.unique_count) == (count + 1, count)

    async def test_approximate_users_are_within_two_percent(self, store: Store) -> None:
        """`precision` approximate is at most 2 % wrong. Likely cause: a sketch that is too small."""
        await insert(store, [make_event(user_id=f"user {n}", event_id=f"{n}") for n in range(20_000)])
        query = MetricsQuery(EventFilter("default", *ALL_TIME), measure=Measure("users"), precision="approximate")
        answer = await store.metrics(query)
        assert answer.total_count == 20_000
        assert answer.unique_count == pytest.approx(20_000, rel=0.02)
