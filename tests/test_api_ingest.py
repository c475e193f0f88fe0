"""POST /events and POST /events/bulk, in process, over memory backends."""

import asyncio
import gzip
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest

from eventmill import Queue, QueueUnavailable
from support.mill import Mill, running_mill
from support.proxies import QueueProxy
from test_validation import BAD

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.anyio

# Blank lines are no items, two lines are two, and an item without an end swallows those behind it.
NOT_ONE_ITEM = {("no body", "lines"), ("blank body", "lines"), ("two texts", "lines")}
NOT_ONE_ITEM |= {("cut short", "array"), ("cut short", "object")}
NDJSON = {"Content-Type": "application/x-ndjson"}


def good(number: int = 0, **fields: Any) -> dict[str, Any]:
    event = {"event_name": "good", "channel": "web", "user_id": f"user {number}", "timestamp": 1_700_000_000}
    return event | fields


def encoded(number: int = 0) -> bytes:
    return json.dumps(good(number)).encode()


@pytest.fixture
async def mill() -> AsyncIterator[Mill]:
    async with running_mill() as mill:
        yield mill


async def count(mill: Mill, event_name: str = "good") -> int:
    """How many good events can be asked for, once the queue is empty."""
    until = time.monotonic() + 10
    while (await mill.queue.depth()) != (depth := await mill.queue.depth()) or depth.ready or depth.in_flight:
        assert time.monotonic() < until
        await asyncio.sleep(0.01)
    answer = await mill.client.get(f"/metrics?event_name={event_name}&from=0&to=2000000000")
    return int(answer.json()["total_count"])


async def test_an_accepted_event_can_be_looked_up(mill: Mill) -> None:
    answer = await mill.client.post("/events", json=good())
    assert answer.status_code == 202
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"event_id": answer.json()["event_id"], "status": "accepted"}
    assert await count(mill) == 1


async def test_a_repeated_request_is_the_same_event(mill: Mill) -> None:
    first, second = [(await mill.client.post("/events", json=good())).json() for _ in range(2)]
    assert first == second
    other = (await mill.client.post("/events", json=good(tags=["x"]))).json()
    assert other["event_id"] != first["event_id"]
    assert await count(mill) == 2


async def test_a_senders_own_id_is_answered(mill: Mill) -> None:
    answer = await mill.client.post("/events", json=good(event_id='order "17"'))
    assert answer.json()["event_id"] == 'order "17"'


@pytest.mark.parametrize("case", BAD, ids=[case[0] for case in BAD])
async def test_a_bad_event_gets_400_and_the_events_around_it_are_kept(
    mill: Mill, case: tuple[str, bytes, str | None, str]
) -> None:
    name, sent, field, words = case
    answer = await mill.client.post("/events", content=sent)
    assert (answer.status_code, answer.json()["error"]) == (400, "validation_error")
    assert words in answer.json()["message"]
    assert answer.json().get("field") == field
    around = [encoded(1), sent, encoded(2)]
    array = b"[" + b", ".join(around) + b"]"
    forms = {"lines": (b"\n".join(around), NDJSON), "array": (array, {}), "object": (b'{"events": ' + array + b"}", {})}
    for form, (content, headers) in forms.items():
        if (name, form) in NOT_ONE_ITEM:
            continue
        answer = await mill.client.post("/events/bulk", content=content, headers=headers)
        verdict = answer.json()
        assert (answer.status_code, verdict["accepted"], verdict["rejected"]) == (202, 2, 1), verdict
        assert [bool(event_id) for event_id in verdict["event_ids"]] == [True, False, True]
        [error] = verdict["errors"]
        assert (error["index"], error["code"], error["field"]) == (1, "validation_error", field)
    assert await count(mill) == 2


async def test_an_event_over_32_kib_gets_413_and_the_events_around_it_are_kept(mill: Mill) -> None:
    large = json.dumps(good(metadata={"x": "y" * 33 * 1024}))
    answer = await mill.client.post("/events", content=large)
    assert (answer.status_code, answer.json()["error"]) == (413, "payload_too_large")
    answer = await mill.client.post("/events/bulk", content=f"[{large}, {json.dumps(good())}]")
    assert (answer.status_code, answer.json()["accepted"]) == (202, 1)
    assert answer.json()["errors"][0]["code"] == "payload_too_large"


