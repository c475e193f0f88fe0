"""Queue and Store: what a backend promises. An implementer needs this page, `eventmill.hookspecs` and the suites.

Further types, all importable from `eventmill`: `PluginSettings` with `reach`, `Event`, `EventBatch`, `Identity`,
`Position`, `EventFilter`, `MetricsQuery`, `FunnelQuery`, `RetentionQuery` with their answers, `forget`, and the
exceptions `QueueUnavailable`, `QueueMisconfigured`, `PartialFailure` with `Refused` and `Unknown`, `StoreUnavailable`,
`StoreMisconfigured`, `RejectedEvents`, `QueryTooLarge`. `eventmill.reference` holds the default answers.

**Opening.** `backend.open(settings)` is an async context manager that yields the backend. Opening imports the driver,
validates the settings and takes local locks, but does not connect: it raises ConfigurationError for invalid settings,
and nothing because a server is down. Closing takes at most a few seconds and may lose no confirmed data.

**Failures.** While the service is unavailable, every method raises QueueUnavailable or StoreUnavailable, and it works
again when the service does, without being opened again. A backend never retries and never waits for a service to
recover: core decides when and how often to repeat a call. Only a conflict inside one call, such as a serialization
failure, may be repeated within the time limit. Core treats any unexpected exception as unavailable, and logs
its traceback.

**Concurrency.** All methods run on one asyncio loop and may be called concurrently. A process makes at most 8 publishes
and 8 receives at a time, 2 inserts plus up to 19 small ones while it isolates failing messages, and 8 queries. Any
number of processes may do so.

**Who calls what.** `serve` calls `publish`, `check`, `depth`, `scan`, `find`, the queries and `erase`; `insert` when an
operator pauses the consumers; and for dead letters `dead.publish`, `dead.receive`, `dead.extend`, `dead.release`,
`dead.ack`, `dead.depth` and `dead.check`. `consume` calls `receive`, `ack`, `release`, `extend`, `depth`,
`dead.publish`, `insert`, `find` and `check`. `run` and `migrate` call `migrate`. Every process calls `collect` when
Prometheus scrapes it, and `check` about once per second when a load balancer asks for readiness, and when an operator
asks. Core inserts events of the project `_eventmill`: canaries, and the order to pause.

**Time limits.** A call must end within these times:

    publish                until its deadline, 5 s
    receive                wait_seconds and at most 5 s more
    ack, release, extend   half a lease; later, other consumers may already hold the messages
    depth, check           2 s
    scan, find             10 s; core cancels them after 2 to 12 s, depending on the caller
    metrics, event_names,
    funnel, retention      10 s, then raise QueryTooLarge; core cancels them after 12 s
    insert, erase          no limit, but use a timeout (30 s is usual): a hanging insert blocks one of two insert slots
    migrate                no limit

**Cancellation.** Core cancels `check`, `depth`, `scan`, `find` and queries at their time limit or when the client
disconnects, and `release` after a lease. A cancelled call ends soon, stops what it started in the service, and disturbs
no other call. At the deadline of a shutdown core may cancel any call. A message that a cancelled `receive` has fetched
is delivered again after its lease at the latest.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eventmill.errors import InvalidQuery
from eventmill.event import Event, EventBatch, Identity, Position
from eventmill.queries import reference
from eventmill.queries.discovery import EventName
from eventmill.queries.filters import EventFilter
from eventmill.queries.funnels import Funnel, FunnelQuery
from eventmill.queries.metrics import Metrics, MetricsQuery
from eventmill.queries.properties import Property
from eventmill.queries.retention import Retention, RetentionQuery
from eventmill.queries.sql import SqlResult

if TYPE_CHECKING:
    from prometheus_client import Metric

MIN_BODY_BYTES = 40 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """One received message, leased to its receiver.

    Attributes:
        body: the bytes that were published.
        attempts: how often the message was received. The first delivery has 1, and every further one exactly one
            more, without a maximum.
        enqueued_at_ms: when it was published, unix milliseconds, by the clock of the publisher or of the server. It
            stays the same in every delivery.
        lease: any value that the backend needs to ack, extend or release this delivery; core does not read it.
    """

    body: bytes
    attempts: int
    enqueued_at_ms: int
    lease: Any


@dataclass(frozen=True, slots=True)
class Depth:
    """The number of messages in a queue; None for a figure that the service cannot provide.

    Figures may lag by up to a lease.

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

    Every method accepts any number of items: the backend hides the limits of its service, such as ten messages per
    call. Messages are kept until they are acked; if the service deletes them earlier, `check` warns. Their order is
    free, but new, released and expired messages must not starve each other. A waiting receiver gets a new message
    within 1 s, and an expired one within 2 s.

    A consumer holds up to about 120,000 deliveries at a time, and extends them all in one call.
    """

    @property
    @abstractmethod
    def max_body_bytes(self) -> int:
        """The largest body that the queue accepts, before the backend encodes it: 40 KiB to 1 MiB.

        Opening does not connect, so this is a constant or a setting; `check` raises if the server accepts less.
        """

    @property
    @abstractmethod
    def lease_seconds(self) -> float:
        """The duration of a lease. Core extends leases at half of it. The suite uses 1 s.

        Name the setting `lease_seconds`: the crash test shortens a setting of this name.
        """

    @property
    @abstractmethod
    def dead(self) -> "Queue":
        """A second queue for dead letters, with the same promises and lease. Core never uses its `dead`."""

    @abstractmethod
    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        """Return when every body is durable. At least, it survives a killed server.

        A full queue never drops messages to make room: it raises.

        Args:
            bodies: at least one. A body larger than `max_body_bytes` is `Refused`, the others are published.
            deadline: the time at which this call must have ended, on the clock of `time.monotonic()`.

        Raises:
            PartialFailure: some bodies were not confirmed: `Refused` permanently, `Unknown` if it may exist or not.
                The bodies that it does not name were confirmed.
            QueueUnavailable: no body was confirmed; each may exist. If a full queue took some bodies, raise
                PartialFailure with `Unknown` or `Refused` for the others.
        """

    @abstractmethod
    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        """Return up to `max_messages` (10 to 100) as soon as there is one, or [] after `wait_seconds` (0 to 5).

        The queue leases each message to one receiver for `lease_seconds`. After that it delivers the message again, to
        any receiver. Messages that were published before the first receiver existed are delivered. An undecodable
        message is not an error: return its bytes. Raise QueueUnavailable.
        """

    @abstractmethod
    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Remove the messages. An acked message is never delivered again; acking it again is harmless.

        A lost lease is not an error: the backend may remove the message, even if another receiver holds it by now, or
        leave it. An ack never removes a different message, even if the queue was purged or replaced meanwhile.

        Raise QueueUnavailable.
        """

    @abstractmethod
    async def release(self, deliveries: Sequence[Delivery], delay_seconds: float = 0) -> None:
        """Make the messages receivable again after about `delay_seconds` (0 to 300, within 1 s), with one attempt more.

        A lost lease is not an error, and the release changes nothing for the new holder. A backend whose service
        accepts a release of a former holder compares its own clock with the end of the lease, as for `extend`. A delay
        may end early when the server restarts. Raise QueueUnavailable.
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

    def collect(self) -> Iterable["Metric"]:
        """Return the backend's own metrics, for each scrape of Prometheus: at once, without asking a server.

        A metric is one of the package prometheus_client: keep `counter = Counter("eventmill_queue_nats_calls", "Calls
        of the server.", ["operation"], registry=None)` in an attribute, and return `counter.collect()` here; or create
        a `GaugeMetricFamily` for the occasion. Names start with `eventmill_queue_`, the name of the backend, and `_`.
        Labels have few values, and no addresses and secrets. `dead` is not asked. The default returns nothing.
        """
        return ()

    async def migrate(self) -> None:
        """Create what is missing on the server, also for the dead letters. Repeating it is harmless.

        Raise QueueUnavailable or QueueMisconfigured.
        """
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
            retention_days: delete events older than this in the background, if the store can, by whole months if that
                is cheaper; None keeps them forever. Expired events may be answered until then. The value may change
                from call to call, in both directions. The API rejects older events by itself.

        Raise StoreUnavailable or StoreMisconfigured.
        """

    @abstractmethod
    async def insert(self, batch: EventBatch) -> None:
        """Return only when every event is durable and visible: it survives a killed server, and every handle reads it.

        If it raises, any part may be stored. A batch has up to 20,000 events by default, and 1,000,000 by settings.

        Inserting an event again, alone or in another batch, changes no answer. Of two events with one identity, the one
        with the greater `version` wins, in any order of arrival. `metadata` is stored as bytes: it may contain the
        escape of U+0000 and repeated keys.

        Raises:
            StoreUnavailable: retry later. Never raise RejectedEvents for an outage, since it discards events.
            StoreMisconfigured: the schema is missing or outdated, or permissions are missing. Core keeps the data.
            RejectedEvents: the store can never store these events. Core inserts the others again.
        """

    @abstractmethod
    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        """Return one page of at most `limit` (up to 5,000) matching events, each once; [] after the last page.

        A page may be shorter than `limit`. An empty `event_names` matches no event. `EventFilter.matches` says which
        events match: a store that cannot express a condition of `where` reads on until it has an event that matches.

        The order is descending by timestamp_ms, then ascending by event_name and event_id, both by code point. The page
        starts strictly after the position `before`, or with the first event. Paging neither skips nor repeats an event
        that was stored before the first page, even while events are inserted.

        Raise StoreUnavailable, StoreMisconfigured.
        """

    @abstractmethod
    async def erase(self, project: str, user_id: str, until_ms: int) -> int:
        """Erase the user's events with timestamp_ms ≤ until_ms; return about how many events it hid.

        After it returns, no answer contains an event whose latest version belongs to the user. This holds for every
        handle, and for events that are stored before, during and after the call.

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

    def collect(self) -> Iterable["Metric"]:
        """Return the backend's own metrics, as `Queue.collect` does; the names start with `eventmill_store_`."""
        return ()

    async def find(self, identities: Sequence[Identity]) -> list[Event]:
        """Return the stored events with these identities, up to 500, in any order.

        The default scans the millisecond of each. Raise StoreUnavailable, StoreMisconfigured.
        """
        return await reference.find(self, identities)

    async def metrics(self, query: MetricsQuery) -> Metrics:
        """Return exact counts and exact unique users after deduplication and erasure, from one consistent snapshot.

        The total is the total of the groups, also while events are inserted: use one statement, or one snapshot. The
        default reads every matching event by `scan`; a faster implementation must give the same answer. For a query
        with something that it does not know, call `reference.compute_metrics(self, query)`. `build_metrics` orders and
        labels the groups.

        Raise QueryTooLarge for more than `MAX_GROUPS` groups and beyond the time limit, StoreUnavailable,
        StoreMisconfigured.
        """
        return await reference.compute_metrics(self, query)

    async def event_names(self, filter: EventFilter, limit: int) -> list[EventName]:
        """Return the names of matching events, those with the most events first, then by name; up to `limit` (1,000).

        The default reads every matching event by `scan`. Raise as `metrics` does.
        """
        return await reference.compute_event_names(self, filter, limit)

    async def funnel(self, query: FunnelQuery) -> Funnel:
        """Return how many users go through the steps, exactly as docs/queries.md says.

        The default reads every event of the steps by `scan`. Raise as `metrics` does.
        """
        return await reference.compute_funnel(self, query)

    async def retention(self, query: RetentionQuery) -> Retention:
        """Return how many users of each cohort come back, exactly as docs/queries.md says.

        The default reads every start and return by `scan`. Raise as `metrics` does.
        """
        return await reference.compute_retention(self, query)

    async def sql(self, statement: str) -> SqlResult:
        """Run a statement of an operator that only reads, within the limits of queries; up to 10,000 rows.

        The default is for stores without a language of their own. Raise InvalidQuery, QueryTooLarge, StoreUnavailable.
        """
        raise InvalidQuery("this store has no SQL", "sql")

    async def projects(self) -> list[str]:
        """Return the projects that have events, in any order; [] if the store cannot tell.

        Raise StoreUnavailable, StoreMisconfigured.
        """
        return []

    async def materialize(self, property: Property) -> bool:
        """Make questions about a property of the metadata faster, if the store can; return whether it does.

        No answer changes. Events that are stored already may follow in the background. Raise StoreUnavailable,
        StoreMisconfigured.
        """
        return False
