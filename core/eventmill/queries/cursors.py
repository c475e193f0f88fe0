"""Cursors: a position in the order of raw events, as an opaque text."""

import base64
import binascii

import msgspec

from eventmill.errors import InvalidQuery
from eventmill.event import Event, Position


def write_cursor(event: Event) -> str:
    """Return the cursor of the page after this event."""
    return base64.urlsafe_b64encode(msgspec.json.encode(event.position)).decode().rstrip("=")


def read_cursor(text: str | None) -> Position | None:
    """Return the position of a cursor. Raise InvalidQuery."""
    if text is None:
        return None
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(content, type=Position)
    except (binascii.Error, ValueError, msgspec.DecodeError, RecursionError):
        raise InvalidQuery("cursor must be `next` of a former response", "cursor") from None
