"""eventmill crashtest: prove on one's own backends that nothing is lost and nothing is counted twice."""

import asyncio
import json
import logging
import random
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from rich.console import Console

from eventmill import frames
from eventmill.answers import pages
from eventmill.cli.backends import Choice, choose, embedded
from eventmill.cli.output import print_table, start_log
from eventmill.cli.stack import Stack
from eventmill.errors import ConfigurationError, UndecodableMessage, UnknownFrameVersion
from eventmill.event import MAX_TIME_MS, MIN_TIME_MS
from eventmill.interfaces import Queue, Store
from eventmill.query import EventFilter, MetricsQuery
from eventmill.settings import Settings, load

log = logging.getLogger(__name__)

USER_ID = "crashtest"
EVENT_NAME = "crashtest"
CHANNELS = 7  # by the event's number
LEASE_SECONDS = 5
CALM_SECONDS = (1.0, 15.0)  # between two crashes; in a short test less
PATIENCE_SECONDS = 120.0  # for the backlog to drain in the end
FAULTS = ("lost", "doubled", "unexpected", "altered", "dead_events", "poison_missing")


@dataclass(slots=True)
class Ledger:
    """What was sent, and what became of it."""

    run: str
    attempted: set[str] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)
    altered: int = 0  # stored with other contents than were sent
    counted: int = 0  # by the store's own metrics
    poison: set[bytes] = field(default_factory=set)  # that was sent
    confirmed_poison: set[bytes] = field(default_factory=set)
    dead_poison: set[bytes] = field(default_factory=set)
    dead_events: int = 0
    crashes: int = 0

    def verdict(self) -> dict[str, int]:
        """The figures; the last six must be 0."""
        return {
            "attempted": len(self.attempted),
            "accepted": len(self.accepted),
            "stored": len(self.stored),
            "crashes": self.crashes,
            "poison": len(self.confirmed_poison),
            "dead": len(self.dead_poison) + self.dead_events,
            "lost": len(self.accepted - self.stored),
            "doubled": self.counted - len(self.stored),
            "unexpected": len(self.stored - self.attempted),
            "altered": self.altered,
            "dead_events": self.dead_events,
            "poison_missing": len(self.confirmed_poison - self.dead_poison) + len(self.dead_poison - self.poison),
        }

    @property
    def is_good(self) -> bool:
        figures = self.verdict()
        faults = (figures[name] for name in FAULTS)
        # Where nothing was accepted or nothing crashed, nothing was proved.
        return bool(self.accepted and self.crashes) and not any(faults)


def crashtest(*, seconds: float, rate: float, kill9: bool, queue: str | None, store: str | None, as_json: bool) -> None:
    """Run it; exit 1 when anything was lost or doubled."""
    with tempfile.TemporaryDirectory(prefix="eventmill-crashtest-") as folder:
        settings = load(Settings, queue=queue, store=store)
        start_log("error" if settings.log_level == "info" else settings.log_level)
        near, far = embedded(Path(folder))
        near.settings["lease_seconds"] = LEASE_SECONDS
        choice = choose(settings, queue=near, store=far)
        if kill9 and "memory" in (choice.queue.backend.name, choice.need_store().backend.name):
            raise ConfigurationError("--kill9 on memory would lose events as it should: choose other backends")
        ledger = Ledger(f"crashtest-{uuid4().hex[:12]}")
        try:
            asyncio.run(_test(choice, ledger, Path(folder), seconds, rate, kill9=kill9))
        except asyncio.CancelledError:
            sys.exit(130)  # told to end: so were the programs it had started
    figures = ledger.verdict()
    if as_json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        print_table(("figure", "events"), [(name, str(number)) for name, number in figures.items()])
        print_table(("", ""), [("verdict", "nothing lost, nothing doubled" if ledger.is_good else "FAILED")])
    sys.exit(0 if ledger.is_good else 1)


async def _test(choice: Choice, ledger: Ledger, folder: Path, seconds: float, rate: float, *, kill9: bool) -> None:
    this = asyncio.current_task()
    assert this is not None  # noqa: S101 (a coroutine runs in a task)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    console = Console(stderr=True, quiet=not sys.stderr.isatty())
    async with AsyncExitStack() as opened:
        stack = await opened.enter_async_context(Stack(choice, _environment(choice, ledger, folder), folder))
        queue: Queue | None = None
        if choice.queue.settings.reach != "process":
            queue = await opened.enter_async_context(choice.queue.open())
        with console.status(f"posting {rate:g} events/s for {seconds:g} s, with crashes"):
            posting = asyncio.create_task(_post(stack, ledger, queue, seconds, rate))
            try:
                await _crash(stack, ledger, posting, min(CALM_SECONDS[1], max(4.0, seconds / 40)), kill9=kill9)
                await posting
            finally:
                posting.cancel()
                await asyncio.gather(posting, return_exceptions=True)
        with console.status("draining"):
            await stack.revive()
            await _drain(stack, queue)
            await stack.stop()
        async with choice.need_store().open() as store:
            await _compare(store, queue, ledger)