@pytest.mark.parametrize("form", ["array", "object", "ndjson", "ndjson with charset", "blank lines"])
async def test_a_bulk_is_an_object_an_array_or_lines(mill: Mill, form: str) -> None:
    events = [good(number) for number in range(1200)]
    content, headers = {
        "array": (json.dumps(events), {}),
        "object": (json.dumps({"events": events}, indent=2), {"Content-Type": "application/json"}),
        "ndjson": ("\n".join(map(json.dumps, events)), NDJSON),
        "ndjson with charset": (
            "\n".join(map(json.dumps, events)),
            {"Content-Type": "Application/X-NDJSON; charset=utf-8"},
        ),
        "blank lines": ("\n \r\n".join(map(json.dumps, events)) + "\n\n", NDJSON),
    }[form]
    answer = await mill.client.post("/events/bulk", content=content, headers=headers)
    assert (answer.status_code, answer.json()["accepted"], answer.json()["errors"]) == (202, 1200, [])
    single = await mill.client.post("/events", json=events[700])
    assert answer.json()["event_ids"][700] == single.json()["event_id"]
    assert await count(mill) == 1200


async def test_a_bulk_without_any_good_event_gets_400_with_every_reason(mill: Mill) -> None:
    answer = await mill.client.post("/events/bulk", json=[{}, good(user_id="")])
    assert answer.status_code == 400
    body = answer.json()
    assert (body["error"], body["accepted"], body["rejected"]) == ("validation_error", 0, 2)
    assert [error["field"] for error in body["errors"]] == ["event_name", "user_id"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"[]", "no event"),
        (b'{"events": []}', "no event"),
        (b"{}", "must be"),
        (b'{"events": 5}', "must be"),
        (b'{"events": [], "more": 1}', "must be"),
        (b"5", "must be"),
        (encoded(), "single event goes to /events"),
        (b"[" + encoded(), "not valid JSON"),
        (encoded() + b"\n" + encoded(), "x-ndjson"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"events": [' + encoded() + b'], "events": [' + encoded() + b"]}", "must be"),
    ],
)
async def test_a_body_that_is_not_a_bulk_gets_400(mill: Mill, content: bytes, words: str) -> None:
    answer = await mill.client.post("/events/bulk", content=content)
    assert (answer.status_code, answer.json()["error"]) == (400, "validation_error")
    assert words in answer.json()["message"]


@pytest.mark.parametrize("form", ["array", "ndjson", "numbers"])
async def test_a_bulk_over_10_000_events_gets_413(mill: Mill, form: str) -> None:
    content = {
        "array": b"[" + b",".join([encoded()] * 10_001) + b"]",
        "ndjson": b"\n".join([encoded()] * 10_001),
        "numbers": b"[" + b"1," * 2_000_000 + b"1]",
    }[form]
    answer = await mill.client.post("/events/bulk", content=content, headers=NDJSON if form == "ndjson" else {})
    assert (answer.status_code, answer.json()["error"]) == (413, "payload_too_large")
    assert "10000" in answer.json()["message"]


@pytest.mark.parametrize("content", [b"{" + b'"":1,' * 4_000_000, b'{"events": [' + b"[" * 20_000_000])
async def test_a_bomb_of_brackets_and_commas_is_rejected_soon(mill: Mill, content: bytes) -> None:
    started = time.process_time()
    answer = await mill.client.post(
        "/events/bulk", content=gzip.compress(content), headers={"Content-Encoding": "gzip"}
    )
    assert answer.status_code == 400
    assert time.process_time() - started < 6


async def test_the_word_events_inside_an_event_is_harmless(mill: Mill) -> None:
    answer = await mill.client.post("/events/bulk", json={"events": [good(metadata={"events": [1]}), good(1)]})
    assert (answer.status_code, answer.json()["accepted"]) == (202, 2)


@pytest.mark.parametrize("path", ["/events", "/events/bulk"])
async def test_a_body_over_5_mib_gets_413(mill: Mill, path: str) -> None:
    answer = await mill.client.post(path, content=b"x" * (6 * 1024 * 1024))
    assert (answer.status_code, answer.json()["error"]) == (413, "payload_too_large")
    assert mill.budget.used_bytes == 0


