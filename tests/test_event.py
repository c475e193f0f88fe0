"""Events: identity, versions, lines, batches."""

import itertools
import json
from typing import Any

import msgspec
import pytest

from eventmill.event import EventBatch, create_event, decode_line, encode_line
from eventmill.testing import make_event, make_events
from support.mill import ROOT

FIELDS: dict[str, Any] = {
    "project": "p",
    "event_name": "name",
    "timestamp_us": 1_700_000_000_000_001,
    "channel": "channel",
    "user_id": "user",
    "received_at_ms": 1_700_000_000_123,
    "campaign_id": "campaign",
    "tags": ("a", "b"),
    "metadata": b'{"a":1}',
}


@pytest.mark.parametrize(
    "change",
    [
        {"project": "other"},
        {"event_name": "other"},
        {"timestamp_us": 1_700_000_000_000_002},
        {"channel": "other"},
        {"user_id": "other"},
        {"campaign_id": ""},
        {"tags": ("b", "a")},
        {"tags": ("ab",)},
        {"tags": ()},
        {"metadata": b'{"a":2}'},
        {"metadata": b"{}"},
    ],
)
def test_events_that_differ_in_any_field_have_different_ids(change: dict[str, object]) -> None:
    assert create_event(**FIELDS).event_id != create_event(**(FIELDS | change)).event_id


@pytest.mark.parametrize("golden", json.loads((ROOT / "tests/data/event_ids.json").read_text()))
def test_the_content_hash_never_changes(golden: dict[str, Any]) -> None:
    """A changed hash would make every event that is sent again a new event."""
    fields = golden["fields"]
    lists = {"tags": tuple(fields.get("tags", ())), "metadata": fields.get("metadata", "{}").encode()}
    event = create_event(**(fields | lists))
    assert (event.event_id, event.version) == (golden["event_id"], golden["version"])


def test_moving_text_between_fields_changes_the_id() -> None:
    one = create_event(**(FIELDS | {"channel": "a", "user_id": "bc"}))
    two = create_event(**(FIELDS | {"channel": "ab", "user_id": "c"}))
    assert one.event_id != two.event_id


def test_a_repeated_event_keeps_its_id_and_gets_a_greater_version() -> None:
    first = create_event(**FIELDS)
    second = create_event(**(FIELDS | {"received_at_ms": FIELDS["received_at_ms"] + 1}))
    assert first.identity == second.identity
    assert first.version < second.version


def test_versions_of_one_moment_differ_by_content() -> None:
    versions = {make_event(event_id="same", channel=f"{number}").version for number in range(100)}
    assert len(versions) == 100


def test_an_event_is_one_line_and_comes_back_from_it() -> None:
    event = make_event(metadata=b'{\r\n  "a": "\\n",\n  "b": 1.50\n}', tags=("\u2028", "é"))
    line = encode_line(event)
    assert b"\n" not in line
    assert b"\r" not in line
    assert decode_line(line) == event
    assert msgspec.json.decode(line)["metadata"] == {"a": "\n", "b": 1.5}
    assert b'"b": 1.50' in line


def test_a_batch_keeps_the_greatest_version_of_each_identity_in_any_order() -> None:
    versions = [make_event(event_id="same", received_at_ms=1_700_000_000_000 + late) for late in range(3)]
    other = make_event(event_id="other")
    for order in itertools.permutations([*versions, other]):
        batch = EventBatch.of(order)
        assert {event.event_id: event for event in batch.events} == {"same": versions[2], "other": other}
        assert [decode_line(line) for line in batch.lines] == batch.events


def test_a_part_of_a_batch_keeps_events_and_lines_together() -> None:
    batch = EventBatch.of(make_events(10))
    part = batch.take([7, 2])
    assert len(part) == 2
    assert list(part.events) == [batch.events[7], batch.events[2]]
    assert list(part.lines) == [batch.lines[7], batch.lines[2]]
