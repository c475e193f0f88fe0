"""The wire format: events as message bodies, and dead letters as message bodies. No other module knows it.

A frame is a header and a payload:

    offset  size  content
    0       2     "em"
    2       1     version: 1 or 2
    3       1     codec: 0 plain, 1 zstd
    4       2     number of events, big-endian
    6       4     size of the uncompressed payload in bytes, big-endian
    10      4     only in version 2: CRC-32 of the header before it and of the payload as sent, big-endian
    10/14         the events as JSON lines, joined by line feeds, compressed by the codec

A dead record is "ed", its version (1 or 2), in version 2 the CRC-32 of all other bytes (4 bytes, big-endian), a JSON
object on one line, and the dead body verbatim.

Frames and dead records have separate versions. This program writes version 1 of both and reads versions 1 and 2: a
version is read one release before it is written, so that consumers can be upgraded first.
"""

import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from eventmill.errors import UndecodableMessage, UnknownFrameVersion
from eventmill.event import Event, decode_lines

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FRAME_VERSION: Final = 1  # that is written
DEAD_VERSION: Final = 1
READABLE_VERSIONS: Final = (1, 2)
_NEWER_VERSIONS = range(3, 9)  # other bytes in this place are not a version
MAX_FRAME_BYTES = 60 * 1024
MAX_FRAME_EVENTS = 1000
MAX_FRAME_LINE_BYTES = 512 * 1024  # of lines before compression
DEAD_HEADER_BYTES = 2 * 1024
_MAX_PAYLOAD_BYTES = 1024 * 1024  # that a reader accepts
_COMPRESS_FROM_BYTES = 1024

_HEADER = struct.Struct(">2sBBHI")
_CHECKSUM = struct.Struct(">I")
_PLAIN, _ZSTD = 0, 1
_READABLE = frozenset(bytes([version]) for version in READABLE_VERSIONS)
FORMER_REASONS = {"killer": "poison"}  # the name in records of release 0.1
_compressor = zstd.ZstdCompressor(level=1)


def body_limit(max_body_bytes: int) -> int:
    """Return the largest frame that still fits into the queue inside a dead record."""
    return min(MAX_FRAME_BYTES, max_body_bytes) - DEAD_HEADER_BYTES


