"""The SQL of plain counts, which the primary index alone answers for months that consist of one part.

FINAL reads the rows, also of a month without duplicates. A merged part has none, so that months with a single merged
part are counted without FINAL. An insert or a merge meanwhile changes the parts, so that they are compared afterwards.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from eventmill import EventFilter, MetricsQuery
from eventmill_store_clickhouse.properties import Table, Values
from eventmill_store_clickhouse.queries import live

PARTS = """
SELECT partition_id, name, level FROM system.parts
WHERE active AND database = currentDatabase() AND table = 'events' ORDER BY name
"""
_MAX_MONTHS = 240


def is_plain(query: MetricsQuery, table: Table) -> bool:
    """Return whether the query only counts events, of names and a span of time, in a project without erasures."""
    wanted = query.filter
    is_filtered = wanted.where or wanted.event_id is not None or wanted.user_id is not None
    is_count = query.measure is not None and query.measure.function == "count" and not query.group_by
    return is_count and not is_filtered and wanted.event_names is not None and not table.has_erasures


def merged(rows: Sequence[Sequence[Any]]) -> dict[str, str]:
    """Return the part of each month that consists of one merged part, from rows of PARTS."""
    parts: dict[str, list[tuple[str, int]]] = {}
    for month, name, level in rows:
        parts.setdefault(month, []).append((name, level))
    return {month: own[0][0] for month, own in parts.items() if len(own) == 1 and own[0][1] > 0}


def select(wanted: EventFilter, merged: Collection[str]) -> tuple[str, dict[str, Any]] | None:
    """Select one row with the count, with the months that are merged; None if there are none, or too many."""
    months = list(_months(wanted.start_ms, wanted.end_ms))
    if len(months) > _MAX_MONTHS or not any(month in merged for month, _, _ in months):
        return None
    values = Values(Table(has_erasures=False))
    counts = []
    for is_merged, run in groupby(months, lambda month: month[0] in merged):
        spans = list(run)
        span = replace(wanted, start_ms=spans[0][1], end_ms=spans[-1][2])
        counts.append(f"SELECT count() AS events {live(span, values, is_final=not is_merged)}")
    return f"SELECT sum(events) FROM ({' UNION ALL '.join(counts)})", values.bound


def _months(start_ms: int, end_ms: int) -> Iterator[tuple[str, int, int]]:
    """Yield the id of each month's partition, and the part of the span that lies in it."""
    while start_ms < end_ms:
        day = datetime.fromtimestamp(start_ms // 1000, UTC)
        following = datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC)
        next_ms = min(end_ms, int(following.timestamp()) * 1000)
        yield f"{day.year}{day.month:02}", start_ms, next_ms
        start_ms = next_ms
