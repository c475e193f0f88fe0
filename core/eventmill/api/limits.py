"""Rate limits: token buckets per client, in each process."""

import time
from dataclasses import dataclass

from eventmill.errors import RateLimited

BURST_SECONDS = 2.0  # a client that was idle may send this much at once
FAILURES_PER_SECOND = 5.0
_FAILURES_BURST = 50.0
_MAX_CLIENTS = 10_000


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class Buckets:
    """A bucket for each client. It fills at a constant rate; a client may take while there is a whole token.

    One large request may take more than the bucket has: the client then waits until the debt is paid.
    """

    def __init__(self, per_second: float, burst: float) -> None:
        self.per_second = per_second
        self.burst = max(1.0, burst)
        self._buckets: dict[str, _Bucket] = {}

    def take(self, client: str, count: int = 1) -> None:
        """Take tokens. Raise RateLimited if there is none."""
        bucket = self._fill(client)
        if bucket.tokens < 1:
            raise RateLimited(self.per_second, (1 - bucket.tokens) / self.per_second)
        bucket.tokens -= count

    def give_back(self, client: str) -> None:
        """Return a token."""
        self._fill(client).tokens += 1

    def _fill(self, client: str) -> _Bucket:
        now = time.monotonic()
        bucket = self._buckets.pop(client, None) or _Bucket(self.burst, now)
        if len(self._buckets) >= _MAX_CLIENTS:
            del self._buckets[next(iter(self._buckets))]  # the one that was not used for longest
        self._buckets[client] = bucket
        bucket.tokens = min(self.burst, bucket.tokens + (now - bucket.filled_at) * self.per_second)
        bucket.filled_at = now
        return bucket


class Limits:
    """The limits of all clients of this process. A client is a key, or without a key an address.

    Attributes:
        has_limits: whether requests or events are limited.
    """

    def __init__(self, requests_per_second: float | None = None, events_per_second: float | None = None) -> None:
        self._requests = _buckets(requests_per_second)
        self._events = _buckets(events_per_second)
        self.has_limits = self._requests is not None or self._events is not None
        self._failures = Buckets(FAILURES_PER_SECOND, _FAILURES_BURST)

    def take_request(self, client: str) -> None:
        """Count a request. Raise RateLimited."""
        if self._requests is not None:
            self._requests.take(client)

    def take_events(self, client: str, count: int) -> None:
        """Count events before they are published. Raise RateLimited."""
        if self._events is not None:
            self._events.take(client, count)

    def take_failure(self, address: str) -> None:
        """Count a failed authentication. Raise RateLimited if the address had too many."""
        self._failures.take(address)

    def return_failure(self, address: str) -> None:
        """Take back what `take_failure` counted."""
        self._failures.give_back(address)


def _buckets(per_second: float | None) -> Buckets | None:
    return None if per_second is None else Buckets(per_second, per_second * BURST_SECONDS)
