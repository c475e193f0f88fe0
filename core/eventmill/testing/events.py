"""Events to test with."""

import random
from typing import Any

from eventmill import Event, create_event

NOON_MS = 1_700_049_600_000  # 2023-11-15 12:00:00 UTC


def make_event(**fields: Any) -> Event:
    """A valid event; name whatever field matters. Times are `timestamp_ms` and `received_at_ms`."""
    timestamp_ms = fields.pop("timestamp_ms", NOON_MS)
    defaults: dict[str, Any] = {
        "project": "default",
        "event_name": "page_view",
        "channel": "web",
        "user_id": "user_1",
        "received_at_ms": NOON_MS,
    }
    return create_event(timestamp_us=timestamp_ms * 1000, **(defaults | fields))


def make_events(count: int, *, seed: int = 0, start_ms: int = NOON_MS, span_ms: int = 3 * 86_400_000) -> list[Event]:
    """Different random events over a span of time: a few names, channels and users, the same for the same seed."""
    rng = random.Random(seed)
    return [
        make_event(
            event_name=rng.choice(["page_view", "sign_up", "download"]),
            channel=rng.choice(["web", "mobile", "bot", "other"]),
            user_id=f"user_{rng.randrange(max(1, count // 3))}",
            timestamp_ms=start_ms + rng.randrange(span_ms),
            event_id=f"{seed}-{number}",
            tags=("a", "b")[: rng.randrange(3)],
            metadata=b'{"number":%d}' % number,
        )
        for number in range(count)
    ]