def _environment(choice: Choice, ledger: Ledger, folder: Path) -> Mapping[str, str]:
    """What the programs of the stack get, besides the settings that are there."""
    needed = {
        "EVENTMILL_PROJECT": ledger.run,
        "EVENTMILL_QUEUE": choice.queue.backend.name,
        "EVENTMILL_STORE": choice.need_store().backend.name,
        "EVENTMILL_SHUTDOWN_DELAY_SECONDS": "0",
        "EVENTMILL_BATCH_SECONDS": "0.2",
    }
    for chosen in (choice.queue, choice.need_store()):
        prefix = chosen.settings.model_config.get("env_prefix", "")
        for name, value in chosen.settings.model_dump(exclude_unset=True).items():
            if type(chosen.settings).model_fields[name].validation_alias is None:
                plain = value.get_secret_value() if hasattr(value, "get_secret_value") else value
                needed[f"{prefix}{name}".upper()] = str(plain)
    return needed


async def _post(stack: Stack, ledger: Ledger, queue: Queue | None, seconds: float, rate: float) -> None:
    """Post numbered events at a steady rate, and now and then put poison into the queue."""
    started, number = time.monotonic(), 0
    async with asyncio.TaskGroup() as posts:
        while time.monotonic() - started < seconds:
            posts.create_task(_post_one(stack, ledger, number))
            number += 1
            if queue is not None and number % 100 == 0:
                await _poison(queue, ledger, number)
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))


async def _poison(queue: Queue, ledger: Ledger, number: int) -> None:
    body = f"{ledger.run} poison {number}".encode()
    ledger.poison.add(body)
    try:
        await queue.publish([body], time.monotonic() + 5)
        ledger.confirmed_poison.add(body)
    except Exception as error:
        log.info("the poison was not confirmed: %s", error)


async def _post_one(stack: Stack, ledger: Ledger, number: int) -> None:
    event_id = f"{ledger.run}-{number}"
    ledger.attempted.add(event_id)
    event = {"event_name": EVENT_NAME, "user_id": USER_ID, "event_id": event_id, "timestamp": int(time.time())}
    if await stack.post(event | _contents(event_id)):
        ledger.accepted.add(event_id)


def _contents(event_id: str) -> dict[str, Any]:
    """What an event of this id holds: derived from the id, so that it can be checked once it is stored."""
    return {"channel": f"channel {int(event_id.rpartition('-')[2]) % CHANNELS}", "metadata": {"id": event_id}}


async def _crash(stack: Stack, ledger: Ledger, posting: asyncio.Task[None], longest: float, *, kill9: bool) -> None:
    """End one of the programs now and then, and start it again, for as long as events are posted."""
    while not (await asyncio.wait([posting], timeout=random.uniform(CALM_SECONDS[0], longest)))[0]:
        await stack.crash(kill9=kill9)
        ledger.crashes += 1


async def _drain(stack: Stack, queue: Queue | None) -> None:
    """Wait until nothing is left in the queue. Leaving empties one that lives in the process."""
    if queue is None:
        return
    until, empty = time.monotonic() + PATIENCE_SECONDS, 0
    while empty < 3:
        if time.monotonic() > until:
            log.error("the queue is not empty after %.0f s", PATIENCE_SECONDS)
            return
        await stack.revive()
        depth = await queue.depth()
        empty = empty + 1 if not depth.ready and not depth.in_flight else 0
        await asyncio.sleep(0.5)


async def _compare(store: Store, queue: Queue | None, ledger: Ledger) -> None:
    """Read everything back, count it as a user would, and clean up."""
    span = (MIN_TIME_MS, MAX_TIME_MS + 1)
    async for page in pages(store, EventFilter(ledger.run, *span)):
        ledger.stored |= {event.event_id for event in page}
        ledger.altered += sum(
            _contents(event.event_id) != {"channel": event.channel, "metadata": json.loads(bytes(event.metadata))}
            for event in page
        )
    ledger.counted = (await store.metrics(MetricsQuery(ledger.run, EVENT_NAME, *span))).total_count
    await store.erase(ledger.run, USER_ID, MAX_TIME_MS)
    while queue is not None and (deliveries := await queue.dead.receive(100, 1)):
        ours = [delivery for delivery in deliveries if _is_ours(delivery.body, ledger)]
        await queue.dead.ack(ours)
        # Those of others are given back only after a while, so that this comes to an end.
        await queue.dead.release([delivery for delivery in deliveries if delivery not in ours], 30)


def _is_ours(body: bytes, ledger: Ledger) -> bool:
    """Count a dead letter of this run; others are left alone."""
    record = frames.decode_dead(body)
    if record.body.startswith(f"{ledger.run} poison".encode()):
        ledger.dead_poison.add(record.body)
        return True
    try:
        events = [event for event, _ in frames.decode_frame(record.body) if event.project == ledger.run]
    except (UndecodableMessage, UnknownFrameVersion):
        return False
    ledger.dead_events += len(events)
    return bool(events)
