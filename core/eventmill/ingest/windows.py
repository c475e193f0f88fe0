"""Splits a large JSON body window by window: decoded as a whole, it would hold up all other requests for 0.1 s.

A window ends at a comma between two objects. If the text of a window is a valid array in brackets, the comma after it
separates two elements of the outermost array, because a JSON text can be read in one way only.
"""

import re

import msgspec

from eventmill.turns import Line

WINDOW_BYTES = 256 * 1024
_SEARCHED_BYTES = 40 * 1024  # more than the largest event has
_ATTEMPTS = 3
_START = re.compile(
    rb'\s{0,256}(\{\s{0,256}(?:"api_key"\s{0,256}:\s{0,256}"([^"\\]{0,128})"\s{0,256},\s{0,256})?'
    rb'"events"\s{0,256}:\s{0,256})?\['
)
_END = re.compile(rb"\]\s{0,256}(\})?\s{0,256}\Z")
_SEAM = re.compile(rb"\}\s{0,256}(,)\s{0,256}\{")
_decode = msgspec.json.Decoder(list[msgspec.Raw]).decode


async def split(body: bytes, limit: int, line: Line) -> tuple[list[msgspec.Raw], str] | None:
    """Return the items, and the key in the body, if any. Return None for a body that is malformed or unusual.

    It stops as soon as there are more items than `limit`.
    """
    start, end = _START.match(body), _END.search(body, max(0, len(body) - 1024))
    if start is None or end is None or (start[1] is None) != (end[1] is None):
        return None
    items: list[msgspec.Raw] = []
    at, stop = start.end(), end.start()
    while at < stop and len(items) <= limit:
        await line.turn()
        window = _decode_window(body, at, stop)
        if window is None:
            return None
        items += window[0]
        at = window[1]
    return items, (start[2] or b"").decode("latin-1")


def _decode_window(body: bytes, at: int, stop: int) -> tuple[list[msgspec.Raw], int] | None:
    """Return the items of the next window, and where the one after it starts; None if no end of a window is found."""
    ends = [stop]
    if stop - at > WINDOW_BYTES:
        last = at + WINDOW_BYTES
        ends = [seam.start(1) for seam in _SEAM.finditer(body, last - _SEARCHED_BYTES, last)]
    for end in reversed(ends[-_ATTEMPTS:]):
        try:
            return _decode(b"[%b]" % body[at:end]), end + 1
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
    return None
