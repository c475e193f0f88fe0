"""Events to test with."""

import random
from typing import Any

from eventmill import EVENT_FIELDS, Event, EventField, create_event

NOON_MS = 1_700_049_600_000  # 2023-11-15 12:00:00 UTC


def make_event(**fields: Any) -> Event:
    """Return a valid event with these fields. Times are `timestamp_ms` and `received_at_ms`."""
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
    """Return distinct random events within a span of time, with few names, channels and users.

    The same seed gives the same events.
    """
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
            **{field.name: _random_value(field, rng) for field in _OTHERS},
        )
        for number in range(count)
    ]


# Fields that clients may send and that are not named above.
_NAMED = ["event_name", "timestamp_ms", "event_id", "channel", "user_id", "campaign_id", "tags", "metadata"]
_OTHERS = [field for field in EVENT_FIELDS if field.sent is not None and field.name not in _NAMED]


def _random_value(field: EventField, rng: random.Random) -> Any:
    """Return the default, or a value of the field's type."""
    values: dict[type, Any] = {str: "ab", tuple: ("a", "b")}
    return rng.choice([field.default, values.get(type(field.default), field.default)])
