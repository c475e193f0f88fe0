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
from collections.abc import Iterator, Sequence
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
MAX_FRAME_EVENTS = 1000
MAX_FRAME_LINE_BYTES = 512 * 1024  # of lines, before they are packed
DEAD_HEADER_BYTES = 2 * 1024
_MAX_UNPACKED_BYTES = 1024 * 1024  # that a reader takes
_COMPRESS_FROM_BYTES = 1024

_HEADER = struct.Struct(">2sBBHI")
_PLAIN, _ZSTD = 0, 1
_compressor = zstd.ZstdCompressor(level=1)


def body_limit(max_body_bytes: int) -> int:
    """The bytes of a frame that a queue takes even inside a dead record."""
    return min(MAX_FRAME_BYTES, max_body_bytes) - DEAD_HEADER_BYTES


def pack(lines: Sequence[bytes], limit_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Encode lines into frames of at most `limit_bytes`, in order; yield each frame's number of lines and its body.

    How well lines compress is known only afterwards. So a run of lines is packed as a whole, and one that turns out
    too large is packed again in equal parts.
    """
    for run in _split(lines):
        yield from _fit(run, limit_bytes)


def _split(lines: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Cut lines into runs that a frame may hold, however they compress."""
    start = size = 0
    for index, line in enumerate(lines):
        if index - start == MAX_FRAME_EVENTS or (index > start and size + len(line) > MAX_FRAME_LINE_BYTES):
            yield lines[start:index]
            start, size = index, 0
        size += len(line) + 1
    yield lines[start:]


def _fit(run: Sequence[bytes], limit_bytes: int) -> Iterator[tuple[int, bytes]]:
    body = encode_frame(run)
    parts = min(len(run), -(-len(body) // limit_bytes))
    if parts == 1:
        yield len(run), body
        return
    step = -(-len(run) // parts)
    for start in range(0, len(run), step):
        yield from _fit(run[start : start + step], limit_bytes)


def encode_frame(lines: Sequence[bytes]) -> bytes:
    """Encode lines, at least one, as one message body, compressed if that makes it smaller."""
    payload = b"\n".join(lines)
    codec, packed = _PLAIN, payload
    if len(payload) >= _COMPRESS_FROM_BYTES:
        compressed = _compressor.compress(payload, _compressor.FLUSH_FRAME)
        if len(compressed) < len(payload):
            codec, packed = _ZSTD, compressed
    return _HEADER.pack(b"em", VERSION, codec, len(lines), len(payload)) + packed


def decode_frame(body: bytes) -> list[tuple[Event, bytes]]:
    """The events of a frame, each with its line.

    Raises UndecodableMessage for anything that is no frame, or one cut short or altered, and
    UnknownFrameVersion for a frame that a newer program wrote.
    """
    count, payload = _open(body)
    try:
        events = decode_lines(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UndecodableMessage(f"the frame holds something that is no event: {error}") from error
    lines = payload.split(b"\n")
    # No JSON value holds "}" before "{", so that each of these ends of lines stands between two events: one per line.
    if not len(events) == len(lines) == count == payload.count(b"}\n{") + 1:
        raise UndecodableMessage(f"the frame is damaged: it announces {count} events and holds {len(lines)} lines")
    return list(zip(events, lines, strict=True))


def split_frame(body: bytes) -> list[bytes]:
    """The lines of a frame, without a look at the events in them. Raises as `decode_frame` does."""
    return _open(body)[1].split(b"\n")


def _open(body: bytes) -> tuple[int, bytes]:
    """The number of events that a frame announces, and its payload."""
    if body[:2] != b"em" or len(body) < 3:
        raise UndecodableMessage("not a frame: it does not start with 'em'")
    if body[2] != VERSION:
        raise UnknownFrameVersion(f"frame version {body[2]}: this program reads version {VERSION}")
    if len(body) < _HEADER.size:
        raise UndecodableMessage("the frame's header is cut short")
    _, _, codec, count, size = _HEADER.unpack_from(body)
    payload = _unpack(body[_HEADER.size :], codec, size)
    if len(payload) != size:
        raise UndecodableMessage(f"the frame is damaged: it announces {size} bytes and holds {len(payload)}")
    return count, payload


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


def encode_dead(record: DeadRecord, max_bytes: int | None = None) -> bytes:
    """The record as a body for a dead queue, at most 2 KiB larger than the dead body.

    A body that would not fit into `max_bytes`, which only a foreign message can be, is cut, and the record says so.
    """
    body, message = record.body, record.message[:256]
    if max_bytes is not None and len(body) + DEAD_HEADER_BYTES > max_bytes:
        message = f"(cut from {len(body)} bytes) {message}"
        body = body[: max_bytes - DEAD_HEADER_BYTES]
    short = msgspec.structs.replace(record, body=b"", message=message, code=record.code[:64])
    return b"ed" + bytes([VERSION]) + msgspec.json.encode(short) + b"\n" + body


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
