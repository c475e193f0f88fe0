"""eventmill dead: list, show, replay and purge dead letters."""

import asyncio
import json
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from eventmill.cli.output import print_table
from eventmill.consumer import letters
from eventmill.consumer.letters import DeadLetter, DeadLetterFilter
from eventmill.errors import ConfigurationError
from eventmill.frames import FORMER_REASONS
from eventmill.interfaces import Queue
from eventmill.runtime.backends import choose_existing
from eventmill.runtime.logs import start_log
from eventmill.settings import Settings, load
from eventmill.times import parse_time

MIN_ID = 4
REASONS = ("rejected", "undecodable", "poison", "moved", letters.NEWER)
_COLUMNS = ("id", "died_at", "reason", "code", "attempts", "events", "event_names", "message")


def parse_filter(
    ids: list[str] | None, reason: str | None, event_name: str | None, since: str | None, until: str | None
) -> DeadLetterFilter:
    """Return the filter that the options describe. Raise ConfigurationError."""
    if any(len(start) < MIN_ID for start in ids or ()):
        raise ConfigurationError(f"an id has at least {MIN_ID} characters: `eventmill dead list` shows them")
    reason = FORMER_REASONS.get(reason or "", reason)
    if reason not in (None, *REASONS):
        raise ConfigurationError(f"--reason: {reason!r} is not one of {', '.join(REASONS)}")
    since_us, until_us = _parse_option("since", since), _parse_option("until", until)
    return DeadLetterFilter(tuple(ids or ()), reason, event_name, since_us, until_us)


def _parse_option(name: str, text: str | None) -> int | None:
    try:
        return None if text is None else parse_time(text)
    except ValueError:
        raise ConfigurationError(f"--{name}: {text!r} is neither unix seconds nor RFC 3339") from None


def show_list(wanted: DeadLetterFilter, data: Path | None, *, as_json: bool, limit: int) -> None:
    summaries = [letter.summary() for letter in asyncio.run(_find(wanted, data))[:limit]]
    if as_json:
        for summary in summaries:
            sys.stdout.write(json.dumps(summary) + "\n")
    else:
        print_table(_COLUMNS, [[_cell(summary[column]) for column in _COLUMNS] for summary in summaries])


def show_one(wanted: DeadLetterFilter, data: Path | None) -> None:
    found = asyncio.run(_find(wanted, data))
    if not found:
        raise ConfigurationError(f"there is no dead letter {wanted.ids[0]}: `eventmill dead list` shows them")
    for letter in found:
        sys.stdout.write(json.dumps(letter.content(), indent=2) + "\n")


def settle(wanted: DeadLetterFilter, data: Path | None, *, replay: bool, dry_run: bool) -> None:
    count, others = asyncio.run(_settle(wanted, data, replay=replay, dry_run=dry_run))
    done = ("would be " if dry_run else "") + ("replayed" if replay else "purged")
    sys.stdout.write(f"{count} dead letters {done}, {others} others left\n")


async def _settle(wanted: DeadLetterFilter, data: Path | None, *, replay: bool, dry_run: bool) -> tuple[int, int]:
    count = others = 0
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("dead letters", total=None)
        async with _open(data) as queue:
            async for chosen, rest in letters.settle(queue, wanted, replay=replay, dry_run=dry_run):
                count, others = count + chosen, others + rest
                progress.update(task, advance=chosen + rest)
    return count, others


async def _find(wanted: DeadLetterFilter, data: Path | None) -> list[DeadLetter]:
    async with _open(data) as queue:
        return await letters.find(queue, wanted)


def _open(data: Path | None) -> AbstractAsyncContextManager[Queue]:
    settings = load(Settings)
    start_log(settings.log_level)
    return choose_existing(settings, data).queue.open()


def _cell(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else " ".join(str(value).split())
