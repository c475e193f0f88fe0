"""A queue on Amazon SQS."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from eventmill import Queue, QueueBackend, hookimpl
from eventmill_queue_sqs.settings import SqsQueueSettings


@asynccontextmanager
async def open_sqs_queue(settings: SqsQueueSettings) -> AsyncIterator[Queue]:
    from eventmill_queue_sqs.clients import Clients
    from eventmill_queue_sqs.service import Service
    from eventmill_queue_sqs.sqs_queue import MAX_DEAD_BODY_BYTES, SqsQueue

    clients = Clients(settings.url)
    service = Service(clients, settings)
    try:
        dead = SqsQueue(
            clients,
            service,
            service.dead_letter_url,
            settings.lease_seconds,
            max_body_bytes=MAX_DEAD_BODY_BYTES,
        )
        yield SqsQueue(clients, service, service.url, settings.lease_seconds, dead)
    finally:
        await clients.close()


backend = QueueBackend("sqs", SqsQueueSettings, open_sqs_queue, install="pip install 'eventmill[sqs]'", linger_ms=20)


@hookimpl
def eventmill_queue_backends() -> list[QueueBackend]:
    return [backend]
