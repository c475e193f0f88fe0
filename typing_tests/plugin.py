"""The public API as a plugin uses it: mypy checks this file in strict mode, and nothing runs it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import assert_type

from eventmill import (
    EVENT_FIELDS,
    AsgiApp,
    Delivery,
    Depth,
    Event,
    EventBatch,
    EventField,
    EventFilter,
    HttpApp,
    Metrics,
    MetricsQuery,
    PartialFailure,
    PluginSettings,
    Position,
    Property,
    Queue,
    QueueBackend,
    Reach,
    Refused,
    RejectedEvents,
    SecretStr,
    Services,
    SettingsConfigDict,
    Store,
    StoreBackend,
    Unknown,
    create_event,
    hookimpl,
    parse_property,
    reference,
)


class Settings(PluginSettings):
    model_config = SettingsConfigDict(env_prefix="EVENTMILL_QUEUE_ACME_")
    url: str
    password: SecretStr = SecretStr("")

    @property
    def reach(self) -> Reach:
        return "network"


class AcmeQueue(Queue):
    @property
    def max_body_bytes(self) -> int:
        return 65536

    @property
    def lease_seconds(self) -> float:
        return 60

    @property
    def dead(self) -> Queue:
        return self

    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        raise PartialFailure({0: Refused("too large"), 1: Unknown("timeout")})

    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        return [Delivery(b"", 1, 0, lease=("any", "value"))]

    async def ack(self, deliveries: Sequence[Delivery]) -> None: ...

    async def release(self, deliveries: Sequence[Delivery], delay_seconds: float = 0) -> None: ...

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        return []

    async def depth(self) -> Depth:
        return Depth(0, None, None)

    async def check(self) -> list[str]:
        return []


class AcmeStore(Store):
    async def migrate(self, retention_days: int | None = None) -> None: ...

    async def insert(self, batch: EventBatch) -> None:
        raise RejectedEvents("invalid", [0])

    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        return []

    async def erase(self, project: str, user_id: str, until_ms: int) -> int:
        return 0

    async def check(self) -> list[str]:
        return []


@asynccontextmanager
async def open_queue(settings: Settings) -> AsyncIterator[Queue]:
    yield AcmeQueue()


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Store]:
    yield AcmeStore()


def create(services: Services) -> AsgiApp:
    raise NotImplementedError


@hookimpl
def eventmill_queue_backends() -> list[QueueBackend]:
    return [QueueBackend("acme", Settings, open_queue, install="pip install acme", linger_ms=20)]


@hookimpl
def eventmill_store_backends() -> list[StoreBackend]:
    return [StoreBackend("acme", Settings, open_store)]


@hookimpl
def eventmill_http_apps() -> list[HttpApp]:
    return [HttpApp("/acme", create, "open")]


async def use(services: Services, store: Store) -> None:
    query = MetricsQuery(EventFilter("default", 0, 1), (Property("channel"),))
    assert_type(await services.query(lambda store: store.metrics(query)), Metrics)
    assert_type(await reference.compute_metrics(store, query), Metrics)
    assert_type(EVENT_FIELDS, tuple[EventField, ...])
    assert_type(parse_property("channel", "group_by"), Property)
    event = create_event(
        project="p", event_name="e", timestamp_us=0, channel="c", user_id="u", received_at_ms=0, metadata=b"{}"
    )
    assert_type(event, Event)
    await services.publish([event])


def mistakes() -> None:
    """Each line must be an error: mypy reports an ignore that is not needed."""
    from eventmill import find_unknown  # type: ignore[attr-defined]  # noqa: F401  (not public)

    PartialFailure({0: "too large"})  # type: ignore[dict-item]
    QueueBackend("acme", Settings, open_store)  # type: ignore[arg-type]
    MetricsQuery(EventFilter("default", "yesterday", 1))  # type: ignore[arg-type]
