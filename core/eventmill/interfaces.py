"""Queue, Delivery and Store: what a backend promises. The only file that an implementer must read.

How core uses a backend. `backend.open(settings)` yields it as an async context manager: opening imports the
driver, validates the settings and takes local locks, but touches no network, so it fails for wrong settings only.
Everything later raises `QueueUnavailable` or `StoreUnavailable` while the service is away and heals by itself.
All methods run on one asyncio loop and may be called concurrently. A backend never retries and never loops:
when and how often to repeat is decided by core.

Core may cancel `check` and the questions `scan`, `find` and `metrics` at any moment: at their deadline, or when the
client that asked has left. A cancelled call ends soon, stops what it started in the service, and disturbs no other
call. Core cancels no other call under way, except inserts of a consumer that was told to leave and has no time left.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eventmill import answers
from eventmill.event import Event, EventBatch, Identity, Position
from eventmill.query import EventFilter, Metrics, MetricsQuery

MIN_BODY_BYTES = 40 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """One received message, leased to whoever received it.

    Attributes:
        body: the bytes that were published.
        attempts: how often it was received, from 1 on.
        enqueued_at_ms: when it was published, unix milliseconds.
        lease: whatever the backend needs to ack, extend or release; core never looks at it.
    """

    body: bytes
    attempts: int
    enqueued_at_ms: int
    lease: Any


@dataclass(frozen=True, slots=True)
class Depth:
    """How many messages wait; None where the service cannot tell."""

    ready: int | None
    in_flight: int | None
    oldest_age_seconds: float | None


class Queue(ABC):
    """Bytes in, bytes out, at least once. It knows nothing of events.

    Every method takes many; limits of the service (ten per call, 1 MiB, …) are hidden in here.
    """

    @property
    @abstractmethod
    def max_body_bytes(self) -> int:
        """The largest body it takes, before any encoding of its own; at least 40 KiB."""

    @property
    @abstractmethod
    def lease_seconds(self) -> float:
        """How long a received message is the caller's alone. Core extends at half of it. Tests set it to 1."""

    @property
    @abstractmethod
    def dead(self) -> "Queue":
        """A second queue, for dead letters, with the same promises. Its own `dead` is never asked for."""

    @abstractmethod
    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        """Return when every body is durable, as far as this queue promises it.

        Args:
            bodies: at least one, none above `max_body_bytes`.
            deadline: the moment on the clock of `time.monotonic()` at which the verdict must be there.

        Raises:
            PartialFailure: some bodies were not confirmed. `Refused` is final; `Unknown` may exist or not.
                Bodies that are not named were confirmed.
            QueueUnavailable: none was confirmed; any may exist.
        """

    @abstractmethod
    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        """Return up to `max_messages` as soon as there is one, or [] after `wait_seconds` (0 to 5).

        A message is leased to one caller at a time, for `lease_seconds`; then it comes again with one attempt
        more, to whoever asks. What was published before anybody received is not lost. One bad message is no
        error: its bytes are handed over. Raises QueueUnavailable.
        """

    @abstractmethod
    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Remove them for good. Acking again is harmless.

        A lease that was lost is no error; whether the message is removed or comes again is up to the backend. An ack
        never removes another message, even if the queue was emptied or replaced since. Raises QueueUnavailable.
        """

    @abstractmethod
    async def release(self, deliveries: Sequence[Delivery], delay_seconds: float = 0) -> None:
        """Make them receivable again after about `delay_seconds`; attempts may grow.

        A lost lease is no error and changes nothing for the new holder. Raises QueueUnavailable.
        """

    @abstractmethod
    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Start their leases anew; return those whose lease is known to be lost.

        A lost lease stays the new holder's. Raises QueueUnavailable.
        """

    @abstractmethod
    async def depth(self) -> Depth:
        """Count what waits and what is leased. Raises QueueUnavailable."""

    @abstractmethod
    async def check(self) -> list[str]:
        """Raise QueueUnavailable with the reason within two seconds, or return warnings in words.

        Raise QueueMisconfigured for errors that retrying cannot fix, such as a wrong address or missing rights.

        Warnings are shown to everybody at /health/ready: no addresses, no secrets.
        """

    async def migrate(self) -> None:
        """Create on the server what is missing, for the dead letters too. Again is harmless."""
        return


class Store(ABC):
    """Events in, answers out. The five abstract methods are all that an implementer must write."""

    @abstractmethod
    async def migrate(self) -> None:
        """Create or upgrade the schema: additive, idempotent, safe when two run at once."""

    @abstractmethod
    async def insert(self, batch: EventBatch) -> None:
        """Return only when every event is stored. When it raises, any part may be stored.

        Inserting the same event again, alone or in any batch, must change no answer. Of two events with one
        identity the one with the greater `version` wins, whatever the order of arrival.

        Raises:
            StoreUnavailable: try again later. Every other exception counts as this one.
            StoreMisconfigured: the schema or the rights are wrong; core keeps the data, retries and alarms.
            RejectedEvents: these events can never be stored; core inserts the others again without them.
        """

    @abstractmethod
    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        """Return one page of the events that match, each once, at most `limit`; [] when there are no more.

        Ordered by timestamp_ms descending, event_name, event_id, both ascending by code point. The page starts
        strictly after the position `before`, None being the start. Paging never skips or repeats an event that
        was stored before the first page, whatever is inserted meanwhile. Raises StoreUnavailable.
        """

    @abstractmethod
    async def erase(self, project: str, user_id: str, until_ms: int) -> int:
        """Forget that user's events with timestamp_ms ≤ until_ms; return about how many events that hid.

        From the return on, an event whose greatest version belongs to that user is not answered, whether it was stored
        before, is stored at the same time or arrives later, through any handle.

        The greatest version of all that ever arrived determines which user owns an event. No order of inserts and
        erasures may change an answer: older versions of other users stay hidden behind an erased one, newer ones are
        answered. To know that, a store may keep identity and version of an erased event, see `eventmill.forget`; all
        else leaves the disk, which may happen in the background. Erasing delays no insert and no question.

        Erasing again, also with an earlier `until_ms`, is harmless. Raises StoreUnavailable: nothing, or part of it, is
        done; erase again.
        """

    @abstractmethod
    async def check(self) -> list[str]:
        """Raise StoreUnavailable or StoreMisconfigured with the reason, or return warnings as a queue does."""

    async def find(self, identities: Sequence[Identity]) -> list[Event]:
        """Return those of the events that are stored, in any order: up to some hundred, at the cost of a key.

        The default looks into the millisecond of each by `scan`. Raises StoreUnavailable.
        """
        return await answers.find(self, identities)

    async def metrics(self, query: MetricsQuery) -> Metrics:
        """Exact counts and exact unique users after deduplication and erasure, within bounded time and rows.

        The default reads every matching event by `scan`; a backend that can count faster overrides it and
        must give the same answer. Raises QueryTooLarge and StoreUnavailable.
        """
        return await answers.metrics(self, query)
