"""Split a JSON text into its parts without decoding them.

A decoder rejects a whole text for one malformed part. Splitting first allows each part to be rejected alone.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

# A text of more than 1 MiB is no token: searching its end would take too long without a pause.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.){0,1048576}+"|["\[\]{},]', re.DOTALL)
_KEY = re.compile(rb'\s*("(?:[^"\\]|\\.)*+")\s*:\s*', re.DOTALL)


MAX_TOKENS = 2_000_000  # about half a second of work
MAX_DEPTH = 100_000


class Part(NamedTuple):
    """One element of an array, or one value of an object with its key (still quoted)."""

    key: bytes
    value: bytes
    offset: int


def elements(text: bytes) -> Iterator[Part]:
    """Yield the elements of the array in `text`. Raise ValueError if it is not a complete array, or too complex."""
    for start, end in _spans(text, b"["):
        stripped = text[start:end].lstrip()
        yield Part(b"", stripped.rstrip(), end - len(stripped))


def members(text: bytes) -> Iterator[Part]:
    """Yield the members of the object in `text`. Raise ValueError as `elements` does."""
    for start, end in _spans(text, b"{"):
        key = _KEY.match(text, start, end)
        if key is None:
            raise ValueError(f"no key at byte {start}")
        yield Part(key[1], text[key.end() : end].rstrip(), key.end())


def _spans(text: bytes, bracket: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of each part between the commas of the outermost bracket."""
    opening = len(text) - len(text.lstrip())
    if text[opening : opening + 1] != bracket:
        raise ValueError(f"does not start with {bracket.decode()}")
    depth, start = 0, opening + 1
    for count, token in enumerate(_TOKEN.finditer(text, opening)):
        mark = token[0]
        if count == MAX_TOKENS or depth > MAX_DEPTH:
            raise ValueError("is too complex")
        if mark in b"[{":
            depth += 1
        elif mark == b"," and depth == 1:
            yield start, token.start()
            start = token.end()
        elif mark in b"]}":
            depth -= 1
            if depth == 0:
                yield from _last(text, opening, start, token.start())
                return
        elif mark == b'"':
            break
    raise ValueError("does not end")


def _last(text: bytes, opening: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    if text[end + 1 :].strip():
        raise ValueError(f"trailing characters at byte {end + 1}")
    if start > opening + 1 or text[start:end].strip():
        yield start, end
