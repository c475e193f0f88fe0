"""Outages of the server."""

import time
from typing import Any

import pytest

from eventmill import (
    PartialFailure,
    Queue,
    QueueUnavailable,
    Unknown,
)
from eventmill.testing.contract import Server, eventually, require
from eventmill.testing.queue_contract.suite import QueueSuite, bodies_of, drain, passes, receive, soon


class QueueOutages(QueueSuite):
    """Outages of the server."""

    async def test_a_queue_recovers_when_its_server_is_back(
        self, queue: Queue, server: Server | None, settings: Any
    ) -> None:
        """Calls raise QueueUnavailable while the server is down, and work again when it is back, without reopening.

        Likely cause: a broken connection is never replaced, or `check` does not ask the server.
        """
        server = require(server, settings)
        await server.stop()
        with pytest.raises((QueueUnavailable, PartialFailure)) as failure:
            await queue.publish([b"down"], time.monotonic() + 2)
        if isinstance(failure.value, PartialFailure):
            assert isinstance(failure.value.failed[0], Unknown)
        for call in (queue.check, queue.depth, lambda: queue.receive(1, 0)):
            with pytest.raises(QueueUnavailable):
                await call()
        await server.start()
        await eventually(lambda: passes(queue.check), 10)
        await queue.publish([b"back"], soon())
        assert b"back" in bodies_of([*await receive(queue, 1), *await queue.receive(10, 1)])

    async def test_a_frozen_server_delays_no_call_beyond_its_deadline(
        self, queue: Queue, server: Server | None, settings: Any
    ) -> None:
        """A publish ends at its deadline, and a check within about 2 s, while the server accepts but does not answer.

        Likely cause: timeouts apply to connecting only, or `publish` ignores its deadline.
        """
        server = require(server, settings)
        await queue.publish([b"warm"], soon())
        await server.freeze()
        try:
            for call in (lambda: queue.publish([b"frozen"], time.monotonic() + 2), queue.check):
                started = time.monotonic()
                with pytest.raises((QueueUnavailable, PartialFailure)):
                    await call()
                assert time.monotonic() - started < 3.5
        finally:
            await server.resume()
        await eventually(lambda: passes(queue.check), 10)
        await queue.publish([b"resumed"], soon())

    async def test_confirmed_messages_survive_a_killed_server(
        self, queue: Queue, server: Server | None, settings: Any
    ) -> None:
        """Every message that publish confirmed is delivered after the server was killed and started again.

        Likely cause: messages are in memory only, or publish does not wait for the disk.
        """
        server = require(server, settings)
        sent = [b"message %d" % number for number in range(50)]
        for start in range(0, 50, 10):
            await queue.publish(sent[start : start + 10], soon())
        await server.stop()
        await server.start()
        await eventually(lambda: passes(queue.check), 10)
        assert set(sent) <= set(await drain(queue, 50))
