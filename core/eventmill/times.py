"""Parse and format times. Inside eventmill a time is an integer of unix milliseconds or microseconds."""

import time
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import Meta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MAX_SECONDS = 1e11  # the year 5138: a greater number is in a smaller unit

_SKEW_SECONDS = 5.0
_MAX_DESCRIBED_MS = 253_402_300_799_000

Rfc3339 = Annotated[datetime, Meta(tz=True)]


def to_microseconds(moment: float | datetime) -> int:
    """Return unix seconds or an aware datetime as unix microseconds.

    Raise ValueError with a message for clients if the number looks like milliseconds or is out of range.
    """
    if type(moment) is int and -_MAX_SECONDS < moment < _MAX_SECONDS:  # first, since it is the usual form
        return moment * 1_000_000
    if isinstance(moment, datetime):
        return (moment - _EPOCH) // _MICROSECOND
    if abs(moment) < _MAX_SECONDS:
        return round(moment * 1e6)
    if abs(moment) < 1e14:
        raise ValueError("looks like milliseconds: send seconds, or an RFC 3339 time")
    raise ValueError("is out of range: send unix seconds, or an RFC 3339 time")


def parse_time(text: str) -> int:
    """Return a query parameter, unix seconds or RFC 3339, as unix microseconds. Raise ValueError for clients."""
    try:
        moment = msgspec.convert(text, float | Rfc3339, strict=False)
    except msgspec.ValidationError:
        hint = "; encode the + of the offset as %2B" if " " in text else ""
        raise ValueError(f"is neither unix seconds nor an RFC 3339 time such as 2025-12-26T03:00:00Z{hint}") from None
    return to_microseconds(moment)


def describe_skew(server_seconds: float, name: str) -> list[str]:
    """Return a warning if the clock of a server, in unix seconds, differs by 5 s or more from that of this machine."""
    skew = server_seconds - time.time()
    if abs(skew) < _SKEW_SECONDS:
        return []
    words = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'}"
    return [f"the clock of {name} is {words} that of this machine: run `timedatectl set-ntp true`"]


def describe(time_ms: int) -> str:
    """Return a time in UTC for people; the nearest of the years 1970 to 9999."""
    moment = _EPOCH + timedelta(milliseconds=min(max(time_ms, 0), _MAX_DESCRIBED_MS))
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
