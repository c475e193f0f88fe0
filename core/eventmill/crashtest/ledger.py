"""Ledger: the events that a crash test posted, and what became of them."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from eventmill import frames
from eventmill.consumer.letters import DeadLetter
from eventmill.consumer.paging import Pager
from eventmill.errors import UndecodableMessage, UnknownFrameVersion
from eventmill.event import ALL_TIME, MAX_TIME_MS, Event, to_sent_form
from eventmill.interfaces import Queue, Store
from eventmill.queries.filters import EventFilter
from eventmill.queries.lookup import pages
from eventmill.queries.metrics import MetricsQuery

EVENT_NAME = "crashtest"
CHANNELS, USERS, CAMPAIGNS, SECONDS = 7, 5, 3, 3600  # by the event's number
FAULTS = ("lost", "doubled", "unexpected", "altered", "dead_events", "poison_missing")


@dataclass(slots=True)
class Ledger:
    """The events and poison messages of one run, which has its own project."""

    run: str
    started_s: int = field(default_factory=lambda: int(time.time()))
    needs_outage: bool = False
    attempted: set[str] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=lambda: {_user(number) for number in range(USERS)})
    altered: int = 0  # events whose stored content differs from what was sent
    counted: int = 0  # by a metrics query
    poison: set[bytes] = field(default_factory=set)  # undecodable messages that were published
    confirmed_poison: set[bytes] = field(default_factory=set)
    dead_poison: set[bytes] = field(default_factory=set)
    dead_events: int = 0
    crashes: int = 0
    outages: int = 0

    def verdict(self) -> dict[str, int]:
        """Return the figures; those in FAULTS must be 0."""
        return {
            "attempted": len(self.attempted),
            "accepted": len(self.accepted),
            "stored": len(self.stored),
            "crashes": self.crashes,
            "outages": self.outages,
            "poison": len(self.confirmed_poison),
            "dead": len(self.dead_poison) + self.dead_events,
            "lost": len(self.accepted - self.stored),
            "doubled": self.counted - len(self.stored),
            "unexpected": len(self.stored - self.attempted),
            "altered": self.altered,
            "dead_events": self.dead_events,
            "poison_missing": len(self.confirmed_poison - self.dead_poison) + len(self.dead_poison - self.poison),
        }

    @property
    def is_good(self) -> bool:
        figures = self.verdict()
        # A run that accepted no event or saw no failure proves nothing.
        is_proof = bool(self.accepted and self.crashes and (self.outages or not self.needs_outage))
        return is_proof and not any(figures[name] for name in FAULTS)

    def event(self, event_id: str) -> dict[str, Any]:
        """Return the event with this id. All its fields follow from the id, so that the stored event can be checked."""
        number = int(event_id.rpartition("-")[2])
        return {
            "event_name": EVENT_NAME,
            "event_id": event_id,
            "timestamp": self.started_s - number % SECONDS,
            "channel": f"channel {number % CHANNELS}",
            "user_id": _user(number),
            "campaign_id": f"campaign {number % CAMPAIGNS}",
            "tags": [f"tag {number}"],
            "metadata": {"id": event_id},
        }

    async def compare(self, store: Store) -> None:
        """Read all events from the store, and count them with a query."""
        async for page in pages(store, EventFilter(self.run, *ALL_TIME)):
            self.stored |= {event.event_id for event in page}
            self.users |= {event.user_id for event in page}
            self.altered += sum(event.event_id in self.attempted and not self._is_as_sent(event) for event in page)
        self.counted = (await store.metrics(MetricsQuery(EventFilter(self.run, *ALL_TIME, (EVENT_NAME,))))).total_count

    async def erase(self, store: Store) -> None:
        """Erase the run's events, including any that are stored later."""
        for user_id in self.users:
            await store.erase(self.run, user_id, MAX_TIME_MS)

    async def remove(self, queue: Queue, *, dead: bool) -> None:
        """Remove the run's messages from a queue, and count them if they are dead letters."""
        async with Pager(queue) as pager:
            async for page in pager.pages():
                bodies = [DeadLetter.read(delivery).record.body if dead else delivery.body for delivery in page]
                ours = [
                    delivery for delivery, body in zip(page, bodies, strict=True) if self._is_ours(body, counts=dead)
                ]
                await pager.ack(ours)

    def _is_ours(self, body: bytes, *, counts: bool) -> bool:
        if body.startswith(f"{self.run} poison".encode()):
            self.dead_poison |= {body} if counts else set()
            return True
        events = len(list(self._events(body)))
        self.dead_events += events if counts else 0
        return events > 0

    def _events(self, body: bytes) -> Iterator[Event]:
        try:
            yield from (event for event, _ in frames.decode_frame(body) if event.project == self.run)
        except (UndecodableMessage, UnknownFrameVersion):
            return

    def _is_as_sent(self, event: Event) -> bool:
        return to_sent_form(event) == self.event(event.event_id)


def _user(number: int) -> str:
    return f"crashtest {number % USERS}"
