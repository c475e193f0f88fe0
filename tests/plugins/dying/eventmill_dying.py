"""The SQLite queue in a process that dies once, as by kill -9, at one step of a delivery."""

import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import eventmill_queue_sqlite
from eventmill import Delivery, Queue, QueueBackend, SettingsConfigDict, hookimpl
from eventmill_queue_sqlite.settings import SqliteQueueSettings
from support.proxies import QueueProxy

STEPS = ("before publish", "after publish", "after receive", "before ack", "after part of the acks")


class Settings(SqliteQueueSettings):
    model_config = SettingsConfigDict(env_prefix="EVENTMILL_QUEUE_DYING_")
    step: str
    marker: Path


class DyingQueue(QueueProxy):
    def __init__(self, inner: Queue, settings: Settings) -> None:
        super().__init__(inner)
        self.settings = settings

    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        self.die("before publish")
        await self.inner.publish(bodies, deadline)
        self.die("after publish")

    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        deliveries = await self.inner.receive(max_messages, wait_seconds)
        if deliveries:
            self.die("after receive")
        return deliveries

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.die("before ack")
        await self.inner.ack(deliveries[: len(deliveries) // 2])
        self.die("after part of the acks")
        await self.inner.ack(deliveries)

    def die(self, step: str) -> None:
        if self.settings.step == step and not self.settings.marker.exists():
            self.settings.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@asynccontextmanager
async def open_queue(settings: Settings) -> AsyncIterator[Queue]:
    async with eventmill_queue_sqlite.backend.open(settings) as inner:
        yield DyingQueue(inner, settings)


backend = QueueBackend("dying", Settings, open_queue)


@hookimpl
def eventmill_queue_backends() -> list[QueueBackend]:
    return [backend]
