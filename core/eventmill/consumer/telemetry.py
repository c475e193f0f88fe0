"""The metrics of a consumer."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from eventmill.consumer.messages import Message

INSERT_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
DELAY_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86_400)


class ConsumerTelemetry:
    """Counts what a consumer does. Without a registry nobody sees it."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.received = Counter(
            "eventmill_consumer_received_messages", "Messages that were received from the queue.", registry=registry
        )
        self.stored_events = Counter(
            "eventmill_consumer_stored_events",
            "Events that the store confirmed. A message that is delivered again counts again.",
            registry=registry,
        )
        self.stored_bytes = Counter(
            "eventmill_consumer_stored_bytes", "Bytes of these events, before compression.", registry=registry
        )
        self.insert_seconds = Histogram(
            "eventmill_consumer_insert_seconds",
            "Time of an insert that succeeded; the count is the number of batches.",
            buckets=INSERT_SECONDS,
            registry=registry,
        )
        self.delay_seconds = Histogram(
            "eventmill_consumer_delay_seconds",
            "Time from the acceptance of the first event of a message until the message was stored.",
            buckets=DELAY_SECONDS,
            registry=registry,
        )
        self.newest_stored = Gauge(
            "eventmill_consumer_newest_stored_timestamp_seconds",
            "When the newest stored event was accepted, in unix seconds; 0 before the first.",
            registry=registry,
        )
        self._retries = Counter(
            "eventmill_consumer_retries",
            "Operations that failed and are repeated, by the class of the error.",
            ["operation", "error"],
            registry=registry,
        )
        self.breaker_open = Gauge(
            "eventmill_consumer_breaker_open",
            "1 while the store fails: nothing is received, and inserts are tried one at a time.",
            registry=registry,
        )
        self.paused = Gauge("eventmill_consumer_paused", "1 while an operator has paused it.", registry=registry)
        self.buffer_events = Gauge(
            "eventmill_consumer_buffer_events", "Events that wait to be inserted.", registry=registry
        )
        self.buffer_bytes = Gauge("eventmill_consumer_buffer_bytes", "Bytes of these events.", registry=registry)
        self.held = Gauge("eventmill_consumer_held_messages", "Messages that the consumer leases.", registry=registry)
        self.leases_lost = Counter(
            "eventmill_consumer_leases_lost", "Leases that ended too early: delivered again.", registry=registry
        )
        self.isolated = Counter(
            "eventmill_consumer_isolated_messages",
            "Messages of batches that the store failed on, which were inserted separately.",
            registry=registry,
        )
        self.quarantined = Counter(
            "eventmill_consumer_quarantined_messages",
            "Messages that were received too often, and processed in a subprocess.",
            registry=registry,
        )
        self._newest = 0.0
        self._dead_letters = Counter(
            "eventmill_consumer_dead_letters", "Dead letters, by reason.", ["reason"], registry=registry
        )

    def store(self, messages: Sequence[Message], now: float) -> None:
        """Note that these messages are stored; `now` in unix seconds."""
        for message in messages:
            if message.rows:
                self.delay_seconds.observe(max(0.0, now - message.rows[0].event.received_at_ms / 1000))
                newest = message.rows[-1].event.received_at_ms / 1000
                if newest > self._newest:
                    self._newest = newest
                    self.newest_stored.set(newest)

    def retry(self, operation: str, error: Exception) -> None:
        """Count an operation that failed and is repeated."""
        self._retries.labels(operation, type(error).__name__).inc()

    def bury(self, reason: str, count: int) -> None:
        """Count dead letters."""
        self._dead_letters.labels(reason).inc(count)
