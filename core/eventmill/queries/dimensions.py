"""The table of dimensions: what the answer of a query can be grouped by.

A new dimension is one entry in `DIMENSIONS`. Parsing, reference answers, SQL, the HTTP schema and the contract suite
follow from it; docs/http.md names it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from eventmill.event import Event


@dataclass(frozen=True, slots=True)
class Dimension:
    """One way to group events.

    Attributes:
        name: what `group_by` says.
        read: returns the group that an event belongs to.
        sql: the same in ClickHouse's SQL, over the columns of the table `events`.
        bucket_ms: the length of a time bucket, else None. Time buckets are ordered by time, other groups by descending
            count, then by value.
    """

    name: str
    read: Callable[[Event], str]
    sql: str
    bucket_ms: int | None = None


def _time(name: str, bucket_ms: int, format: str, sql_format: str) -> Dimension:
    @lru_cache(1024)
    def label(bucket: int) -> str:
        return datetime.fromtimestamp(bucket * bucket_ms // 1000, UTC).strftime(format)

    return Dimension(
        name,
        lambda event: label(event.timestamp_ms // bucket_ms),
        f"formatDateTime(timestamp, '{sql_format}', 'UTC')",
        bucket_ms,
    )


DIMENSIONS = {
    dimension.name: dimension
    for dimension in (
        Dimension("channel", lambda event: event.channel, "toString(channel)"),
        _time("hour", 3_600_000, "%Y-%m-%d %H:00:00", "%F %H:00:00"),
        _time("day", 86_400_000, "%Y-%m-%d", "%F"),
    )
}
