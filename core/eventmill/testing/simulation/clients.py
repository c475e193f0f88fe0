"""The clients of a simulated API, and the events that the API accepted."""

import asyncio
from dataclasses import dataclass, field

from eventmill import Event, create_event
from eventmill.errors import EventmillError
from eventmill.event import encode_line
from eventmill.ingest.publisher import Publisher
from eventmill.testing.simulation.clock import EPOCH_SECONDS
from eventmill.testing.simulation.plan import Post
from eventmill.testing.simulation.world import Process, World

_TRIES = 3
_PAUSE_SECONDS = 2.0


@dataclass(slots=True)
class Ledger:
    """The events that clients sent, and when the API accepted them."""

    posted: dict[str, Event] = field(default_factory=dict)
    accepted_at: dict[str, float] = field(default_factory=dict)
    garbage: set[bytes] = field(default_factory=set)


class Clients:
    """Posts events according to the plan.

    Attributes:
        api: the process that takes posts now, and its publisher.
    """

    def __init__(self, world: World) -> None:
        self.ledger = Ledger()
        self.api: tuple[Process, Publisher] | None = None
        self._world = world

    async def post(self, number: int, post: Post) -> None:
        """Post events like a client: repeat after a failure, a few times."""
        await asyncio.sleep(post.at)
        bad = [post.bad] + (post.count - 1) * ["" if post.bad == "poison" else post.bad]
        events = [self._event(f"{number}-{index}", kind) for index, kind in enumerate(bad)]
        for _ in range(_TRIES):
            if await self._is_accepted(events):
                self._world.tell(f"accepted: {post.count} {post.bad or 'good'} event(s) {number}-…")
                self.ledger.accepted_at |= {event.event_id: self._world.now for event in events}
                return
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _is_accepted(self, events: list[Event]) -> bool:
        if self.api is None:
            return False
        process, publisher = self.api
        try:
            await publisher.publish([encode_line(event) for event in events])
        except EventmillError:
            return False
        return process.alive  # a process that died meanwhile has not responded

    def _event(self, event_id: str, bad: str) -> Event:
        now_ms = int((EPOCH_SECONDS + self._world.now) * 1000)
        event = create_event(
            project="default",
            event_name="simulated",
            timestamp_us=now_ms * 1000,
            channel="simulation",
            user_id=bad or "good",
            received_at_ms=now_ms,
            event_id=event_id,
        )
        self.ledger.posted[event_id] = event
        return event
