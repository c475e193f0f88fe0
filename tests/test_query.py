"""Questions: bounds, limits, and the answers in plain Python."""

import pytest

from eventmill import Event, EventFilter, Group, InvalidQuery, Metrics, MetricsQuery, Property, QueryTooLarge, reference
from eventmill.queries.buckets import Bucket
from eventmill.queries.spans import parse_span
from eventmill.testing import make_event, make_events
from eventmill.testing.events import NOON_MS

SECOND = "1700000000"


def test_whole_seconds_cover_their_second_and_finer_bounds_their_millisecond() -> None:
    span = parse_span(SECOND, SECOND)
    assert (span.start_ms, span.end_ms) == (1_700_000_000_000, 1_700_000_001_000)
    span = parse_span(f"{SECOND}.5", f"{SECOND}.5")
    assert (span.start_ms, span.end_ms) == (1_700_000_000_500, 1_700_000_000_501)
    span = parse_span(f"{SECOND}.0001", f"{SECOND}.0019")
    assert (span.start_ms, span.end_ms) == (1_700_000_000_001, 1_700_000_000_002)


def test_a_query_backwards_in_time_is_rejected() -> None:
    with pytest.raises(InvalidQuery, match="later"):
        MetricsQuery(EventFilter("p", 2, 1))


@pytest.mark.parametrize(("group_by", "bucket_ms"), [("hour", 3_600_000), ("day", 86_400_000)])
def test_time_groups_are_bounded_by_the_range(group_by: str, bucket_ms: int) -> None:
    MetricsQuery(EventFilter("p", 0, 10_000 * bucket_ms), (Bucket(group_by),))
    with pytest.raises(QueryTooLarge, match="10000"):
        MetricsQuery(EventFilter("p", 0, 10_000 * bucket_ms + 1), (Bucket(group_by),))


def test_a_filter_matches_by_project_name_and_time() -> None:
    event = make_event()
    assert EventFilter("default", NOON_MS, NOON_MS + 1).matches(event)
    assert EventFilter("default", NOON_MS, NOON_MS + 1, ("page_view",)).matches(event)
    assert not EventFilter("default", NOON_MS, NOON_MS + 1, ()).matches(event)
    assert not EventFilter("other", NOON_MS, NOON_MS + 1).matches(event)
    assert not EventFilter("default", NOON_MS + 1, NOON_MS + 2).matches(event)
    assert not EventFilter("default", NOON_MS - 1, NOON_MS).matches(event)


def test_the_reference_counts_what_a_person_would() -> None:
    events = [
        make_event(user_id="ada"),
        make_event(user_id="ada", channel="mobile"),
        make_event(user_id="bob"),
        make_event(event_id="twice", user_id="old", channel="gone"),
        make_event(event_id="twice", user_id="ada", received_at_ms=NOON_MS + 1),
        make_event(event_name="other"),
        make_event(project="other"),
        make_event(timestamp_ms=NOON_MS + 3_600_000),
    ]
    query = MetricsQuery(EventFilter("default", NOON_MS, NOON_MS + 3_600_000, ("page_view",)), (Property("channel"),))
    groups = (Group(("web",), 3, 2), Group(("mobile",), 1, 1))
    assert reference.count_metrics(events, query) == Metrics(4, 2, None, groups)


class Endless:
    """A store that always has another page."""

    def __init__(self) -> None:
        self.page = make_events(5000)

    async def scan(self, filter: EventFilter, before: object, limit: int) -> list[Event]:
        return self.page


@pytest.mark.anyio
async def test_an_answer_over_too_many_events_is_rejected() -> None:
    with pytest.raises(QueryTooLarge, match="1000000"):
        await reference.compute_metrics(Endless(), MetricsQuery(EventFilter("default", 0, 1)))
