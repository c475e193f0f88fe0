"""What a crashtest sent, and what became of it."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from eventmill import frames
from eventmill.answers import pages
from eventmill.cli.paging import Pager
from eventmill.errors import UndecodableMessage, UnknownFrameVersion
from eventmill.event import MAX_TIME_MS, MIN_TIME_MS, Event
from eventmill.interfaces import Queue, Store
from eventmill.query import EventFilter, MetricsQuery

EVENT_NAME = "crashtest"
ALL_TIME = (MIN_TIME_MS, MAX_TIME_MS + 1)
CHANNELS, USERS, CAMPAIGNS, SECONDS = 7, 5, 3, 3600  # by the event's number
FAULTS = ("lost", "doubled", "unexpected", "altered", "dead_events", "poison_missing")


@dataclass(slots=True)
class Ledger:
    """Events and poison messages of one run, which is a project of its own."""

    run: str
    started_s: int = field(default_factory=lambda: int(time.time()))
    needs_outage: bool = False
    attempted: set[str] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=lambda: {_user(number) for number in range(USERS)})
    altered: int = 0  # stored with other contents than were sent
    counted: int = 0  # by the store's own metrics
    poison: set[bytes] = field(default_factory=set)  # that was sent
    confirmed_poison: set[bytes] = field(default_factory=set)
    dead_poison: set[bytes] = field(default_factory=set)
    dead_events: int = 0
    crashes: int = 0
    outages: int = 0

    def verdict(self) -> dict[str, int]:
        """The figures; the last six must be 0."""
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
        # Where nothing was accepted or nothing failed, nothing was proved.
        is_proof = bool(self.accepted and self.crashes and (self.outages or not self.needs_outage))
        return is_proof and not any(figures[name] for name in FAULTS)

    def event(self, event_id: str) -> dict[str, Any]:
        """The event of this id: each field is derived from the id, so that it can be checked once it is stored."""
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
        """Read everything back, and count it as a user would."""
        async for page in pages(store, EventFilter(self.run, *ALL_TIME)):
            self.stored |= {event.event_id for event in page}
            self.users |= {event.user_id for event in page}
            self.altered += sum(event.event_id in self.attempted and not self._is_same(event) for event in page)
        self.counted = (await store.metrics(MetricsQuery(self.run, EVENT_NAME, *ALL_TIME))).total_count

    async def erase(self, store: Store) -> None:
        """Erase the run's events, also those that are stored later."""
        for user_id in self.users:
            await store.erase(self.run, user_id, MAX_TIME_MS)

    async def remove(self, queue: Queue, *, dead: bool) -> None:
        """Remove the run's messages from a queue; count them if they are dead letters."""
        async with Pager(queue) as pager:
            async for page in pager.pages():
                bodies = [frames.decode_dead(delivery.body).body if dead else delivery.body for delivery in page]
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

    def _is_same(self, event: Event) -> bool:
        """Whether a stored event holds what was sent."""
        return self.event(event.event_id) == {
            "event_name": event.event_name,
            "event_id": event.event_id,
            "timestamp": event.timestamp_ms / 1000,
            "channel": event.channel,
            "user_id": event.user_id,
            "campaign_id": event.campaign_id,
            "tags": list(event.tags),
            "metadata": json.loads(bytes(event.metadata)),
        }


def _user(number: int) -> str:
    return f"crashtest {number % USERS}"
