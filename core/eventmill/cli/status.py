"""eventmill status: the backlog, the dead letters and the newest event."""

import asyncio
import dataclasses
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from eventmill.api.status import Status, Watch
from eventmill.cli.output import print_table
from eventmill.errors import ConfigurationError
from eventmill.interfaces import Store
from eventmill.runtime.backends import Choice, choose_existing
from eventmill.runtime.logs import start_log
from eventmill.settings import Settings, load
from eventmill.times import describe


def show(data: Path | None, *, as_json: bool, seconds: float) -> None:
    """Print the status, with the rate at which the backlog changed within `seconds`."""
    settings = load(Settings)
    start_log(settings.log_level)
    status = asyncio.run(_watch(choose_existing(settings, data), settings.project, seconds))
    if as_json:
        sys.stdout.write(json.dumps(dataclasses.asdict(status)) + "\n")
    else:
        print_table(("figure", "value"), _rows(status))
    if status.ready is status.dead is None:
        sys.exit(1)


async def _watch(choice: Choice, project: str, seconds: float) -> Status:
    async with AsyncExitStack() as stack:
        queue = await stack.enter_async_context(choice.queue.open())
        store: Store | None = None
        if choice.store is not None:
            try:
                store = await stack.enter_async_context(choice.store.open())
            except ConfigurationError as error:  # for example, another process uses the chDB folder
                sys.stderr.write(f"the status does not include the store: {error}\n")
        watch = Watch(queue, store, project)
        await watch.status()
        await asyncio.sleep(seconds)
        return await watch.status()


def _rows(status: Status) -> list[tuple[str, str]]:
    unknown = "unknown"
    rate, left = status.drained_per_second, status.drained_in_seconds
    age, newest = status.oldest_age_seconds, status.newest_event_ms
    return [
        ("messages ready", unknown if status.ready is None else str(status.ready)),
        ("messages in flight", unknown if status.in_flight is None else str(status.in_flight)),
        ("age of the oldest", unknown if age is None else f"{age:.0f} s"),
        ("backlog drained", unknown if rate is None else f"{rate:.1f} messages/s"),
        ("empty in", "unknown, it does not shrink" if left is None else f"{left:.0f} s"),
        ("dead letters", unknown if status.dead is None else str(status.dead)),
        ("newest event stored", unknown if newest is None else describe(newest)),
    ]