def pack(lines: Sequence[bytes], limit_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Encode lines in order into frames of at most `limit_bytes`; yield each frame's number of lines and its body.

    The compressed size is known only after compression. So a run of lines is encoded as a whole, and encoded again in
    equal parts if it is too large.
    """
    for run in _split(lines):
        yield from _fit(run, limit_bytes)


def _split(lines: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Cut lines into runs that respect the limits on events and uncompressed bytes."""
    if len(lines) <= MAX_FRAME_EVENTS and sum(map(len, lines)) + len(lines) <= MAX_FRAME_LINE_BYTES:
        yield lines  # nearly always, and quicker than the loop
        return
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


def encode_frame(lines: Sequence[bytes], version: int = FRAME_VERSION) -> bytes:
    """Encode at least one line as one message body, compressed if that makes it smaller."""
    payload = b"\n".join(lines)
    codec, packed = _PLAIN, payload
    if len(payload) >= _COMPRESS_FROM_BYTES:
        compressed = _compressor.compress(payload, _compressor.FLUSH_FRAME)
        if len(compressed) < len(payload):
            codec, packed = _ZSTD, compressed
    header = _HEADER.pack(b"em", version, codec, len(lines), len(payload))
    return header + (packed if version == 1 else _checksum(header + packed) + packed)


def decode_frame(body: bytes) -> list[tuple[Event, bytes]]:
    """Return the events of a frame, each with its line.

    Raise UndecodableMessage for bytes that are not an intact frame, and UnknownFrameVersion for a frame that a newer
    program wrote.
    """
    count, payload = _open(body)
    try:
        events = decode_lines(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if str(error).startswith("Object contains unknown field"):
            raise UnknownFrameVersion(f"the frame holds a field that this program does not know: {error}") from error
        raise UndecodableMessage(f"the frame holds a line that is not an event: {error}") from error
    lines = payload.split(b"\n")
    # No JSON value contains "}", a line feed and "{" in a row, so each such place separates two events: one per line.
    if not len(events) == len(lines) == count == payload.count(b"}\n{") + 1:
        raise UndecodableMessage(f"the frame is damaged: its header says {count} events, it holds {len(lines)} lines")
    return list(zip(events, lines, strict=True))


def split_frame(body: bytes) -> list[bytes]:
    """Return the lines of a frame without decoding the events. Raise as `decode_frame` does."""
    return _open(body)[1].split(b"\n")


def _open(body: bytes) -> tuple[int, bytes]:
    """Return the number of events in the header, and the payload."""
    _refuse_newer(body)
    if not is_known(body):
        raise UndecodableMessage("not a frame: it does not start with 'em' and a version")
    if len(body) < _HEADER.size:
        raise UndecodableMessage("the frame is damaged: its header is incomplete")
    _, version, codec, count, size = _HEADER.unpack_from(body)
    packed = body[_HEADER.size :] if version == 1 else _checked(body, _HEADER.size)
    payload = _unpack(packed, codec, size)
    if len(payload) != size:
        raise UndecodableMessage(f"the frame is damaged: its header says {size} bytes, it holds {len(payload)}")
    return count, payload


def _checksum(content: bytes) -> bytes:
    return _CHECKSUM.pack(zlib.crc32(content))


def _checked(body: bytes, position: int) -> bytes:
    """Return what follows the checksum at this position. Raise UndecodableMessage if the checksum does not match."""
    rest = body[position + _CHECKSUM.size :]
    if body[position : position + _CHECKSUM.size] != _checksum(body[:position] + rest):
        raise UndecodableMessage("the message is damaged: its checksum does not match")
    return rest


def _refuse_newer(body: bytes) -> None:
    """Raise UnknownFrameVersion for a frame or a dead record of a later version."""
    kind = {b"em": "frame", b"ed": "dead record"}.get(body[:2])
    if kind and int.from_bytes(body[2:3]) in _NEWER_VERSIONS:
        raise UnknownFrameVersion(f"{kind} version {body[2]}: this program reads up to {READABLE_VERSIONS[-1]}")


def _unpack(payload: bytes, codec: int, size: int) -> bytes:
    if codec == _PLAIN:
        return payload
    if codec != _ZSTD:
        raise UndecodableMessage(f"the frame has the unknown codec {codec}")
    if size > _MAX_PAYLOAD_BYTES:
        raise UndecodableMessage(f"the frame is damaged: its header says {size} bytes, more than any frame holds")
    try:
        return zstd.ZstdDecompressor().decompress(payload, max_length=size + 1)
    except zstd.ZstdError as error:
        raise UndecodableMessage(f"the frame is damaged: {error}") from error


class DeadRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A dead letter: a message body that could not be processed, and why.

    Attributes:
        reason: `undecodable` (not a frame), `rejected` (by the store, permanently), `poison` (it crashes consumers), or
            `moved` (by the queue itself).
        code: the class of the error.
        message: the error's text.
        attempts: how often the message had been received.
        origin: the queue that it came from.
        enqueued_at_ms, died_at_ms: when it was published and when it was dead-lettered, unix milliseconds.
        body: a frame that can be published to the origin again, or the verbatim bytes of an undecodable message.
    """

    reason: str
    code: str = ""
    message: str = ""
    attempts: int = 0
    origin: str = ""
    enqueued_at_ms: int = 0
    died_at_ms: int = 0
    body: bytes = b""


def encode_dead(record: DeadRecord, max_bytes: int | None = None, version: int = DEAD_VERSION) -> bytes:
    """Return the record as a body for a dead-letter queue, at most 2 KiB larger than the dead body.

    If it would not fit into `max_bytes`, which happens only to foreign messages, cut the dead body and say so in the
    record.
    """
    body, message = record.body, record.message[:256]
    if max_bytes is not None and len(body) + DEAD_HEADER_BYTES > max_bytes:
        message = f"(cut from {len(body)} bytes) {message}"
        body = body[: max_bytes - DEAD_HEADER_BYTES]
    short = msgspec.structs.replace(record, body=b"", message=message, code=record.code[:64])
    content = msgspec.json.encode(short) + b"\n" + body
    start = b"ed" + bytes([version])
    return start + (content if version == 1 else _checksum(start + content) + content)


def is_known(body: bytes) -> bool:
    """Return whether a body starts like a frame that this program can read."""
    return body[:2] == b"em" and body[2:3] in _READABLE


def count(body: bytes) -> int:
    """Return the number of events in a frame's header, capped at MAX_FRAME_EVENTS."""
    return min(MAX_FRAME_EVENTS, int.from_bytes(body[4:6]))


def raw_size(body: bytes) -> int:
    """Return the number of bytes of a frame's lines, as its header says."""
    return int(_HEADER.unpack_from(body)[-1])


def is_dead(body: bytes) -> bool:
    """Return whether a body starts like a dead record that this program can read."""
    return body[:2] == b"ed" and body[2:3] in _READABLE


def decode_dead(body: bytes) -> DeadRecord:
    """Return the record in a body of a dead-letter queue.

    A body that is not a record was moved there by the queue itself. Raise UnknownFrameVersion for a record that a newer
    program wrote.
    """
    _refuse_newer(body)
    if is_dead(body):
        try:
            content = body[3:] if body[2] == 1 else _checked(body, 3)
            header, _, dead = content.partition(b"\n")
            record = msgspec.json.decode(header, type=DeadRecord)
        except UndecodableMessage as error:
            return DeadRecord(reason="undecodable", message=f"the dead record is damaged: {error}", body=body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        else:
            reason = FORMER_REASONS.get(record.reason, record.reason)
            return msgspec.structs.replace(record, body=dead, reason=reason)
    return DeadRecord(reason="moved", message="the queue moved it here by itself", body=body)
