"""What the calls of SQS cost."""

import math
from collections.abc import Iterable

from prometheus_client import Counter, Metric

UNIT_BYTES = 64 * 1024  # Amazon bills each 64 KiB of a call's payload as one request
UNIT_DOLLARS = 0.40 / 1_000_000  # a standard queue in us-east-1, without the free million per month


class Usage:
    """Counts the calls of this process, and what Amazon bills for them."""

    def __init__(self) -> None:
        self._calls = Counter("eventmill_queue_sqs_calls", "Calls of SQS.", ["operation"], registry=None)
        self._units = Counter(
            "eventmill_queue_sqs_billed_units", "Units of 64 KiB that Amazon bills for the calls.", registry=None
        )
        self._dollars = Counter(
            "eventmill_queue_sqs_price_dollars", "Price of these units, at $0.40 per million.", registry=None
        )

    def count(self, operation: str, payload_bytes: int) -> None:
        """Count a call with the payload that was sent or received."""
        units = max(1, math.ceil(payload_bytes / UNIT_BYTES))
        self._calls.labels(operation).inc()
        self._units.inc(units)
        self._dollars.inc(units * UNIT_DOLLARS)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        return [*self._calls.collect(), *self._units.collect(), *self._dollars.collect()]
