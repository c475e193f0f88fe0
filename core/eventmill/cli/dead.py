"""eventmill dead: look at dead letters, send them again, or remove them."""

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from eventmill import frames
from eventmill.cli.backends import choose_existing
from eventmill.cli.output import print_table, start_log
from eventmill.cli.paging import Pager
from eventmill.errors import ConfigurationError, UndecodableMessage, UnknownFrameVersion
from eventmill.event import Event
from eventmill.interfaces import Delivery
from eventmill.settings import Settings, load
from eventmill.times import describe, parse_time

MIN_ID = 4
PUBLISH_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as it lies in the queue, and what is in it."""

    delivery: Delivery
    record: frames.DeadRecord

    @property
    def id(self) -> str:
        return blake2b(self.delivery.body, digest_size=6).hexdigest()

    @property
    def died_at_ms(self) -> int:
        return self.record.died_at_ms or self.delivery.enqueued_at_ms

    @property
    def events(self) -> list[Event]:
        """What the body holds; nothing when it is no frame."""
        try:
            return [event for event, _ in frames.decode_frame(self.record.body)]
        except (UndecodableMessage, UnknownFrameVersion):
            return []

    def summary(self) -> dict[str, Any]:
        events = self.events
        return {
            "id": self.id,
            "died_at": describe(self.died_at_ms),
            "reason": self.record.reason,
            "code": self.record.code,
            "attempts": self.record.attempts or None,  # of what was moved nobody knows
            "events": len(events),
            "event_names": sorted({event.event_name for event in events}),
            "message": self.record.message,
        }


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters are meant; what is None or empty does not matter."""

    ids: tuple[str, ...] = ()
    reason: str | None = None
    event_name: str | None = None
    since: str | None = None
    until: str | None = None

    def __post_init__(self) -> None:
        if any(len(wanted) < MIN_ID for wanted in self.ids):
            raise ConfigurationError(f"an id has at least {MIN_ID} characters: `eventmill dead list` shows them")
        for name in ("since", "until"):
            if (text := getattr(self, name)) is not None:
                try:
                    parse_time(text)
                except ValueError:
                    raise ConfigurationError(f"--{name}: {text!r} is neither unix seconds nor RFC 3339") from None

    def matches(self, letter: Letter) -> bool:
        died_at_us = letter.died_at_ms * 1000
        return (
            (not self.ids or any(letter.id.startswith(wanted) for wanted in self.ids))
            and self.reason in (None, letter.record.reason)
            and (self.since is None or died_at_us >= parse_time(self.since))
            and (self.until is None or died_at_us <= parse_time(self.until))
            and (self.event_name is None or any(event.event_name == self.event_name for event in letter.events))
        )


def show_list(wanted: Filter, data: Path | None, *, as_json: bool, limit: int) -> None:
    """List the letters, the oldest first."""
    letters = asyncio.run(_collect(wanted, data))[:limit]
    if as_json:
        for letter in letters:
            sys.stdout.write(json.dumps(letter.summary()) + "\n")
        return
    columns = ("id", "died_at", "reason", "code", "attempts", "events", "event_names", "message")
    rows = [[_cell(letter.summary()[column]) for column in columns] for letter in letters]
    print_table(columns, rows)


def show_one(id: str, data: Path | None) -> None:
    """Print one letter whole, as JSON."""
    letters = asyncio.run(_collect(Filter(ids=(id,)), data))
    if not letters:
        raise ConfigurationError(f"there is no dead letter {id}: `eventmill dead list` shows them")
    for letter in letters:
        body = letter.record.body
        content: dict[str, Any] = letter.summary() | {
            "origin": letter.record.origin,
            "enqueued_at": describe(letter.record.enqueued_at_ms or letter.delivery.enqueued_at_ms),
            "events": [_fields(event) for event in letter.events],
        }
        if not letter.events:
            content["body"] = body.decode(errors="backslashreplace")
        sys.stdout.write(json.dumps(content, indent=2) + "\n")


def replay(wanted: Filter, data: Path | None, *, dry_run: bool) -> None:
    """Put the letters back into the queue. Identities stay, so nothing can be counted twice."""
    _act("replayed", wanted, data, dry_run=dry_run, again=True)


def purge(wanted: Filter, data: Path | None, *, dry_run: bool) -> None:
    """Remove the letters for good."""
    _act("purged", wanted, data, dry_run=dry_run, again=False)


def _act(done: str, wanted: Filter, data: Path | None, *, dry_run: bool, again: bool) -> None:
    count, left = asyncio.run(_work(wanted, data, dry_run=dry_run, again=again))
    would = "would be " if dry_run else ""
    sys.stdout.write(f"{count} dead letters {would}{done}, {left} others left\n")


async def _work(wanted: Filter, data: Path | None, *, dry_run: bool, again: bool) -> tuple[int, int]:
    count = left = 0
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("dead letters", total=None)
        async with _open(data) as queue, Pager(queue.dead) as pager:
            async for page in pager.pages():
                chosen = [letter for letter in map(_read, page) if wanted.matches(letter)]
                if chosen and not dry_run:
                    if again:
                        bodies = [letter.record.body for letter in chosen]
                        await queue.publish(bodies, time.monotonic() + PUBLISH_SECONDS)
                    await pager.ack([letter.delivery for letter in chosen])
                count, left = count + len(chosen), left + len(page) - len(chosen)
                progress.update(task, advance=len(page))
    return count, left


async def _collect(wanted: Filter, data: Path | None) -> list[Letter]:
    async with _open(data) as queue, Pager(queue.dead) as pager:
        letters = [letter async for page in pager.pages() for letter in map(_read, page) if wanted.matches(letter)]
    return sorted(letters, key=lambda letter: letter.died_at_ms)


def _read(delivery: Delivery) -> Letter:
    return Letter(delivery, frames.decode_dead(delivery.body))


def _open(data: Path | None) -> Any:
    settings = load(Settings)
    start_log(settings.log_level)
    return choose_existing(settings, data).queue.open()


def _fields(event: Event) -> dict[str, Any]:
    seconds = event.timestamp_ms / 1000
    return {
        "event_name": event.event_name,
        "timestamp": datetime.fromtimestamp(seconds, UTC).isoformat(),
        "event_id": event.event_id,
        "channel": event.channel,
        "user_id": event.user_id,
        "campaign_id": event.campaign_id,
        "tags": list(event.tags),
        "metadata": json.loads(bytes(event.metadata)),
    }


def _cell(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else " ".join(str(value).split())
