"""What a client may send for an event, and the words for what it may not."""

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmill.errors import InvalidEvent, PayloadTooLarge
from eventmill.ingest.validation import parse_event

NOW_MS = 1_800_000_000_000
GOOD: dict[str, Any] = {"event_name": "view", "channel": "web", "user_id": "ada", "timestamp": 1_700_000_000}


def body(**fields: Any) -> bytes:
    return json.dumps(GOOD | fields).encode()


def raw(field: str, value: bytes) -> bytes:
    """A body in which the field has this text for a value."""
    return body(**{field: "@"}).replace(b'"@"', value)


@pytest.mark.parametrize(
    ("sent", "timestamp_ms"),
    [
        (1_700_000_000, 1_700_000_000_000),
        (1_700_000_000.123, 1_700_000_000_123),
        (1_700_000_000.9999, 1_700_000_000_999),
        (1.7e9, 1_700_000_000_000),
        (946_684_800, 946_684_800_000),
        (NOW_MS / 1000 + 300, NOW_MS + 300_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000),
        ("2023-11-14T22:13:20.1239Z", 1_700_000_000_123),
        ("2023-11-15T00:13:20+02:00", 1_700_000_000_000),
        ("2023-11-14t22:13:20z", 1_700_000_000_000),
    ],
)
def test_times_are_unix_seconds_or_rfc_3339(sent: float | str, timestamp_ms: int) -> None:
    assert parse_event(body(timestamp=sent), "default", NOW_MS).timestamp_ms == timestamp_ms


def test_defaults_are_filled_in() -> None:
    event = parse_event(body(), "shop", NOW_MS)
    assert (event.project, event.received_at_ms) == ("shop", NOW_MS)
    assert (event.campaign_id, event.tags, bytes(event.metadata)) == ("", (), b"{}")
    assert len(event.event_id) == 32


def test_an_omitted_field_is_the_same_as_its_default() -> None:
    full = body(campaign_id="", tags=[], metadata={}, timestamp=1_700_000_000.0)
    assert parse_event(full, "default", NOW_MS) == parse_event(body(), "default", NOW_MS)


def test_a_senders_own_id_is_kept() -> None:
    assert parse_event(body(event_id="order-17"), "default", NOW_MS).event_id == "order-17"


def test_the_order_of_fields_does_not_matter() -> None:
    turned = json.dumps(dict(reversed(GOOD.items()))).encode()
    assert parse_event(turned, "default", NOW_MS) == parse_event(body(), "default", NOW_MS)


@pytest.mark.parametrize(
    "metadata",
    [b'{"a": 1.50, "b": 12345678901234567890123}', b'{"\\u0000": "\\u0000", "x":"\xef\xbf\xbf"}', b'{ "a" : [ ] }'],
)
def test_metadata_is_kept_as_it_was_sent(metadata: bytes) -> None:
    assert bytes(parse_event(raw("metadata", metadata), "default", NOW_MS).metadata) == metadata


def test_limits_are_inclusive() -> None:
    deepest = {"event_name": "n" * 256, "channel": "c" * 64, "user_id": "\U0001f600" * 256, "campaign_id": "p" * 256}
    deepest |= {"tags": ["t" * 128] * 64, "event_id": "i" * 128}  # type: ignore[dict-item]
    event = parse_event(body(**deepest), "default", NOW_MS)
    assert len(event.tags) == 64
    parse_event(raw("metadata", b'{"a":' * 32 + b"1" + b"}" * 32), "default", NOW_MS)
    parse_event(raw("metadata", b"{" + b'"a":[[],[]],' * 100 + b'"b":1}'), "default", NOW_MS)
    padding = 32 * 1024 - len(raw("metadata", b'{"a":""}'))
    parse_event(raw("metadata", b'{"a":"' + b"x" * padding + b'"}'), "default", NOW_MS)


