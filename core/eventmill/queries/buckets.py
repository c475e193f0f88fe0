"""Buckets of time: the minutes, hours, days, weeks and months of a time zone."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from zoneinfo import ZoneInfo, available_timezones

from eventmill.errors import InvalidQuery

STEPS = {"minute": 60, "hour": 3600}  # seconds
DATES = ("day", "week", "month")
UNITS = (*STEPS, *DATES)
_MOST_OFFSETS = 1000  # room for the offset from UTC in the key of a bucket
_OFFSET_STEP = 900  # since 2000 every offset is a multiple of 15 minutes
_NO_OFFSET = _MOST_OFFSETS // 2
_EPOCH = date(1970, 1, 1)
_DAYS = {"day": 1, "week": 7, "month": 31}


@dataclass(frozen=True, slots=True)
class Bucket:
    """Groups events by minute, hour, day, week (from Monday) or month, on the clocks of a time zone.

    A bucket has a key, an integer that grows with time. The key of a day, week or month is its first day, in days since
    1970-01-01. That of a minute or hour is its start in unix seconds times 1000, plus the offset of the zone in
    quarters of an hour plus 500: an hour that a clock shows twice is two buckets.
    """

    name: str
    tz: str = "UTC"

    def key(self, time_ms: int) -> int:
        """Return the key of the bucket that holds a time."""
        seconds = time_ms // 1000
        offset = _offset(self.tz, seconds // 60)
        local = seconds + offset
        if step := STEPS.get(self.name):
            return (local - local % step - offset) * _MOST_OFFSETS + offset // _OFFSET_STEP + _NO_OFFSET
        day = local // 86_400
        if self.name == "day":
            return day
        if self.name == "week":
            return day - (day + 3) % 7  # 1970-01-01 was a Thursday
        return day - (_EPOCH + timedelta(days=day)).day + 1

    def label(self, key: int) -> str:
        """Return what people read: `2025-12-26 03:00:00`, `2025-12-26`, or `2025-12` for a month.

        Minutes and hours of another zone than UTC have the offset, such as `2025-10-26 02:00:00+01:00`.
        """
        if self.name in STEPS:
            start, quarters = divmod(key, _MOST_OFFSETS)
            offset = (quarters - _NO_OFFSET) * _OFFSET_STEP
            moment = datetime.fromtimestamp(start + offset, UTC).strftime("%Y-%m-%d %H:%M:%S")
            return moment if self.tz == "UTC" else moment + _sign(offset)
        first = _EPOCH + timedelta(days=key)
        return first.isoformat()[:7] if self.name == "month" else first.isoformat()

    def most_between(self, start_ms: int, end_ms: int) -> int:
        """Return the greatest number of buckets that events of a span can have."""
        if step := STEPS.get(self.name):
            return (end_ms - 1) // (step * 1000) - start_ms // (step * 1000) + 1
        return (self.key(end_ms - 1) - self.key(start_ms)) // _DAYS[self.name] + 1

    def between(self, start_ms: int, end_ms: int) -> list[int]:
        """Return the keys of all buckets of a span, in order."""
        return list(dict.fromkeys(map(self.key, self._times(start_ms, end_ms))))

    def _times(self, start_ms: int, end_ms: int) -> Iterator[int]:
        """Yield a time in every bucket."""
        step_ms = min(STEPS.get(self.name, 86_400), _OFFSET_STEP) * 1000 if self.name in STEPS else 43_200_000
        yield start_ms
        yield from range(start_ms - start_ms % step_ms + step_ms, end_ms, step_ms)
        yield end_ms - 1


@cache
def time_zones() -> frozenset[str]:
    """Return the names of the IANA time zones."""
    return frozenset(available_timezones()) - {"localtime", "Factory", "posixrules"}


def parse_tz(name: str) -> str:
    """Return the name of a time zone. Raise InvalidQuery if there is none."""
    if name != "UTC" and name not in time_zones():
        raise InvalidQuery(f"tz must be an IANA time zone such as Europe/Berlin, not {name[:64]!r}", "tz")
    return name


def _sign(offset: int) -> str:
    hours, minutes = divmod(abs(offset) // 60, 60)
    return f"{'-' if offset < 0 else '+'}{hours:02}:{minutes:02}"


@lru_cache(65_536)
def _offset(tz: str, minute: int) -> int:
    """Return the offset from UTC in seconds, at a minute since 1970."""
    if tz == "UTC":
        return 0
    local = datetime.fromtimestamp(minute * 60, ZoneInfo(tz)).replace(tzinfo=UTC)
    return int(local.timestamp()) - minute * 60
