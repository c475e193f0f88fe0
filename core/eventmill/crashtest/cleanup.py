"""The end of a run: wait until the queue is empty, and remove what the run wrote."""

import asyncio
import logging
import time

from eventmill.crashtest.ledger import Ledger
from eventmill.crashtest.stack import Stack
from eventmill.errors import QueueUnavailable
from eventmill.interfaces import Queue
from eventmill.runtime.backends import Choice

log = logging.getLogger(__name__)

DRAIN_SECONDS = 120.0  # the longest time to drain the backlog, in addition to a lease
CLEAN_SECONDS = 20.0


async def drain(stack: Stack, queue: Queue | None) -> None:
    """Wait until the queue is empty. A queue inside the process is drained when the process stops."""
    if queue is None:
        return
    seconds = DRAIN_SECONDS + queue.lease_seconds
    until, empty = time.monotonic() + seconds, 0
    while empty < 3:
        if time.monotonic() > until:
            log.error("the queue is not empty after %.0f s", seconds)
            return
        await stack.revive()
        empty = empty + 1 if await _is_empty(queue) else 0
        await asyncio.sleep(0.5)


async def _is_empty(queue: Queue) -> bool:
    """Return whether no message is left. A server that was just started may need time to answer."""
    try:
        depth = await queue.depth()
    except QueueUnavailable as error:
        log.info("the queue is unavailable: %s", error)
        return False
    return not depth.ready and not depth.in_flight


async def clean(choice: Choice, queue: Queue | None, ledger: Ledger) -> None:
    """Remove the run's events and dead letters, and after an early end also its messages."""
    lease_seconds = queue.lease_seconds if queue is not None else 0.0
    try:
        async with asyncio.timeout(CLEAN_SECONDS + lease_seconds):
            if queue is not None:
                await _remove(queue, ledger, dead=False)
                await _remove(queue.dead, ledger, dead=True)
            async with choice.require_store().open() as store:
                await ledger.erase(store)
    except Exception as error:
        log.error("cannot remove the events of this run, which have the project %s: %r", ledger.run, error)


async def _remove(queue: Queue, ledger: Ledger, *, dead: bool) -> None:
    """Remove the run's messages, including those that a killed program held, after their leases."""
    until = time.monotonic() + queue.lease_seconds + 2
    while True:
        await ledger.remove(queue, dead=dead)
        if time.monotonic() > until or await _is_empty(queue):
            return
        await asyncio.sleep(1)
