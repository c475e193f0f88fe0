"""eventmill crashtest: prove on one's own backends that nothing is lost and nothing is counted twice."""

import asyncio
import json
import logging
import random
import signal
import sys
import tempfile
import time
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from rich.console import Console

from eventmill.cli.backends import Choice, Chosen, choose, embedded
from eventmill.cli.ledger import Ledger
from eventmill.cli.outages import OUTAGE_SECONDS, Outages
from eventmill.cli.output import print_table, start_log
from eventmill.cli.stack import Stack
from eventmill.errors import ConfigurationError, QueueUnavailable
from eventmill.interfaces import Queue
from eventmill.settings import Settings, is_set, load

log = logging.getLogger(__name__)

LEASE_SECONDS = 5
CALM_SECONDS = (1.0, 15.0)  # between two crashes or outages; in a short test less
PATIENCE_SECONDS = 120.0  # for the backlog to drain in the end, besides the leases
CLEAN_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to the programs, and for how long."""

    seconds: float
    rate: float
    kill9: bool

    @property
    def calm_seconds(self) -> float:
        """A random pause between two crashes."""
        return random.uniform(CALM_SECONDS[0], min(CALM_SECONDS[1], max(4.0, self.seconds / 40)))

    @property
    def longest_outage_seconds(self) -> float:
        return min(OUTAGE_SECONDS[1], max(1.0, self.seconds / 8))


def crashtest(
    *,
    seconds: float,
    rate: float,
    kill9: bool,
    queue: str | None,
    store: str | None,
    outage_command: str | None,
    as_json: bool,
) -> None:
    """Run it; exit 1 when anything was lost or doubled."""
    # SIGTERM is a Ctrl-C, which raises KeyboardInterrupt, and cancels what runs in a loop. A shell may ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    with tempfile.TemporaryDirectory(prefix="eventmill-crashtest-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        settings = load(Settings, queue=queue, store=store)
        start_log("error" if settings.log_level == "info" else settings.log_level)
        choice = _choose(settings, folder, kill9=kill9)
        outages = Outages(outage_command, folder) if outage_command is not None else None
        ledger = Ledger(f"crashtest-{uuid4().hex[:12]}", needs_outage=outages is not None)
        try:
            asyncio.run(_test(choice, ledger, folder, Plan(seconds, rate, kill9), outages))
        finally:
            if outages:
                outages.start()
    _report(ledger, as_json=as_json)
    sys.exit(0 if ledger.is_good else 1)


def _choose(settings: Settings, folder: Path, *, kill9: bool) -> Choice:
    """The backends, with a short lease unless the user sets one: what a killed consumer held comes after the lease."""
    near, far = embedded(folder)
    choice = choose(settings, queue=near, store=far)
    if kill9 and "memory" in (choice.queue.backend.name, choice.need_store().backend.name):
        raise ConfigurationError("--kill9 on memory would lose events as it should: choose other backends")
    chosen = choice.queue.settings
    if "lease_seconds" not in type(chosen).model_fields or is_set(type(chosen), "lease_seconds"):
        return choice
    short = chosen.model_copy(update={"lease_seconds": LEASE_SECONDS})
    return replace(choice, queue=replace(choice.queue, settings=short))


def _report(ledger: Ledger, *, as_json: bool) -> None:
    figures = ledger.verdict()
    if as_json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        print_table(("figure", "events"), [(name, str(number)) for name, number in figures.items()])
        print_table(("", ""), [("verdict", "nothing lost, nothing doubled" if ledger.is_good else "FAILED")])


async def _test(choice: Choice, ledger: Ledger, folder: Path, plan: Plan, outages: Outages | None) -> None:
    console = Console(stderr=True, quiet=not sys.stderr.isatty())
    async with AsyncExitStack() as opened:
        queue: Queue | None = None
        if choice.queue.settings.reach != "process":
            queue = await opened.enter_async_context(choice.queue.open())
            _announce(queue.lease_seconds)
        async with AsyncExitStack() as running:
            if outages is not None:
                await running.enter_async_context(outages)
            stack = await running.enter_async_context(Stack(choice, _environment(choice, ledger), folder))
            opened.push_async_callback(_clean, choice, queue, ledger)  # once the programs have ended
            with console.status(f"posting {plan.rate:g} events/s for {plan.seconds:g} s, with crashes"):
                await _trouble(stack, ledger, queue, plan, outages)
            with console.status("draining"):
                await stack.revive()
                await _drain(stack, queue)
                await stack.stop()
        async with choice.need_store().open() as store:
            await ledger.compare(store)


def _announce(lease_seconds: float) -> None:
    if lease_seconds > LEASE_SECONDS:
        sys.stderr.write(
            f"eventmill: the lease is set to {lease_seconds:g} s: in the end messages that a consumer held when it"
            " crashed may take so long to come again\n"
        )


def _environment(choice: Choice, ledger: Ledger) -> Mapping[str, str]:
    """The variables that the programs of the stack get, besides those that are there."""
    needed = {
        "EVENTMILL_PROJECT": ledger.run,
        "EVENTMILL_SHUTDOWN_DELAY_SECONDS": "0",
        "EVENTMILL_BATCH_SECONDS": "0.2",
    }
    chosen: tuple[Chosen[Any], ...] = (choice.queue, choice.need_store())
    for each in chosen:
        needed |= each.environment()
    return needed


async def _trouble(stack: Stack, ledger: Ledger, queue: Queue | None, plan: Plan, outages: Outages | None) -> None:
    """Post events, and let programs crash and servers fail meanwhile."""
    posting = asyncio.create_task(_post(stack, ledger, queue, plan))
    troubles: list[Coroutine[Any, Any, None]] = [_crash(stack, ledger, posting, plan)]
    if outages is not None:
        troubles.append(_fail(outages, ledger, posting, plan))
    tasks = [posting, *map(asyncio.create_task, troubles)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _post(stack: Stack, ledger: Ledger, queue: Queue | None, plan: Plan) -> None:
    """Post numbered events at a steady rate, and now and then put poison into the queue."""
    started, number = time.monotonic(), 0
    async with asyncio.TaskGroup() as posts:
        while time.monotonic() - started < plan.seconds:
            posts.create_task(_post_one(stack, ledger, number))
            number += 1
            if queue is not None and number % 100 == 0:
                posts.create_task(_poison(queue, ledger, number))
            await asyncio.sleep(max(0.0, started + number / plan.rate - time.monotonic()))


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
    if await stack.post(ledger.event(event_id)):
        ledger.accepted.add(event_id)


async def _crash(stack: Stack, ledger: Ledger, posting: asyncio.Task[None], plan: Plan) -> None:
    """End one of the programs now and then, and start it again, for as long as events are posted."""
    while not (await asyncio.wait([posting], timeout=plan.calm_seconds))[0]:
        await stack.crash(kill9=plan.kill9)
        ledger.crashes += 1


async def _fail(outages: Outages, ledger: Ledger, posting: asyncio.Task[None], plan: Plan) -> None:
    """Stop the servers now and then, and start them again, for as long as events are posted."""
    while not (await asyncio.wait([posting], timeout=plan.calm_seconds))[0]:
        await outages.cause_one(plan.longest_outage_seconds)
        ledger.outages += 1


async def _drain(stack: Stack, queue: Queue | None) -> None:
    """Wait until nothing is left in the queue. Leaving empties one that lives in the process."""
    if queue is None:
        return
    patience = PATIENCE_SECONDS + queue.lease_seconds
    until, empty = time.monotonic() + patience, 0
    while empty < 3:
        if time.monotonic() > until:
            log.error("the queue is not empty after %.0f s", patience)
            return
        await stack.revive()
        empty = empty + 1 if await _is_empty(queue) else 0
        await asyncio.sleep(0.5)


async def _is_empty(queue: Queue) -> bool:
    """Whether nothing is left; servers that have just been started may need a while to answer."""
    try:
        depth = await queue.depth()
    except QueueUnavailable as error:
        log.info("the queue is away: %s", error)
        return False
    return not depth.ready and not depth.in_flight


async def _clean(choice: Choice, queue: Queue | None, ledger: Ledger) -> None:
    """Remove what the test wrote: its events, its dead letters, and after an early end its messages."""
    lease_seconds = queue.lease_seconds if queue is not None else 0.0
    try:
        async with asyncio.timeout(CLEAN_SECONDS + lease_seconds):
            if queue is not None:
                await _remove(queue, ledger, dead=False)
                await _remove(queue.dead, ledger, dead=True)
            async with choice.need_store().open() as store:
                await ledger.erase(store)
    except Exception as error:
        log.error("cannot remove what the test wrote, its project is %s: %r", ledger.run, error)


async def _remove(queue: Queue, ledger: Ledger, *, dead: bool) -> None:
    """Remove the run's messages, also those that a killed program held, once their leases have ended."""
    until = time.monotonic() + queue.lease_seconds + 2
    while True:
        await ledger.remove(queue, dead=dead)
        if time.monotonic() > until or await _is_empty(queue):
            return
        await asyncio.sleep(1)
