"""Spans of time, as clients write them."""

import re
import time
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from eventmill.errors import InvalidQuery
from eventmill.event import MAX_TIME_MS
from eventmill.times import parse_time

DAY_SECONDS = 86_400
DEFAULT_DAYS_SECONDS = 30 * DAY_SECONDS  # of questions that need a longer span
UNIT_SECONDS = {"m": 60, "h": 3600, "d": DAY_SECONDS, "w": 7 * DAY_SECONDS}
_RELATIVE = re.compile(r"-([0-9]{1,7})([mhdw])")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time, with both ends included. A bound in whole seconds includes that whole second.

    Attributes:
        start_us, end_us: its ends, unix microseconds.
    """

    start_us: int
    end_us: int

    def __post_init__(self) -> None:
        if self.start_us > self.end_us:
            raise InvalidQuery("from must not be later than to", "from")

    @property
    def start_ms(self) -> int:
        """The first millisecond."""
        return -(-self.start_us // 1000)

    @property
    def end_ms(self) -> int:
        """The first millisecond after it."""
        return self.end_us // 1000 + (1000 if self.end_us % _SECOND_US == 0 else 1)

    @property
    def seconds(self) -> tuple[float | int, float | int]:
        """Its ends in unix seconds, as integers if they are whole."""
        start, end = (us / _SECOND_US if us % _SECOND_US else us // _SECOND_US for us in (self.start_us, self.end_us))
        return start, end


def parse_span(start: str | None, end: str | None, tz: str = "UTC", default_seconds: int = DAY_SECONDS) -> Span:
    """Return the span between two texts; by default it ends now, and starts so many seconds before its end.

    A text is unix seconds, RFC 3339, a date in the time zone, or a time before now such as `-24h` (m, h, d, w). Raise
    InvalidQuery.
    """
    now_us = int(time.time()) * _SECOND_US
    end_us = now_us if end is None else _parse(end, "to", tz, now_us)
    start_us = end_us - default_seconds * _SECOND_US if start is None else _parse(start, "from", tz, now_us)
    return Span(max(start_us, 0) if start is None else start_us, end_us)


def _parse(text: str, name: str, tz: str, now_us: int) -> int:
    if relative := _RELATIVE.fullmatch(text):
        time_us = now_us - int(relative[1]) * UNIT_SECONDS[relative[2]] * _SECOND_US
    else:
        try:
            time_us = _midnight(text, tz, is_end=name == "to") if _DATE.fullmatch(text) else parse_time(text)
        except (ValueError, OverflowError) as error:
            raise InvalidQuery(f"{name} {error}; dates and times before now such as -24h are allowed", name) from None
    if not 0 <= time_us <= MAX_TIME_MS * 1000:
        raise InvalidQuery(f"{name} must lie between 1970 and 2100", name)
    return time_us


def _midnight(text: str, tz: str, *, is_end: bool) -> int:
    """Return the first second of a day, or the last."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"is not a date of the calendar: {text}") from None
    start = datetime.combine(day + timedelta(days=is_end), datetime.min.time(), ZoneInfo(tz))
    return (int(start.timestamp()) - is_end) * _SECOND_US