def packed(content: bytes, encoding: str) -> bytes:
    return gzip.compress(content) if "gzip" in encoding else zstd.compress(content)


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "zstd", "GZIP"])
async def test_bodies_may_be_compressed(mill: Mill, encoding: str) -> None:
    lines = b"\n".join(encoded(number) for number in range(500))
    whole = packed(lines, encoding.lower())
    several = packed(lines[:5000], encoding.lower()) + packed(lines[5000:], encoding.lower())
    for content in (whole, several):
        answer = await mill.client.post(
            "/events/bulk", content=content, headers=NDJSON | {"Content-Encoding": encoding}
        )
        assert (answer.status_code, answer.json()["accepted"]) == (202, 500)
    single = await mill.client.post(
        "/events", content=packed(encoded(), encoding.lower()), headers={"Content-Encoding": encoding}
    )
    assert single.status_code == 202
    assert mill.budget.used_bytes == 0


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_a_small_body_that_unpacks_to_a_huge_one_gets_413(mill: Mill, encoding: str) -> None:
    bomb = packed(b"\n" * (100 * 1024 * 1024), encoding)
    assert len(bomb) < 200_000
    answer = await mill.client.post("/events/bulk", content=bomb, headers=NDJSON | {"Content-Encoding": encoding})
    assert (answer.status_code, answer.json()["error"]) == (413, "payload_too_large")
    assert mill.budget.used_bytes == 0


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_a_damaged_compressed_body_gets_400(mill: Mill, encoding: str) -> None:
    content = packed(encoded(), encoding)
    headers = {"Content-Encoding": encoding}
    for damaged in (content[:-5], content[:3], b"", encoded(), content + b"trailing", b"\0" + content):
        answer = await mill.client.post("/events", content=damaged, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (400, "validation_error"), damaged
        assert encoding in answer.json()["message"]


async def test_a_body_of_countless_tiny_members_is_rejected_quickly(mill: Mill) -> None:
    started = time.monotonic()
    for encoding in ("gzip", "zstd"):
        answer = await mill.client.post(
            "/events", content=packed(b"", encoding) * 50_000, headers={"Content-Encoding": encoding}
        )
        assert answer.status_code == 400
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "zstd,gzip", "nonsense"])
async def test_an_unknown_or_doubled_encoding_gets_415(mill: Mill, encoding: str) -> None:
    answer = await mill.client.post("/events/bulk", content=b"x", headers={"Content-Encoding": encoding})
    assert (answer.status_code, answer.json()["error"]) == (415, "unsupported_encoding")
    assert encoding in answer.json()["message"]


class Away(QueueProxy):
    """A queue whose publishing can be made to fail or to hang."""

    def __init__(self, inner: Queue) -> None:
        super().__init__(inner)
        self.failing = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        await self.gate.wait()
        if self.failing:
            raise QueueUnavailable("redis://secret@10.0.0.1 is away")
        await self.inner.publish(bodies, deadline)


async def test_without_the_queue_posts_get_503_and_it_recovers() -> None:
    async with running_mill(Away) as mill:
        assert isinstance(mill.queue, Away)
        mill.queue.failing = True
        for answer in (
            await mill.client.post("/events", json=good()),
            await mill.client.post("/events/bulk", json=[good(), {}]),
        ):
            assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
            assert int(answer.headers["Retry-After"]) >= 1
            assert "secret" not in answer.text
        mill.queue.failing = False
        assert (await mill.client.post("/events", json=good())).status_code == 202
        assert await count(mill) == 1


async def test_a_hanging_queue_gets_503_by_the_deadline() -> None:
    async with running_mill(Away, timeout_seconds=0.5) as mill:
        assert isinstance(mill.queue, Away)
        mill.queue.gate.clear()
        started = time.monotonic()
        answer = await mill.client.post("/events", json=good())
        assert answer.status_code == 503
        assert time.monotonic() - started < 2
        mill.queue.gate.set()


async def test_pending_bodies_never_take_more_than_the_budget() -> None:
    async with running_mill(Away) as mill:
        assert isinstance(mill.queue, Away)
        mill.queue.gate.clear()
        large = b"\n".join([json.dumps(good(n, metadata={"x": "y" * 30_000})).encode() for n in range(150)])
        posts = [
            asyncio.create_task(mill.client.post("/events/bulk", content=large, headers=NDJSON)) for _ in range(12)
        ]
        until = time.monotonic() + 10
        while not any(post.done() for post in posts):
            assert time.monotonic() < until
            assert mill.budget.used_bytes <= 64 * 1024 * 1024
            await asyncio.sleep(0.01)
        mill.queue.gate.set()
        statuses = [(await post).status_code for post in posts]
        assert set(statuses) == {202, 503}
        refused = next(post.result() for post in posts if post.result().status_code == 503)
        assert refused.json()["error"] == "overloaded"
        assert mill.budget.used_bytes == 0


async def test_a_client_that_hangs_up_is_not_missed(mill: Mill) -> None:
    messages: list[dict[str, Any]] = []
    transport = mill.client._transport
    assert isinstance(transport, httpx.ASGITransport)

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        messages.append(message)

    scope = {"type": "http", "method": "POST", "path": "/events", "headers": [], "query_string": b""}
    await transport.app(scope, receive, send)
    assert messages == []
    assert mill.budget.used_bytes == 0
