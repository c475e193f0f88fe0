"""The wire format."""

import itertools
import struct
from collections.abc import Callable, Sequence
from secrets import token_urlsafe

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventmill import frames
from eventmill.errors import UndecodableMessage, UnknownFrameVersion
from eventmill.event import encode_line
from eventmill.testing import make_event, make_events

LINES = [encode_line(event) for event in make_events(200)]


@pytest.mark.parametrize("count", [1, 2, 200])
def test_events_come_back_from_a_frame(count: int) -> None:
    pairs = frames.decode_frame(frames.encode_frame(LINES[:count]))
    assert [event for event, _ in pairs] == make_events(200)[:count]
    assert [line for _, line in pairs] == LINES[:count]


def test_a_frame_of_many_events_is_compressed() -> None:
    assert len(frames.encode_frame(LINES)) < len(b"".join(LINES)) / 3


def test_a_published_frame_of_version_1_can_be_read_forever() -> None:
    line = (
        b'{"project":"default","event_name":"a","timestamp_ms":1700000000000,"event_id":"1","channel":"c",'
        b'"user_id":"u","campaign_id":"","tags":["t"],"metadata":{"x": 1},"received_at_ms":1700000000001,"version":7}'
    )
    body = b"em\x01\x00" + (1).to_bytes(2, "big") + len(line).to_bytes(4, "big") + line
    [(event, same)] = frames.decode_frame(body)
    assert same == line
    assert (event.event_name, event.tags, bytes(event.metadata), event.version) == ("a", ("t",), b'{"x": 1}', 7)


@pytest.mark.parametrize("lines", [LINES[:1], LINES], ids=["plain", "compressed"])
def test_a_frame_cut_short_is_undecodable(lines: list[bytes]) -> None:
    body = frames.encode_frame(lines)
    for end in range(len(body)):
        with pytest.raises(UndecodableMessage):
            frames.decode_frame(body[:end])


@given(st.binary())
@example(b"")
@example(b"em")
@example(b"em\x01\x00\x00\x01\x00\x00\x00\x00")
@example(b"em\x01\x09\x00\x01\x00\x00\x00\x01x")
@example(b"em\x01\x00\x00\x01\x00\x00\x00\x02{}")
@example(b"em\x01\x00\x00\x01" + (5000).to_bytes(4, "big") + b"[" * 5000)
@example(b"em\x01\x00\x00\x01\x00\x00\x00\x03{\xff}")
@example(b"em\x01\x01\x00\x01\xff\xff\xff\xff" + frames.encode_frame(LINES)[10:])
def test_any_other_bytes_are_undecodable(body: bytes) -> None:
    if body[:2] in (b"em", b"ed") and body[2:3] not in (b"", b"\x01", b"\x02"):
        return
    with pytest.raises(UndecodableMessage):
        frames.decode_frame(body)


@pytest.mark.parametrize(
    "spread",
    [
        lambda lines: b"\n".join(lines) + b"\n",
        lambda lines: b"\n" + b"\n".join(lines),
        lambda lines: b"\n".join(lines).replace(b",", b",\n", 1),
        lambda lines: b"".join(lines[:2]) + b"\n\n" + b"\n".join(lines[2:]),
        lambda lines: b" ".join(lines[:2]) + b"\n" + b"\n".join(lines[2:]).replace(b",", b",\n", 1),
    ],
)
def test_events_that_do_not_stand_on_a_line_each_are_undecodable(spread: Callable[[list[bytes]], bytes]) -> None:
    lines = [encode_line(event) for event in make_events(4)]
    payload = spread(lines)
    for count in (3, 4, 5):
        with pytest.raises(UndecodableMessage):
            frames.decode_frame(struct.pack(">2sBBHI", b"em", 1, 0, count, len(payload)) + payload)


def test_an_event_out_of_range_is_undecodable() -> None:
    line = LINES[0].replace(b'"timestamp_ms":1', b'"timestamp_ms":99999')
    with pytest.raises(UndecodableMessage, match="timestamp_ms"):
        frames.decode_frame(frames.encode_frame([line]))


def test_a_frame_of_a_later_version_is_not_undecodable() -> None:
    with pytest.raises(UnknownFrameVersion, match="version 3"):
        frames.decode_frame(frames.encode_frame(LINES, version=3))


def test_consumers_of_this_release_read_what_the_next_release_writes() -> None:
    """The upgrade order: this release writes version 1 and reads 2, so that consumers can be upgraded first."""
    assert frames.FRAME_VERSION == frames.DEAD_VERSION == 1
    assert [line for _, line in frames.decode_frame(frames.encode_frame(LINES, version=2))] == LINES
    assert frames.split_frame(frames.encode_frame(LINES, version=2)) == LINES
    assert frames.is_known(frames.encode_frame(LINES, version=2))
    record = frames.DeadRecord(reason="rejected", body=b"\0body\n")
    assert frames.decode_dead(frames.encode_dead(record, version=2)) == record


