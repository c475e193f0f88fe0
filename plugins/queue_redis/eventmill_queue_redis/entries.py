"""Entries of a stream as deliveries."""

from collections.abc import Mapping, Sequence

from eventmill import Delivery


def enqueued_at_ms(entry: bytes) -> int:
    """Return when the entry was added: the first half of its id."""
    return int(entry.partition(b"-")[0])


def delivery(entry: bytes, attempts: int, fields: Mapping[bytes, bytes] | Sequence[bytes]) -> Delivery:
    """Return the delivery. The body of an entry of another program is its first value."""
    if not isinstance(fields, Mapping):
        fields = dict(zip(fields[::2], fields[1::2], strict=True))
    body = fields.get(b"b", next(iter(fields.values()), b""))
    return Delivery(body, attempts, enqueued_at_ms(entry), (entry, attempts))
