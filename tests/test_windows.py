"""Large JSON bodies, which are split window by window, give the same items as if they were decoded as a whole."""

import json
from typing import Any

import pytest

from eventmill.ingest import windows
from eventmill.turns import Turns
from support.mill import running_mill

pytestmark = pytest.mark.anyio

LIMIT = 10_000
EVENTS: list[dict[str, Any]] = [
    {
        "event_name": "a",
        "channel": "web",
        "user_id": str(number),
        "timestamp": 1766717657,
        "metadata": {"items": [{"n": number}, {"text": '}, {"[\\'}], "more": {}},
        "tags": ["},{"],
    }
    for number in range(6_000)
]


async def split(body: bytes) -> tuple[list[Any], str] | None:
    assert len(body) > windows.WINDOW_BYTES
    async with Turns().line("") as line:
        found = await windows.split(body, LIMIT, line)
    return found and ([json.loads(bytes(item)) for item in found[0]], found[1])


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        (b"", b"", ""),
        (b" \n", b"\r\n ", ""),
        (b'{"events":', b"}", ""),
        (b' { "events" : ', b" } ", ""),
        (b'{"api_key":"emw_x","events":', b"}", "emw_x"),
    ],
)
@pytest.mark.parametrize("style", [{"separators": (",", ":")}, {}, {"indent": 2}])
async def test_all_usual_forms_of_a_body_are_split(style: Any, before: bytes, after: bytes, key: str) -> None:
    assert await split(before + json.dumps(EVENTS, **style).encode() + after) == (EVENTS, key)


async def test_no_more_items_than_needed_are_split() -> None:
    found = await split(b"[" + b",".join([b'{"a":1}'] * 500_000) + b"]")
    assert found is not None
    assert LIMIT < len(found[0]) < LIMIT + windows.WINDOW_BYTES / 8


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(EVENTS).encode()[:-1],
        json.dumps(EVENTS).encode()[:-1] + b",]",
        json.dumps(EVENTS).encode() + b"}",
        b'{"events":' + json.dumps(EVENTS).encode(),
        b'{"events":' + json.dumps(EVENTS).encode() + b',"events":[{}]}',
        b"[" + b"[" * 300_000 + b"]" * 300_000 + b"]",
        b'["' + b"x" * 500_000 + b'",' + b'"' + b"x" * 500_000 + b'"]',
    ],
    ids=["no end", "comma", "brace", "open", "twice", "nested", "texts"],
)
async def test_malformed_and_unusual_bodies_are_left_to_the_tolerant_way(body: bytes) -> None:
    assert await split(body) is None


async def test_a_malformed_event_in_a_large_body_is_rejected_alone() -> None:
    texts = [json.dumps(event) for event in EVENTS]
    texts[3_000] = '{"event_name": broken}'
    async with running_mill() as mill:
        answer = await mill.client.post("/events/bulk", content=f"[{','.join(texts)}]".encode())
    assert answer.status_code == 202
    assert (answer.json()["accepted"], answer.json()["rejected"]) == (len(EVENTS) - 1, 1)
    assert answer.json()["errors"][0]["index"] == 3_000


@pytest.mark.parametrize("end", ["", ",]", "]}", '],"events":[]}'])
async def test_a_large_body_with_a_wrong_end_is_refused_as_a_whole(end: str) -> None:
    async with running_mill() as mill:
        body = f"[{','.join(json.dumps(event) for event in EVENTS)}{end}"
        answer = await mill.client.post("/events/bulk", content=body.encode())
    assert answer.status_code == 400 or (end == ",]" and answer.json()["rejected"] == 1)