@pytest.mark.parametrize("lines", [LINES[:1], LINES], ids=["plain", "compressed"])
def test_a_changed_byte_in_a_frame_of_version_2_is_noticed(lines: list[bytes]) -> None:
    body = frames.encode_frame(lines, version=2)
    for index in [*range(3, 14), *range(14, len(body), 7)]:
        changed = bytearray(body)
        changed[index] ^= 1
        with pytest.raises(UndecodableMessage, match="checksum"):
            frames.decode_frame(bytes(changed))


def test_a_line_with_a_field_of_a_newer_program_is_not_undecodable() -> None:
    line = LINES[0].replace(b'"channel":', b'"added_later":"x","channel":')
    with pytest.raises(UnknownFrameVersion, match="added_later"):
        frames.decode_frame(frames.encode_frame([line]))


@pytest.mark.parametrize("read", [frames.decode_dead, frames.decode_frame])
def test_a_dead_record_of_a_later_version_is_not_undecodable(
    read: Callable[[bytes], object],
) -> None:
    record = frames.DeadRecord(reason="rejected", body=b"body")
    with pytest.raises(UnknownFrameVersion, match="version 3"):
        read(frames.encode_dead(record, version=3))


def test_records_of_the_former_release_have_the_present_reason() -> None:
    record = frames.decode_dead(b'ed\x01{"reason":"killer"}\nbody')
    assert (record.reason, record.body) == ("poison", b"body")


LIMIT = frames.body_limit(46 * 1024)


def unpack(packed: Sequence[tuple[int, bytes]]) -> list[bytes]:
    """The lines of frames, after a check that each frame holds the announced number."""
    opened = [[line for _, line in frames.decode_frame(body)] for _, body in packed]
    assert [count for count, _ in packed] == [len(lines) for lines in opened]
    return list(itertools.chain.from_iterable(opened))


def test_events_that_compress_well_share_a_frame_up_to_1000() -> None:
    lines = [encode_line(event) for event in make_events(2500)]
    packed = list(frames.pack(lines, LIMIT))
    assert [count for count, _ in packed] == [1000, 1000, 500]
    assert unpack(packed) == lines


def test_events_that_do_not_compress_are_cut_to_the_limit() -> None:
    lines = [encode_line(make_event(metadata=b'{"a":"%b"}' % token_urlsafe(2000).encode())) for _ in range(300)]
    packed = list(frames.pack(lines, LIMIT))
    assert unpack(packed) == lines
    assert max(len(body) for _, body in packed) <= LIMIT
    assert len(packed) <= 2 * sum(len(body) for _, body in packed) / LIMIT + 1


@pytest.mark.parametrize("size", [1, 1000, 31_000])
def test_a_frame_is_never_over_the_limit(size: int) -> None:
    limit = frames.body_limit(40 * 1024)
    noise = [make_event(metadata=b'{"a":"%b"}' % token_urlsafe(size)[:size].encode()) for _ in range(30)]
    lines = [encode_line(event) for pair in zip(noise, make_events(30), strict=True) for event in pair]
    packed = list(frames.pack(lines, limit))
    assert unpack(packed) == lines
    assert all(len(body) <= limit for _, body in packed)


def test_a_frame_unpacks_to_no_more_than_readers_of_version_1_take() -> None:
    lines = [encode_line(make_event(metadata=b'{"a":"%b"}' % (b"x" * 30_000))) for _ in range(100)]
    packed = list(frames.pack(lines, LIMIT))
    assert unpack(packed) == lines
    assert max(int.from_bytes(body[6:10]) for _, body in packed) <= 512 * 1024


def test_the_largest_event_fits_the_smallest_queue_even_when_dead() -> None:
    event = make_event(
        project="p" * 64,
        event_name="\U0001f600" * 256,
        user_id="\U0001f600" * 256,
        campaign_id="\U0001f600" * 256,
        channel="\U0001f600" * 64,
        event_id="\U0001f600" * 128,
        metadata=b'{"a":"' + b"x" * 28_000 + b'"}',
    )
    line = encode_line(event)
    smallest = 40 * 1024
    assert len(frames.encode_frame([line])) <= frames.body_limit(smallest)
    record = frames.DeadRecord(
        reason="rejected", code="c" * 500, message="\0" * 500, body=b"em" * (smallest // 2 - 1024)
    )
    assert len(frames.encode_dead(record)) <= smallest


@given(st.binary())
def test_dead_letters_come_back_byte_for_byte(body: bytes) -> None:
    record = frames.DeadRecord(
        reason="rejected",
        code="RejectedEvents",
        message="no \n such column",
        attempts=3,
        origin="sqs",
        enqueued_at_ms=1,
        died_at_ms=2,
        body=body,
    )
    assert frames.decode_dead(frames.encode_dead(record)) == record


@pytest.mark.parametrize("body", [b"", b"anything", b"ed\x01no json\nbody", b"edited", frames.encode_frame(LINES)])
def test_a_plain_body_among_the_dead_was_moved_by_the_queue(body: bytes) -> None:
    record = frames.decode_dead(body)
    assert (record.reason, record.body) == ("moved", body)
