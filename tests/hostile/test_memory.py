"""A refused request keeps nothing alive: no exception refers to a frame that refers to the exception."""

import gc
import gzip
import json
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from eventmill import Queue, QueueUnavailable
from hostile.inputs import events
from support.mill import Mill, running_mill
from support.proxies import QueueProxy

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
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for body in [*list(events())[::7], HONEST]:
                await post(mill, "/events", body)
                await post(mill, "/events/bulk", b"[%b]" % body)
            await post(mill, "/events/bulk", gzip.compress(b"[" * 1_000_000), content_encoding="gzip")
            await post(mill, "/events/bulk", b"no gzip", content_encoding="gzip")
            await post(mill, "/events/bulk", b"no gzip", content_encoding="br")
            assert kept_frames() == []
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
