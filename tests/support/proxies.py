"""Backends that pass everything on: tests subclass them to add a fault that a real backend cannot be made to show."""

from collections.abc import Iterable, Sequence

from prometheus_client import Metric

from eventmill import Delivery, Depth, Event, EventBatch, EventFilter, Position, Queue, Store


class QueueProxy(Queue):
    """Passes everything on to the queue inside."""

    def __init__(self, inner: Queue) -> None:
        self.inner = inner

    @property
    def max_body_bytes(self) -> int:
        return self.inner.max_body_bytes

    @property
    def lease_seconds(self) -> float:
        return self.inner.lease_seconds

    @property
    def dead(self) -> Queue:
        return self.inner.dead

    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        await self.inner.publish(bodies, deadline)

    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        return await self.inner.receive(max_messages, wait_seconds)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        await self.inner.ack(deliveries)

    async def release(self, deliveries: Sequence[Delivery], delay_seconds: float = 0) -> None:
        await self.inner.release(deliveries, delay_seconds)

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        return await self.inner.extend(deliveries)

    async def depth(self) -> Depth:
        return await self.inner.depth()

    async def check(self) -> list[str]:
        return await self.inner.check()

    def collect(self) -> Iterable[Metric]:
        return self.inner.collect()


class StoreProxy(Store):
    """Passes everything on to the store inside."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner

    async def migrate(self, retention_days: int | None = None) -> None:
        await self.inner.migrate(retention_days)

    async def insert(self, batch: EventBatch) -> None:
        await self.inner.insert(batch)

    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        return await self.inner.scan(filter, before, limit)

    async def erase(self, project: str, user_id: str, until_ms: int) -> int:
        return await self.inner.erase(project, user_id, until_ms)

    async def check(self) -> list[str]:
        return await self.inner.check()