BAD: list[tuple[str, bytes, str | None, str]] = [
    ("no body", b"", None, "empty"),
    ("blank body", b" \n", None, "empty"),
    ("no JSON", b"nope", None, "not valid JSON"),
    ("cut short", body()[:-1], None, "at byte"),
    ("trailing characters", body() + b"x", None, "trailing characters"),
    ("array", b"[" + body() + b"]", None, "one JSON object"),
    ("string", b'"x"', None, "one JSON object"),
    ("null", b"null", None, "one JSON object"),
    (
        "missing name",
        json.dumps({k: v for k, v in GOOD.items() if k != "event_name"}).encode(),
        "event_name",
        "required",
    ),
    ("missing time", json.dumps({k: v for k, v in GOOD.items() if k != "timestamp"}).encode(), "timestamp", "required"),
    ("empty name", body(event_name=""), "event_name", "1 to 256"),
    ("empty channel", body(channel=""), "channel", "1 to 64"),
    ("empty user", body(user_id=""), "user_id", "1 to 256"),
    ("empty id", body(event_id=""), "event_id", "1 to 128"),
    ("empty tag", body(tags=["a", ""]), "tags", "1 to 128"),
    ("long name", body(event_name="x" * 257), "event_name", "1 to 256"),
    ("long channel", body(channel="x" * 65), "channel", "1 to 64"),
    ("long campaign", body(campaign_id="x" * 257), "campaign_id", "at most 256"),
    ("long tag", body(tags=["x" * 129]), "tags", "1 to 128"),
    ("many tags", body(tags=["x"] * 65), "tags", "at most 64"),
    ("unknown field", body(price=3), "price", "metadata"),
    ("wrong type", body(user_id=17), "user_id", "string"),
    ("null field", body(user_id=None), "user_id", "string"),
    ("null optional", body(campaign_id=None), "campaign_id", "string"),
    ("tags no list", body(tags="a"), "tags", "list"),
    ("tag no string", body(tags=[1]), "tags", "strings"),
    ("metadata list", body(metadata=[]), "metadata", "object"),
    ("metadata null", body(metadata=None), "metadata", "object"),
    ("metadata string", body(metadata="x"), "metadata", "object"),
    ("boolean time", body(timestamp=True), "timestamp", "unix seconds"),
    ("null time", body(timestamp=None), "timestamp", "unix seconds"),
    ("no RFC 3339", body(timestamp="yesterday"), "timestamp", "RFC 3339"),
    ("date alone", body(timestamp="2023-11-14"), "timestamp", "RFC 3339"),
    ("no zone", body(timestamp="2023-11-14T22:13:20"), "timestamp", "RFC 3339"),
    ("milliseconds", body(timestamp=1_700_000_000_000), "timestamp", "looks like milliseconds"),
    ("milliseconds as float", body(timestamp=1_700_000_000_000.5), "timestamp", "looks like milliseconds"),
    ("1999", body(timestamp=946_684_799), "timestamp", "2000-01-01"),
    ("1999 by a hair", body(timestamp=946_684_799.9999), "timestamp", "2000-01-01"),
    ("negative", body(timestamp=-1), "timestamp", "2000-01-01"),
    ("tomorrow", body(timestamp=NOW_MS // 1000 + 86_400), "timestamp", "future"),
    ("a hair too late", body(timestamp=NOW_MS / 1000 + 300.001), "timestamp", "future"),
    ("NaN", raw("timestamp", b"NaN"), "timestamp", "not valid JSON"),
    ("infinity", raw("timestamp", b"-Infinity"), "timestamp", "not valid JSON"),
    ("1e400", raw("timestamp", b"1e400"), "timestamp", "out of range"),
    ("10^20", raw("timestamp", b"100000000000000000000"), "timestamp", "out of range"),
    ("very many digits", raw("timestamp", b"1" * 6000), "timestamp", "out of range"),
    ("lone surrogate", raw("user_id", rb'"\ud800"'), "user_id", "lone surrogate"),
    ("turned surrogates", raw("user_id", rb'"\udc00\ud800"'), "user_id", "lone surrogate"),
    ("surrogate in a tag", raw("tags", rb'["\ud800"]'), "tags", "lone surrogate"),
    ("surrogate in metadata", raw("metadata", rb'{"a":"\ud800"}'), "metadata", "lone surrogate"),
    ("escaped NUL", raw("user_id", rb'"\u0000"'), "user_id", "control characters"),
    ("NUL in a tag", raw("tags", rb'["a\u0000"]'), "tags", "control characters"),
    ("NUL in the id", raw("event_id", rb'"a\u0000"'), "event_id", "control characters"),
    ("C1 control", body(channel="a\x85b"), "channel", "control characters"),
    ("plain NUL", raw("user_id", b'"a\x00"'), "user_id", "not valid JSON"),
    ("invalid UTF-8", raw("user_id", b'"\xff\xfe"'), "user_id", "UTF-8"),
    ("invalid UTF-8 in metadata", raw("metadata", b'{"a":"\xc3"}'), "metadata", "UTF-8"),
    ("encoded surrogate", raw("metadata", b'{"a":"\xed\xa0\x80"}'), "metadata", "UTF-8"),
    ("NaN in metadata", raw("metadata", b'{"a":NaN}'), "metadata", "not valid JSON"),
    ("1e400 in metadata", raw("metadata", b'{"a":1e400}'), "metadata", "out of range"),
    ("deep metadata", raw("metadata", b'{"a":' * 33 + b"1" + b"}" * 33), "metadata", "deeper than 32"),
    ("very deep metadata", raw("metadata", b'{"a":' * 1000 + b"1" + b"}" * 1000), "metadata", "deeper than 32"),
    ("very deep tags", raw("tags", b"[" * 5000 + b"]" * 5000), "tags", "strings"),
    ("very deep unknown", raw("x", b"[" * 5000 + b"]" * 5000), "x", "metadata"),
    ("two texts", body() + b"\n" + body(), None, "trailing characters"),
]


@pytest.mark.parametrize(("sent", "field", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_event_is_rejected_with_a_message_that_names_the_field(
    sent: bytes, field: str | None, words: str
) -> None:
    with pytest.raises(InvalidEvent) as refusal:
        parse_event(sent, "default", NOW_MS)
    assert words in refusal.value.message
    assert refusal.value.field == field
    assert field is None or field in refusal.value.message


@pytest.mark.parametrize(
    "name",
    [
        "missing required",
        "unknown field",
        "Object missing required field `x`",
        "a - at `$.tags`",
        "a - at `$.zzz",
        "`",
        "",
        "\u0000",
        "x" * 1000,
    ],
)
def test_an_unknown_field_is_named_whatever_its_name(name: str) -> None:
    with pytest.raises(InvalidEvent, match="unknown field") as refusal:
        parse_event(body(**{name: 1}), "default", NOW_MS)
    assert refusal.value.field == name[:64]


@given(st.dictionaries(st.text() | st.sampled_from(list(GOOD)), st.none() | st.text() | st.integers() | st.floats()))
def test_whatever_is_sent_is_taken_or_rejected(fields: dict[str, object]) -> None:
    with contextlib.suppress(InvalidEvent):
        parse_event(json.dumps(GOOD | fields).encode(), "default", NOW_MS)


@given(st.binary() | st.text().map(str.encode))
def test_whatever_bytes_are_sent_are_rejected(sent: bytes) -> None:
    with pytest.raises(InvalidEvent):
        parse_event(sent, "default", NOW_MS)


def test_malformed_json_is_rejected_with_the_byte_where_it_breaks() -> None:
    sent = raw("campaign_id", b"NaN")
    with pytest.raises(InvalidEvent, match=f"at byte {sent.index(b'NaN')}"):
        parse_event(sent, "default", NOW_MS)


def test_an_event_over_32_kib_is_rejected() -> None:
    with pytest.raises(PayloadTooLarge, match="32768"):
        parse_event(body(metadata={"a": "x" * 33 * 1024}), "default", NOW_MS)


def test_the_oldest_time_can_be_later_than_2000() -> None:
    with pytest.raises(InvalidEvent, match="2023-12-01"):
        parse_event(body(), "default", NOW_MS, oldest_ms=1_701_388_800_000)


def test_rejecting_is_quick_whatever_is_sent() -> None:
    nasty = [
        b"[" * 32_000,
        b'{"a":' * 6000,
        b'{"' + b"\\" * 32_000,
        b"{" + b'"a":1,' * 5000,
        b'{"x":"' + b"\\u" * 16_000,
    ]
    started = time.process_time()
    for sent in nasty:
        with pytest.raises(InvalidEvent):
            parse_event(sent, "default", NOW_MS)
    assert time.process_time() - started < 2
