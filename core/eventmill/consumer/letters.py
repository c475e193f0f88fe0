"""Dead letters for operators: find, replay and purge them."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import msgspec

from eventmill import frames
from eventmill.consumer.paging import Pager
from eventmill.errors import InvalidQuery, UndecodableMessage, UnknownFrameVersion
from eventmill.event import Event, to_sent_form
from eventmill.interfaces import Delivery, Queue
from eventmill.times import describe, parse_time

PUBLISH_SECONDS = 10.0
_PREVIEW_BYTES = 80  # of a body without events, in a list
MIN_ID = 4
NEWER = "newer"  # the reason shown for a record that a newer program wrote; this one cannot replay it
REASONS = ("rejected", "undecodable", "poison", "moved", NEWER)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter in the queue, and its content."""

    delivery: Delivery
    record: frames.DeadRecord

    @classmethod
    def read(cls, delivery: Delivery) -> "DeadLetter":
        try:
            return cls(delivery, frames.decode_dead(delivery.body))
        except UnknownFrameVersion as error:
            return cls(delivery, frames.DeadRecord(reason=NEWER, message=str(error)))

    @property
    def id(self) -> str:
        return blake2b(self.delivery.body, digest_size=6).hexdigest()

    @property
    def is_newer(self) -> bool:
        return self.record.reason == NEWER

    @property
    def died_at_ms(self) -> int:
        return self.record.died_at_ms or self.delivery.enqueued_at_ms

    @property
    def events(self) -> list[Event]:
        """The events in the dead body; none if it is not a frame."""
        try:
            return [event for event, _ in frames.decode_frame(self.record.body)]
        except (UndecodableMessage, UnknownFrameVersion):
            return []

    def summary(self) -> dict[str, Any]:
        """Return one row of a list; of a body that holds no events, the start."""
        events = self.events
        return {
            "id": self.id,
            "died_at": describe(self.died_at_ms),
            "reason": self.record.reason,
            "code": self.record.code,
            "attempts": self.record.attempts or None,  # unknown if the queue itself moved it
            "events": len(events),
            "event_names": sorted({event.event_name for event in events}),
            "message": self.record.message,
            "body": "" if events else self.record.body[:_PREVIEW_BYTES].decode(errors="backslashreplace"),
        }

    def content(self) -> dict[str, Any]:
        """Return everything about it: its events, or the body if it holds none."""
        events = self.events
        content = self.summary() | {
            "origin": self.record.origin,
            "enqueued_at": describe(self.record.enqueued_at_ms or self.delivery.enqueued_at_ms),
            "events": [to_sent_form(event) | {"timestamp": _exact_time(event)} for event in events],
        }
        return content if events else content | {"body": self.record.body.decode(errors="backslashreplace")}


def _exact_time(event: Event) -> str:
    try:
        return datetime.fromtimestamp(event.timestamp_ms / 1000, UTC).isoformat()
    except (ValueError, OverflowError, OSError):  # in a frame of another program
        return describe(event.timestamp_ms)


