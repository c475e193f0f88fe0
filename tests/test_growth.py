"""A new field of events is one entry in a table: everything else follows, also filters and groups by it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.mill import ROOT

_FIELD = """\
    country: Annotated[str, optional_text("where the user is", 2)] = ""
    labels: Annotated[tuple[str, ...], text_list("more labels", [])] = ()
    context: Annotated[msgspec.Raw, json_object("more properties", {})] = msgspec.Raw(b"{}")
"""
_AFTER_FIELD = "    campaign_id: Annotated["

# What the changed program does, with a ClickHouse table that the program of today has created.
_SCRIPT = """
import asyncio, json, sys, time
from pydantic import SecretStr
import eventmill_store_clickhouse as plugin
from eventmill import EventBatch, EventFilter, MetricsQuery, parse_property, reference
from eventmill.event import create_event, to_sent_form
from eventmill.errors import InvalidEvent
from eventmill.frames import decode_frame, encode_frame
from eventmill.event import encode_line
from eventmill.ingest.validation import parse_event
from eventmill.testing import make_events

sent = {"event_name": "a", "channel": "c", "user_id": "u", "timestamp": int(time.time()), "country": "NZ"}
sent |= {"labels": ["x"], "context": {"deep": [1]}}
now_ms = time.time_ns() // 1_000_000
event = parse_event(json.dumps(sent, indent=1).encode(), "default", now_ms)
assert event.country == "NZ" and to_sent_form(event)["country"] == "NZ"
try:
    parse_event(json.dumps(sent | {"country": "long"}).encode(), "default", now_ms)
except InvalidEvent as error:
    assert "country must be a string of at most 2 characters" in str(error), error
else:
    raise AssertionError("no rule")

assert to_sent_form(event)["context"] == {"deep": [1]} and event.labels == ("x",)
for wrong in ({"context": [1]}, {"labels": ["\\n"]}, {"context": eval("[" * 40 + "]" * 40)}):
    try:
        parse_event(json.dumps(sent | wrong).encode(), "default", now_ms)
    except InvalidEvent as error:
        assert list(wrong)[0] in str(error), error
    else:
        raise AssertionError(wrong)

for golden in json.load(open(sys.argv[1])):
    fields = golden["fields"]
    lists = {"tags": tuple(fields.get("tags", ())), "metadata": fields.get("metadata", "{}").encode()}
    assert create_event(**(fields | lists)).event_id == golden["event_id"], "the ids of old events changed"
    assert create_event(**(fields | lists | {"country": ""})).event_id == golden["event_id"]
    changed = create_event(**(fields | lists | {"country": "NZ"}))
    assert fields.get("event_id") or changed.event_id != golden["event_id"]

[(same, _)] = decode_frame(encode_frame([encode_line(event)]))
assert same == event
assert any(event.country for event in make_events(50)), "the contract's random events have the field"

async def main():
    settings = plugin.backend.settings(url=SecretStr(f"chdb://{sys.argv[2]}"))
    async with plugin.backend.open(settings) as store:
        try:
            await store.check()
        except Exception as error:
            assert "lacks a column" in str(error), error
        else:
            raise AssertionError("the missing column was not noticed")
        await store.migrate()
        await store.insert(EventBatch.of([event, *make_events(20)]))
        assert await store.find([event.identity]) == [event]
        wanted = EventFilter("default", now_ms - 10**6, now_ms + 10**6, ("a",))
        query = MetricsQuery(wanted, (parse_property("country", "group_by"),))
        answer = await store.metrics(query)
        assert [group.values[0] for group in answer.groups] == ["NZ"], answer
        assert answer == await reference.compute_metrics(store, query)
        await store.erase("default", "u", now_ms + 10**6)
        assert await store.find([event.identity]) == []

asyncio.run(main())

from eventmill.api.openapi import SentEvent
from eventmill.api.receipts import StoredEventResponse, to_stored
import msgspec
assert "country" in msgspec.json.schema_components([SentEvent])[1]["SentEvent"]["properties"]
assert "country" in StoredEventResponse.model_fields
assert to_stored(event)["context"] == {"deep": [1]}
"""

_CREATE = """
import asyncio, sys
from pydantic import SecretStr
import eventmill_store_clickhouse as plugin

async def main():
    async with plugin.backend.open(plugin.backend.settings(url=SecretStr(f"chdb://{sys.argv[1]}"))) as store:
        await store.migrate()

asyncio.run(main())
"""


@pytest.fixture
def changed_core(tmp_path: Path) -> Path:
    """A copy of core with more fields."""
    core = tmp_path / "core"
    shutil.copytree(ROOT / "core", core, ignore=shutil.ignore_patterns("__pycache__"))
    file = core / "eventmill" / "event.py"
    lines = file.read_text().splitlines(keepends=True)
    [index] = [number for number, line in enumerate(lines) if line.startswith(_AFTER_FIELD)]
    file.write_text("".join([*lines[: index + 1], _FIELD, *lines[index + 1 :]]))
    return core


def test_a_field_is_one_entry(changed_core: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chdb"
    subprocess.run([sys.executable, "-c", _CREATE, str(folder)], check=True)
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(ROOT / "tests/data/event_ids.json"), str(folder)],
        env=os.environ | {"PYTHONPATH": str(changed_core)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_program_of_today_keeps_events_with_the_new_field(changed_core: Path) -> None:
    """In a rolling upgrade the old consumer releases such messages; it must not dead-letter them."""
    write = "from eventmill.testing import make_event; from eventmill.event import encode_line;"
    write += "from eventmill.frames import encode_frame; import sys;"
    write += "sys.stdout.buffer.write(encode_frame([encode_line(make_event(country='NZ'))]))"
    environment = os.environ | {"PYTHONPATH": str(changed_core)}
    body = subprocess.run([sys.executable, "-c", write], env=environment, capture_output=True, check=True).stdout
    read = "import sys; from eventmill import frames, errors;"
    read += "\ntry: frames.decode_frame(bytes.fromhex(sys.argv[1]))\nexcept errors.UnknownFrameVersion as e: print(e)"
    done = subprocess.run([sys.executable, "-c", read, body.hex()], capture_output=True, text=True, check=True)
    assert "country" in done.stdout
    assert json.dumps(done.stdout)
