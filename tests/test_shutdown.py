"""The limits that a shutdown enforces."""

import asyncio

import pytest

from eventmill.shutdown import Shutdown

pytestmark = pytest.mark.anyio


async def _wait_within(shutdown: Shutdown, started: asyncio.Event) -> None:
    with shutdown.limit(last_seconds=0.01):
        started.set()
        await asyncio.Event().wait()


async def test_a_shutdown_ends_a_block_after_its_last_seconds() -> None:
    shutdown, started = Shutdown(), asyncio.Event()
    task = asyncio.create_task(_wait_within(shutdown, started))
    await started.wait()
    shutdown.begin(60)
    with pytest.raises(TimeoutError):
        await task


async def test_a_block_that_begins_after_the_deadline_ends_at_once() -> None:
    shutdown = Shutdown()
    shutdown.begin(0)
    with pytest.raises(TimeoutError):
        await _wait_within(shutdown, asyncio.Event())


async def test_a_cancelled_task_stays_cancelled_when_its_limit_ends_too() -> None:
    shutdown, started = Shutdown(), asyncio.Event()

    async def cancelled_twice() -> None:
        with shutdown.limit():
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)  # the second cancellation arrives here
        pytest.fail("the block ended without an error")

    task = asyncio.create_task(cancelled_twice())
    await started.wait()
    shutdown.begin(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_block_that_has_ended_is_not_cancelled_later() -> None:
    shutdown = Shutdown()
    with shutdown.limit():
        shutdown.begin(0)
    await asyncio.sleep(0.01)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
