"""A refused request and a closed connection keep nothing alive: the garbage collector finds no cycle of theirs."""

import asyncio
import gc
import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from eventmill import Queue, QueueUnavailable
from eventmill.runtime.protocol import Connection
from hostile.inputs import events
from hostile.measure import start_attack
from support.mill import Mill, running_mill, wait_until
from support.proxies import QueueProxy
from support.server import serving

pytestmark = pytest.mark.anyio

HONEST = json.dumps({"event_name": "a", "channel": "web", "user_id": "honest", "timestamp": 1766717657}).encode()


class FailingQueue(QueueProxy):
    async def publish(self, bodies: Any, deadline: float) -> None:
        raise QueueUnavailable("away")


async def post(mill: Mill, path: str, body: bytes, **headers: str) -> int:
    """Post without an HTTP client, which would leave cycles of its own."""
    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "root_path": "",
        "query_string": b"",
        "scheme": "http",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    await mill.app(scope, receive, send)
    return statuses[0]


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep what only the garbage collector can free, so that a test can look at it in `gc.garbage`."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def kept_frames() -> list[str]:
    """The functions of eventmill whose frames only the garbage collector can free."""
    gc.collect()
    found = [item for item in gc.garbage if isinstance(item, FrameType)]
    return [frame.f_code.co_qualname for frame in found if "eventmill" in frame.f_code.co_filename]


def fails(queue: Queue) -> Queue:
    return FailingQueue(queue)


@pytest.mark.parametrize("wrap_queue", [lambda queue: queue, fails], ids=["working queue", "failing queue"])
async def test_a_refused_request_keeps_nothing_alive(wrap_queue: Callable[[Queue], Queue]) -> None:
    async with running_mill(wrap_queue=wrap_queue, timeout_seconds=0.3) as mill:
        await post(mill, "/events", HONEST)
        with uncollected():
            for body in [*list(events())[::7], HONEST]:
                await post(mill, "/events", body)
                await post(mill, "/events/bulk", b"[%b]" % body)
            await post(mill, "/events/bulk", gzip.compress(b"[" * 1_000_000), content_encoding="gzip")
            await post(mill, "/events/bulk", b"no gzip", content_encoding="gzip")
            await post(mill, "/events/bulk", b"no gzip", content_encoding="br")
            assert kept_frames() == []


@pytest.mark.parametrize("attack", ["pipelining", "header_lines", "trailers", "wrong_keys", "unread_responses"])
async def test_a_closed_connection_keeps_nothing_alive(attack: str) -> None:
    async with running_mill() as mill, serving(mill.app) as (port, state):
        with uncollected():
            with start_attack(attack, port, "", seconds=1, connections=5) as attacker:
                await asyncio.to_thread(wait_until, lambda: bool(state.connections))
                assert await asyncio.to_thread(attacker.wait, 30) == 0
            await asyncio.to_thread(wait_until, lambda: not state.connections and not state.tasks)
            gc.collect()
            assert [item for item in gc.garbage if isinstance(item, Connection)] == []
