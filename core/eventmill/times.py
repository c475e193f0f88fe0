"""Points in time as people and programs send them, in unix microseconds."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import Meta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LONGEST_SECONDS = 1e11  # the year 5138: a greater number of seconds is meant in a smaller unit

Rfc3339 = Annotated[datetime, Meta(tz=True)]


def to_microseconds(moment: float | datetime) -> int:
    """Unix seconds or an aware datetime as unix microseconds.

    Raises ValueError in words for numbers that look like milliseconds and for those out of any range.
    """
    if isinstance(moment, datetime):
        return (moment - _EPOCH) // _MICROSECOND
    if abs(moment) < _LONGEST_SECONDS:
        return moment * 1_000_000 if isinstance(moment, int) else round(moment * 1e6)
    if abs(moment) < 1e14:
        raise ValueError("looks like milliseconds: send seconds, or an RFC 3339 time")
    raise ValueError("is out of range: send unix seconds, or an RFC 3339 time")


def parse_time(text: str) -> int:
    """A query parameter, unix seconds or RFC 3339, as unix microseconds. Raises ValueError in words."""
    try:
        moment = msgspec.convert(text, float | Rfc3339, strict=False)
    except msgspec.ValidationError:
        hint = "; write the + of its offset as %2B" if " " in text else ""
        raise ValueError(f"is neither unix seconds nor an RFC 3339 time such as 2025-12-26T03:00:00Z{hint}") from None
    return to_microseconds(moment)


def describe(time_ms: int) -> str:
    """A time for people, in UTC."""
    return (_EPOCH + timedelta(milliseconds=time_ms)).strftime("%Y-%m-%dT%H:%M:%SZ")
