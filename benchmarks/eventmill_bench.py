"""Plugins of the benchmarks: an endpoint that does nothing, and a memory queue that a null consumer empties."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

import eventmill_queue_memory
from eventmill import HttpApp, Queue, QueueBackend, Reach, Services, SettingsConfigDict, hookimpl
from eventmill_queue_memory.settings import MemoryQueueSettings

_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"2")]


def create_empty(services: Services) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 202, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": b"{}"})

    return answer


class EmptiedQueueSettings(MemoryQueueSettings):
    model_config = SettingsConfigDict(env_prefix="EVENTMILL_QUEUE_EMPTIED_")

    @property
    def reach(self) -> Reach:
        return "network"  # so that `serve` accepts it; no other process needs its events


@asynccontextmanager
async def open_emptied(settings: EmptiedQueueSettings) -> AsyncIterator[Queue]:
    async with eventmill_queue_memory.backend.open(settings) as queue:

        async def empty() -> None:
            while True:
                await queue.ack(await queue.receive(100, 1))

        emptying = asyncio.create_task(empty())
        yield queue
        emptying.cancel()


@hookimpl
def eventmill_http_apps() -> list[HttpApp]:
    return [HttpApp("/empty", create_empty, "open")]


@hookimpl
def eventmill_queue_backends() -> list[QueueBackend]:
    return [QueueBackend("emptied", EmptiedQueueSettings, open_emptied)]