@dataclass(slots=True)
class Settled:
    """The progress of a replay or a purge: letters that matched, others, and those that other processes hold."""

    matched: int = 0
    others: int = 0
    missed: int = 0


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Selects dead letters; None or an empty tuple matches all. Times are unix microseconds."""

    ids: tuple[str, ...] = ()  # or their first characters
    reason: str | None = None
    event_name: str | None = None
    since_us: int | None = None
    until_us: int | None = None

    def matches(self, letter: DeadLetter) -> bool:
        died_at_us = letter.died_at_ms * 1000
        return (
            (not self.ids or any(letter.id.startswith(start) for start in self.ids))
            and self.reason in (None, letter.record.reason)
            and (self.since_us is None or died_at_us >= self.since_us)
            and (self.until_us is None or died_at_us <= self.until_us)
            and (self.event_name is None or any(event.event_name == self.event_name for event in letter.events))
        )


def parse_filter(
    ids: Sequence[str] | None, reason: str | None, event_name: str | None, since: str | None, until: str | None
) -> DeadLetterFilter:
    """Return the filter that these texts describe. Raise InvalidQuery."""
    if any(len(start) < MIN_ID for start in ids or ()):
        raise InvalidQuery(f"an id has at least {MIN_ID} characters: `eventmill dead list` shows them", "id")
    reason = frames.FORMER_REASONS.get(reason or "", reason)
    if reason not in (None, *REASONS):
        raise InvalidQuery(f"reason: {reason[:64]!r} is not one of {', '.join(REASONS)}", "reason")
    since_us, until_us = _parse_bound("since", since), _parse_bound("until", until)
    return DeadLetterFilter(tuple(ids or ()), reason, event_name, since_us, until_us)


def _parse_bound(name: str, text: str | None) -> int | None:
    try:
        return None if text is None else parse_time(text)
    except ValueError:
        raise InvalidQuery(f"{name}: {text!r} is neither unix seconds nor RFC 3339", name) from None


@dataclass(slots=True)
class Found:
    """The result of reading all dead letters.

    Attributes:
        letters: the oldest ones that match, as many as were wanted.
        reasons: how many match, by reason.
        newest_ms: when the newest of them died, unix milliseconds.
        missed: letters that could not be read, because other processes hold their leases.
    """

    letters: list[DeadLetter] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    newest_ms: int = 0
    missed: int = 0


async def find(queue: Queue, wanted: DeadLetterFilter, limit: int) -> Found:
    """Read all dead letters, and return those that match."""
    found = Found()
    async with Pager(queue.dead) as pager:
        async for page in pager.pages():
            matching = await asyncio.to_thread(_choose, page, wanted)  # decoding events takes long
            found.reasons.update(letter.record.reason for letter in matching)
            found.newest_ms = max([found.newest_ms, *(letter.died_at_ms for letter in matching)])
            found.letters = sorted(found.letters + matching, key=lambda letter: letter.died_at_ms)[:limit]
        found.missed = pager.missed
    return found


def _choose(page: Sequence[Delivery], wanted: DeadLetterFilter) -> list[DeadLetter]:
    return [letter for letter in map(DeadLetter.read, page) if wanted.matches(letter)]


async def sample(queue: Queue, limit: int) -> Found:
    """Return dead letters in any order, hardly more than the limit."""
    found = Found()
    async with Pager(queue.dead) as pager:
        async for page in pager.pages():
            found.letters += map(DeadLetter.read, page)
            if len(found.letters) >= limit:
                break
        found.missed = pager.missed
    return found


@dataclass(slots=True)
class Forgotten:
    """What became of a user in dead letters: the removed events, and letters that could not be read or were missed."""

    events: int = 0
    unreadable: int = 0
    missed: int = 0


async def forget_user(queue: Queue, project: str, user_id: str) -> Forgotten:
    """Remove the user's events from all dead letters; a letter with other events is published again without them.

    Raise QueueUnavailable; some letters may be done then.
    """
    forgotten = Forgotten()
    async with Pager(queue.dead) as pager:
        async for page in pager.pages():
            for letter in await asyncio.to_thread(_choose, page, DeadLetterFilter()):
                try:
                    events = frames.decode_frame(letter.record.body)
                except (UndecodableMessage, UnknownFrameVersion):
                    forgotten.unreadable += 1
                    continue
                rest = [line for event, line in events if (event.project, event.user_id) != (project, user_id)]
                if len(rest) < len(events):
                    await _replace(queue, letter, rest)
                    await pager.ack([letter.delivery])
                    forgotten.events += len(events) - len(rest)
        forgotten.missed = pager.missed
    return forgotten


async def _replace(queue: Queue, letter: DeadLetter, lines: Sequence[bytes]) -> None:
    """Publish the dead letter again with only these lines, if there are any."""
    if lines:
        record = msgspec.structs.replace(letter.record, body=frames.encode_frame(lines))
        await queue.dead.publish([frames.encode_dead(record)], time.monotonic() + PUBLISH_SECONDS)


async def settle(
    queue: Queue, wanted: DeadLetterFilter, *, replay: bool, dry_run: bool
) -> AsyncGenerator[Settled, None]:
    """Remove the matching dead letters, after publishing their bodies again with `replay`.

    Yield the progress after each page, and once more at the end. A replay never counts an event twice, since the events
    keep their identities. Raise QueueUnavailable.
    """
    progress = Settled()
    async with Pager(queue.dead) as pager:
        async for page in pager.pages():
            letters = await asyncio.to_thread(_choose, page, wanted)
            chosen = [letter for letter in letters if not (replay and letter.is_newer)]
            if chosen and not dry_run:
                if replay:
                    bodies = [letter.record.body for letter in chosen]
                    await queue.publish(bodies, time.monotonic() + PUBLISH_SECONDS)
                await pager.ack([letter.delivery for letter in chosen])
            progress.matched += len(chosen)
            progress.others += len(page) - len(chosen)
            yield progress
        progress.missed = pager.missed
    yield progress
