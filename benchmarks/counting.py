"""What the metrics cost a POST: the CPU of counting, as a share of the CPU of the whole request.

The network makes a difference of three percent invisible, so the application is called in this process, with and
without counting in turn; the CPU of the whole request is that of a server under load.
"""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from starlette.types import Message, Receive, Scope, Send

import ingest
from eventmill import Services
from eventmill.api.access import Access
from eventmill.api.app import create_app
from eventmill.api.gate import Gate
from eventmill.ingest.budget import Budget
from eventmill.ingest.publisher import Publisher
from eventmill.ingest.recent import RecentFrames
from eventmill.ingest.telemetry import IngestTelemetry
from eventmill.queries.limiter import QueryLimiter
from eventmill.shutdown import Shutdown
from eventmill_bench import EmptiedQueueSettings, open_emptied
from figures import Figure, compare
from load import need_wrk, post
from servers import serving

ROUNDS, CLIENTS, POSTS = 25, 250, 80
COUNT_BAR = 1 / 1.03  # metrics cost at most 3 % more
BODY = ingest.event().replace(b"{number}", b"1234567890")
HEADERS = [(b"host", b"bench"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


def counted() -> list[Figure]:
    """POST /events with metrics against one without, by CPU time."""
    need_wrk()
    with tempfile.TemporaryDirectory() as name, serving(Path(name), {"EVENTMILL_QUEUE": "emptied"}) as server:
        whole_us = post(server.url, "/events", ingest.event(), server.pid, ingest.SECONDS).cpu_us
    differences = asyncio.run(_measure())
    ours, theirs = [whole_us] * ROUNDS, [whole_us - difference for difference in differences]
    return [
        compare("ingest_counted", "no metrics", "µs of CPU per request", ours, theirs, inverse=True, at_least=COUNT_BAR)
    ]


async def _measure() -> list[float]:
    """Return the microseconds of CPU that counting costs a request, once per round."""
    async with open_emptied(EmptiedQueueSettings()) as queue, Publisher(queue) as publisher:
        shutdown = Shutdown()
        services = Services("default", queue, None, publisher, QueryLimiter(shutdown))
        app = create_app(services, shutdown, Budget(64 * 1024 * 1024), Access("default", is_anonymous=True))
        differences = []
        for _ in range(ROUNDS):
            with_metrics = await _post_all(app)
            with without_metrics():
                differences.append(with_metrics - await _post_all(app))
        return differences


async def _post_all(app: Gate) -> float:
    """Return the microseconds of CPU per request."""
    started = time.process_time()
    await asyncio.gather(*(_post_some(app) for _ in range(CLIENTS)))
    return (time.process_time() - started) / (CLIENTS * POSTS) * 1e6


async def _post_some(app: Gate) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: Message) -> None:
        assert message["type"] == "http.response.body" or message["status"] == 202

    for _ in range(POSTS):
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/events",
            "query_string": b"",
            "headers": HEADERS,
            "client": ("127.0.0.1", 1),
            "state": {},
        }
        await app(scope, receive, send)


async def pass_on(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
    """Do what the gate does with a POST that is admitted, without counting it."""
    headers = dict(scope["headers"])
    assert scope["method"] == "POST"
    assert not headers.get(b"origin")
    refusal = gate._admit(scope, headers)
    await (refusal or gate.app)(scope, receive, send)


@contextmanager
def without_metrics() -> Iterator[None]:
    with (
        mock.patch.object(Gate, "__call__", pass_on),
        mock.patch.multiple(IngestTelemetry, accept=_nothing, send=_nothing, commit=_nothing),
        mock.patch.object(RecentFrames, "add", _nothing),
    ):
        yield


def _nothing(*_: object) -> None:
    return None
