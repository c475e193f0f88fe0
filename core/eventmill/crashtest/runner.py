"""One run: post events, cause crashes and outages meanwhile, drain the queue, and compare the store with the ledger."""

import asyncio
import logging
import os
import random
import sys
import time
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from eventmill.crashtest.cleanup import clean, drain
from eventmill.crashtest.ledger import Ledger
from eventmill.crashtest.outages import OUTAGE_SECONDS, Outages
from eventmill.crashtest.stack import Stack
from eventmill.interfaces import Queue
from eventmill.runtime.backends import Choice, Chosen

log = logging.getLogger(__name__)

LEASE_SECONDS = 5
PAUSE_SECONDS = (1.0, 15.0)  # between two crashes or outages; less in a short run


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does to the deployment, and for how long."""

    seconds: float
    rate: float
    kill9: bool

    @property
    def pause_seconds(self) -> float:
        """A random pause between two crashes."""
        return random.uniform(PAUSE_SECONDS[0], min(PAUSE_SECONDS[1], max(4.0, self.seconds / 40)))

    @property
    def max_outage_seconds(self) -> float:
        return min(OUTAGE_SECONDS[1], max(1.0, self.seconds / 8))


async def run(choice: Choice, ledger: Ledger, folder: Path, plan: Plan, outages: Outages | None) -> None:
    """Run the plan, and record in the ledger what became of every event."""
    console = Console(stderr=True, quiet=not sys.stderr.isatty())
    async with AsyncExitStack() as opened:
        queue: Queue | None = None
        if choice.queue.settings.reach != "process":
            queue = await opened.enter_async_context(choice.queue.open())
            _warn_of_long_lease(queue.lease_seconds)
        async with AsyncExitStack() as running:
            if outages is not None:
                await running.enter_async_context(outages)
            stack = await running.enter_async_context(Stack(choice, _environment(choice, ledger), folder))
            opened.push_async_callback(clean, choice, queue, ledger)  # runs after the programs have ended
            with console.status(f"posting {plan.rate:g} events/s for {plan.seconds:g} s, with crashes"):
                await _disturb(stack, ledger, queue, plan, outages)
            with console.status("draining"):
                await stack.revive()
                await drain(stack, queue)
                await stack.stop()
        async with choice.require_store().open() as store:
            await ledger.compare(store)


def _warn_of_long_lease(lease_seconds: float) -> None:
    if lease_seconds > LEASE_SECONDS:
        sys.stderr.write(
            f"eventmill: the lease is {lease_seconds:g} s, so draining may take as long: messages that a crashed"
            " consumer held are delivered again only after their lease\n"
        )


def _environment(choice: Choice, ledger: Ledger) -> Mapping[str, str]:
    """Return the variables that the programs need in addition to those of this process."""
    needed = {
        "EVENTMILL_PROJECT": ledger.run,
        "EVENTMILL_SHUTDOWN_DELAY_SECONDS": "0",
        # On a loopback address of its own, without the keys of the deployment.
        "EVENTMILL_ANONYMOUS": "true",
        "EVENTMILL_KEYS": "[]",
        "EVENTMILL_KEYS_FILE": os.devnull,
        "EVENTMILL_BATCH_SECONDS": "0.2",
        "EVENTMILL_OPS_LISTEN": os.environ.get("EVENTMILL_OPS_LISTEN", "off"),  # several programs would share a port
    }
    chosen: tuple[Chosen[Any], ...] = (choice.queue, choice.require_store())
    for each in chosen:
        needed |= each.environment()
    return needed


async def _disturb(stack: Stack, ledger: Ledger, queue: Queue | None, plan: Plan, outages: Outages | None) -> None:
    """Post events, and cause crashes and outages meanwhile."""
    posting = asyncio.create_task(_post(stack, ledger, queue, plan))
    faults: list[Coroutine[Any, Any, None]] = [_crash(stack, ledger, posting, plan)]
    if outages is not None:
        faults.append(_cause_outages(outages, ledger, posting, plan))
    tasks = [posting, *map(asyncio.create_task, faults)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _post(stack: Stack, ledger: Ledger, queue: Queue | None, plan: Plan) -> None:
    """Post numbered events at a steady rate, and publish an undecodable message with every hundredth."""
    started, number = time.monotonic(), 0
    async with asyncio.TaskGroup() as posts:
        while time.monotonic() - started < plan.seconds:
            posts.create_task(_post_one(stack, ledger, number))
            number += 1
            if queue is not None and number % 100 == 0:
                posts.create_task(_publish_poison(queue, ledger, number))
            await asyncio.sleep(max(0.0, started + number / plan.rate - time.monotonic()))


async def _post_one(stack: Stack, ledger: Ledger, number: int) -> None:
    event_id = f"{ledger.run}-{number}"
    ledger.attempted.add(event_id)
    if await stack.post(ledger.event(event_id)):
        ledger.accepted.add(event_id)


async def _publish_poison(queue: Queue, ledger: Ledger, number: int) -> None:
    body = f"{ledger.run} poison {number}".encode()
    ledger.poison.add(body)
    try:
        await queue.publish([body], time.monotonic() + 5)
        ledger.confirmed_poison.add(body)
    except Exception as error:
        log.info("the poison message was not confirmed: %s", error)


async def _crash(stack: Stack, ledger: Ledger, posting: asyncio.Task[None], plan: Plan) -> None:
    """End a random program and start it again, repeatedly, for as long as events are posted."""
    while not (await asyncio.wait([posting], timeout=plan.pause_seconds))[0]:
        await stack.crash(kill9=plan.kill9)
        ledger.crashes += 1


async def _cause_outages(outages: Outages, ledger: Ledger, posting: asyncio.Task[None], plan: Plan) -> None:
    """Stop the servers and start them again, repeatedly, for as long as events are posted."""
    while not (await asyncio.wait([posting], timeout=plan.pause_seconds))[0]:
        await outages.cause_one(plan.max_outage_seconds)
        ledger.outages += 1
