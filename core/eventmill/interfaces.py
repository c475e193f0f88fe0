"""Queue and Store: what a backend promises. An implementer needs this page, `eventmill.hookspecs` and the suites.

Further types, all importable from `eventmill`: `Event`, `EventBatch`, `Identity`, `Position`, `EventFilter`,
`MetricsQuery`, `Metrics`, `Group`, `forget`, and the exceptions `QueueUnavailable`, `QueueMisconfigured`,
`PartialFailure` with `Refused` and `Unknown`, `StoreUnavailable`, `StoreMisconfigured`, `RejectedEvents`,
`QueryTooLarge`. `eventmill.reference` holds the default answers.

**Opening.** `backend.open(settings)` is an async context manager that yields the backend. Opening imports the driver,
validates the settings and takes local locks, but does not connect: it raises ConfigurationError for invalid settings,
and nothing because a server is down. Closing takes at most a few seconds and may lose no confirmed data.

**Failures.** While the service is unavailable, every method raises QueueUnavailable or StoreUnavailable, and it works
again when the service does, without being opened again. A backend never retries and never waits for a service to
recover: core decides when and how often to repeat a call. Core treats any unexpected exception as unavailable, and logs
its traceback.

**Concurrency.** All methods run on one asyncio loop and may be called concurrently.

**Time limits.** Core expects an answer within these times, and treats a later one as a failure where it can:

    publish                until its deadline, 5 s
    receive                wait_seconds and at most 5 s more
    ack, release, extend   half a lease; later, other consumers may already hold the messages
    depth, check           2 s
    scan, find, metrics    10 s; raise QueryTooLarge after that. Core cancels them after 12 s
    insert, erase          no limit; leases are kept alive meanwhile. A hanging insert blocks one of two insert slots
    migrate                no limit

**Cancellation.** Core cancels `check`, `scan`, `find` and `metrics` at their time limit or when the client disconnects.
A cancelled call ends soon, stops what it started in the service, and disturbs no other call. At the deadline of a
shutdown core may cancel any call.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eventmill.event import Event, EventBatch, Identity, Position
from eventmill.queries import reference
from eventmill.queries.filters import EventFilter
from eventmill.queries.metrics import Metrics, MetricsQuery

MIN_BODY_BYTES = 40 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """One received message, leased to its receiver.

    Attributes:
        body: the bytes that were published.
        attempts: how often the message was received. The first delivery has 1, and every further one exactly one more.
        enqueued_at_ms: when it was published, unix milliseconds. It stays the same in every delivery.
        lease: any value that the backend needs to ack, extend or release this delivery; core does not read it.
    """

    body: bytes
    attempts: int
    enqueued_at_ms: int
    lease: Any


@dataclass(frozen=True, slots=True)
class Depth:
    """The number of messages in a queue; None for a figure that the service cannot provide. Figures may lag by seconds.

    Attributes:
        ready: messages without a lease: new and released ones, and those whose lease has expired.
        in_flight: messages with a lease. A message that waits for the delay of its release counts in either figure.
        oldest_age_seconds: the age of the oldest message, counted from its publication; 0 if there is none.
    """

    ready: int | None
    in_flight: int | None
    oldest_age_seconds: float | None


class Queue(ABC):
    """Delivers bytes at least once. It knows nothing about events.

    Every method takes any number of items: the backend hides the limits of its service, such as ten messages per call.

    A consumer holds up to about 120,000 deliveries at a time, and extends them all in one call.
    """

    @property
    @abstractmethod
    def max_body_bytes(self) -> int:
        """The largest body that the queue accepts, before any encoding of its own; at least 40 KiB."""

    @property
    @abstractmethod
    def lease_seconds(self) -> float:
        """For how long a received message belongs to its receiver. Core extends leases at half of it. Tests use 1 s."""

    @property
    @abstractmethod
    def dead(self) -> "Queue":
        """A second queue for dead letters, with the same promises. Core does not use the `dead` of this queue."""

    @abstractmethod
    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        """Return when every body is durable, to the degree that this queue promises: it survives a killed server.

        A full queue never drops messages to make room: it raises.

        Args:
            bodies: at least one, none larger than `max_body_bytes`.
            deadline: the time at which this call must have ended, on the clock of `time.monotonic()`.

        Raises:
            PartialFailure: some bodies were not confirmed: `Refused` permanently, `Unknown` if it may exist or not.
                The bodies that it does not name were confirmed.
            QueueUnavailable: no body was confirmed; each may exist.
        """

    @abstractmethod
    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        """Return up to `max_messages` as soon as there is one, or [] after `wait_seconds` (0 to 5).

        The queue leases each message to one receiver for `lease_seconds`. After that it delivers the message again, to
        any receiver. Messages that were published before the first receiver existed are delivered. An undecodable
        message is not an error: return its bytes. Raise QueueUnavailable.
        """

    @abstractmethod
    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Remove the messages. An acked message is never delivered again; acking it again is harmless.

        A lost lease is not an error: whether the message is removed or delivered again is up to the backend. An ack
        never removes another message, even if the queue was purged or replaced meanwhile. Raise QueueUnavailable.
        """

    @abstractmethod
    async def release(self, deliveries: Sequence[Delivery], delay_seconds: float = 0) -> None:
        """Make the messages receivable again after about `delay_seconds` (0 to 300), with one attempt more.

        A lost lease is not an error, and the release changes nothing for the new holder. Raise QueueUnavailable.
        """

    @abstractmethod
    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Restart the leases; return the deliveries whose lease is known to be lost.

        A lost lease stays with its new holder. Extending is not an attempt. A backend may decide by its own clock, with
        a margin, that a lease is lost: a false "lost" only causes another delivery, which changes no number. The suite
        requires that an acked message, and one that another receiver holds, is reported as lost.

        Raise QueueUnavailable.
        """

    @abstractmethod
    async def depth(self) -> Depth:
        """Count the messages. Raise QueueUnavailable."""

    @abstractmethod
    async def check(self) -> list[str]:
        """Return warnings for operators if the queue can be used, and raise otherwise.

        A check asks the server: it fails while the server is down or frozen, and passes once it works again. Warnings
        appear at /health/ready and must contain no address and no secret.

        Raises:
            QueueUnavailable: the queue does not answer, or is full.
            QueueMisconfigured: retrying cannot help, for example after a wrong address or missing permissions.
        """

    async def migrate(self) -> None:
        """Create what is missing on the server, also for the dead letters. Repeating it is harmless."""
        return


class Store(ABC):
    """Stores events and answers queries. An implementer must write only the abstract methods.

    The text fields of an event may contain every character except control characters; `event_id` has 1 to 128 of them.
    Texts are compared by code point: case, accents, width and trailing spaces distinguish them.
    """

    @abstractmethod
    async def migrate(self, retention_days: int | None = None) -> None:
        """Create or upgrade the schema: only add to it, be idempotent, and be safe when two processes run it.

        Args:
            retention_days: delete events older than this in the background, if the store can; None keeps them forever.
                The value may change from call to call, in both directions. The API rejects older events by itself.

        Raise StoreUnavailable or StoreMisconfigured.
        """

    @abstractmethod
    async def insert(self, batch: EventBatch) -> None:
        """Return only when every event is durable: it survives a killed server. If it raises, any part may be stored.

        Inserting an event again, alone or in another batch, changes no answer. Of two events with one identity, the one
        with the greater `version` wins, whatever the order of arrival.

        Raises:
            StoreUnavailable: retry later. Never raise RejectedEvents for an outage, since it discards events.
            StoreMisconfigured: the schema is missing or outdated, or permissions are missing. Core keeps the data.
            RejectedEvents: the store can never store these events. Core inserts the others again.
        """

    @abstractmethod
    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        """Return one page of at most `limit` matching events, each once; [] after the last page.

        The order is descending by timestamp_ms, then ascending by event_name and event_id, both by code point. The page
        starts strictly after the position `before`, or with the first event. Paging neither skips nor repeats an event
        that was stored before the first page, whatever is inserted meanwhile.

        Raise StoreUnavailable, StoreMisconfigured.
        """

    @abstractmethod
    async def erase(self, project: str, user_id: str, until_ms: int) -> int:
        """Erase the user's events with timestamp_ms ≤ until_ms; return about how many events it hid.

        After it returns, no answer contains an event whose latest version belongs to the user, through any handle: no
        matter whether the event was stored before, is being inserted, or arrives later.

        The latest version that ever arrived determines which user owns the event. No order of inserts and erasures may
        change an answer: an erased latest version hides older versions of other users, and a newer version of another
        user is answered. To know that, a store may keep identity and version of an erased event (`eventmill.forget`);
        everything else leaves the disk, possibly in the background. Erasing delays no insert and no query.

        Erasing again, also with an earlier `until_ms`, is harmless. Raise StoreUnavailable or StoreMisconfigured: part
        of the erasure may be done, so erase again.
        """

    @abstractmethod
    async def check(self) -> list[str]:
        """Return warnings if events can be written and read; else raise StoreUnavailable or StoreMisconfigured.

        A check asks the server, as the check of a queue does, and fails if the schema is missing or outdated.
        """

    async def find(self, identities: Sequence[Identity]) -> list[Event]:
        """Return the stored events with these identities, up to some hundred, in any order.

        The default scans the millisecond of each. Raise StoreUnavailable, StoreMisconfigured.
        """
        return await reference.find(self, identities)

    async def metrics(self, query: MetricsQuery) -> Metrics:
        """Return exact counts and exact unique users after deduplication and erasure, from one consistent snapshot.

        The total is the total of the groups, also while events are inserted. The default reads every matching event by
        `scan`; a faster implementation must give the same answer. Raise QueryTooLarge, StoreUnavailable,
        StoreMisconfigured.
        """
        return await reference.compute_metrics(self, query)
