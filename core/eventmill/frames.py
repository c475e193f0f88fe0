"""Events ⇄ message bytes, and dead letters ⇄ message bytes. The only place that knows the wire format.

A frame, version 1, is a header of 10 bytes and a payload:

    offset  size  content
    0       2     "em"
    2       1     version: 1
    3       1     codec: 0 plain, 1 zstd
    4       2     number of events, big-endian
    6       4     bytes of the payload when unpacked, big-endian
    10      –     the events as JSON lines, joined by line feeds, packed by the codec

A dead record, version 1, is "ed", the version, and a JSON object on one line; then the dead body verbatim.
A version is read one release before it is written.
"""

import struct
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from eventmill.errors import UndecodableMessage, UnknownFrameVersion
from eventmill.event import Event, decode_lines

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

VERSION: Final = 1
MAX_FRAME_BYTES = 60 * 1024
MAX_FRAME_EVENTS = 500
DEAD_HEADER_BYTES = 2 * 1024
_MAX_UNPACKED_BYTES = 1024 * 1024
_COMPRESS_FROM_BYTES = 1024

_HEADER = struct.Struct(">2sBBHI")
_PLAIN, _ZSTD = 0, 1
_compressor = zstd.ZstdCompressor(level=1)


def payload_limit(max_body_bytes: int) -> int:
    """The bytes of lines that one frame holds, so that it fits a queue even inside a dead record."""
    return min(MAX_FRAME_BYTES, max_body_bytes) - _HEADER.size - DEAD_HEADER_BYTES


def split(lines: Sequence[bytes], limit_bytes: int) -> list[Sequence[bytes]]:
    """Cut lines into runs that one frame each can hold, as few as their order allows."""
    runs: list[Sequence[bytes]] = []
    start = size = 0
    for index, line in enumerate(lines):
        if index - start == MAX_FRAME_EVENTS or (index > start and size + len(line) > limit_bytes):
            runs.append(lines[start:index])
            start, size = index, 0
        size += len(line) + 1
    runs.append(lines[start:])
    return runs


def encode_frame(lines: Sequence[bytes]) -> bytes:
    """Pack lines, at least one, into one message body."""
    payload = b"\n".join(lines)
    codec = _PLAIN if len(payload) < _COMPRESS_FROM_BYTES else _ZSTD
    header = _HEADER.pack(b"em", VERSION, codec, len(lines), len(payload))
    return header + (_compressor.compress(payload, _compressor.FLUSH_FRAME) if codec == _ZSTD else payload)


def decode_frame(body: bytes) -> list[tuple[Event, bytes]]:
    """The events of a frame, each with its line.

    Raises UndecodableMessage for anything that is no frame, or one cut short or altered, and
    UnknownFrameVersion for a frame that a newer program wrote.
    """
    if body[:2] != b"em" or len(body) < 3:
        raise UndecodableMessage("not a frame: it does not start with 'em'")
    if body[2] != VERSION:
        raise UnknownFrameVersion(f"frame version {body[2]}: this program reads version {VERSION}")
    if len(body) < _HEADER.size:
        raise UndecodableMessage("the frame's header is cut short")
    _, _, codec, count, size = _HEADER.unpack_from(body)
    payload = _unpack(body[_HEADER.size :], codec, size)
    try:
        events = decode_lines(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UndecodableMessage(f"the frame holds something that is no event: {error}") from error
    lines = payload.split(b"\n")
    # No JSON value holds "}" before "{", so that each of these ends of lines stands between two events: one per line.
    if not len(events) == len(lines) == count == payload.count(b"}\n{") + 1 or len(payload) != size:
        raise UndecodableMessage(f"the frame is damaged: {count} events in {size} bytes were announced")
    return list(zip(events, lines, strict=True))


def _unpack(payload: bytes, codec: int, size: int) -> bytes:
    if codec == _PLAIN:
        return payload
    if codec != _ZSTD:
        raise UndecodableMessage(f"the frame's codec {codec} is unknown")
    if size > _MAX_UNPACKED_BYTES:
        raise UndecodableMessage(f"the frame announces {size} bytes, more than any frame holds")
    try:
        return zstd.ZstdDecompressor().decompress(payload, max_length=size + 1)
    except zstd.ZstdError as error:
        raise UndecodableMessage(f"the frame is damaged: {error}") from error


class DeadRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A dead letter: why a body died, and the body.

    Attributes:
        reason: `undecodable` (no frame), `rejected` (the store never takes it), `killer` (no process survived it) or
            `moved` (by the queue itself).
        code: the name of the error.
        message: what went wrong, in words.
        attempts: how often the message had been received.
        origin: the queue it came from.
        enqueued_at_ms, died_at_ms: when it was published, and when it died; unix milliseconds.
        body: a frame that may be published to the origin as it is, or the verbatim bytes that are no frame.
    """

    reason: str
    code: str = ""
    message: str = ""
    attempts: int = 0
    origin: str = ""
    enqueued_at_ms: int = 0
    died_at_ms: int = 0
    body: bytes = b""


def encode_dead(record: DeadRecord) -> bytes:
    """The record as a body for a dead queue, at most 2 KiB larger than the dead body."""
    short = msgspec.structs.replace(record, body=b"", message=record.message[:256], code=record.code[:64])
    return b"ed" + bytes([VERSION]) + msgspec.json.encode(short) + b"\n" + record.body


def is_known(body: bytes) -> bool:
    """Whether a body begins as a frame that this program reads."""
    return body[:3] == b"em" + bytes([VERSION])


def count(body: bytes) -> int:
    """How many events a frame says it holds; not more than any may."""
    return min(MAX_FRAME_EVENTS, int.from_bytes(body[4:6]))


def is_dead(body: bytes) -> bool:
    """Whether a body begins as a dead record does."""
    return body[:3] == b"ed" + bytes([VERSION])


def decode_dead(body: bytes) -> DeadRecord:
    """The record in a body of a dead queue; a plain body is one that the queue itself moved there."""
    if is_dead(body):
        header, _, dead = body[3:].partition(b"\n")
        try:
            return msgspec.structs.replace(msgspec.json.decode(header, type=DeadRecord), body=dead)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
    return DeadRecord(reason="moved", message="the queue moved it here by itself", body=body)
