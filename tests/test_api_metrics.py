"""GET /metrics, in process, over the memory store."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import httpx
import pytest

from eventmill import Metrics, MetricsQuery, Store, StoreMisconfigured, StoreUnavailable
from eventmill.errors import Overloaded
from eventmill.queries.limiter import QueryLimiter
from eventmill.shutdown import Shutdown
from eventmill.testing.contract import eventually
from support import real_events
from support.mill import Mill, running_mill
from support.proxies import StoreProxy

pytestmark = pytest.mark.anyio

DAY = "event_name=page_view&from=2023-11-14T00:00:00Z&to=2023-11-14T23:59:59Z"


@pytest.fixture
async def mill() -> AsyncIterator[Mill]:
    async with running_mill() as mill:
        yield mill


async def post(mill: Mill, *events: dict[str, Any]) -> None:
    """Post events, and wait until they can be asked for."""
    defaults = {"event_name": "page_view", "channel": "web", "user_id": "ada"}
    answer = await mill.client.post("/events/bulk", json=[defaults | event for event in events])
    assert answer.json()["rejected"] == 0, answer.text

    async def is_stored() -> bool:
        depth = await mill.queue.depth()
        return depth.ready == depth.in_flight == 0

    await eventually(is_stored)


async def test_the_real_events_give_the_expected_answers_also_when_sent_twice(mill: Mill) -> None:
    for _ in range(2):
        answer = await mill.client.post(
            "/events/bulk",
            content=b"\n".join(real_events.lines()),
            headers={"Content-Type": "application/x-ndjson"},
        )
        assert (answer.status_code, answer.json()["accepted"]) == (202, 9999)
        assert len(set(answer.json()["event_ids"])) == real_events.EXPECTED["distinct_events"]
        await post(mill, {"timestamp": 1_700_000_000})
        for name, group_by in real_events.QUESTIONS:
            got = await mill.client.get("/metrics", params=real_events.parameters(name, group_by))
            assert real_events.wrong(got.json()) == []


async def test_the_answer_has_the_documented_shape(mill: Mill) -> None:
    await post(mill, {"timestamp": 1_700_000_000}, {"timestamp": 1_700_000_001, "channel": "mobile", "user_id": "bob"})
    answer = await mill.client.get("/metrics?event_name=page_view&from=1700000000&to=1700000001&group_by=channel")
    assert answer.json() == {
        "event_name": "page_view",
        "from": 1_700_000_000,
        "to": 1_700_000_001,
        "total_count": 2,
        "unique_count": 2,
        "group_by": "channel",
        "groups": [
            {"group_value": "mobile", "total_count": 1, "unique_count": 1},
            {"group_value": "web", "total_count": 1, "unique_count": 1},
        ],
    }
    answer = await mill.client.get("/metrics?event_name=page_view&from=1700000000&to=1700000001")
    assert (answer.json()["group_by"], answer.json()["groups"]) == (None, [])


@pytest.mark.parametrize(
    ("start", "end", "total"),
    [
        ("1700000000", "1700000001", 4),
        ("1700000000", "1700000000", 3),
        ("1700000001", "1700000001", 1),
        ("1700000000.5", "1700000000.5", 1),
        ("1700000000.4", "1700000000.998", 1),
        ("1700000000.501", "1700000000.999", 1),
        ("2023-11-14T22:13:20Z", "2023-11-14T22:13:20Z", 3),
        ("2023-11-14T22:13:20.500Z", "2023-11-14T22:13:20.500Z", 1),
        ("2023-11-15T00:13:20%2B02:00", "2023-11-15T00:13:20%2B02:00", 3),
        ("0", "1699999999", 0),
        ("2023-11-14", "2023-11-14", 4),
        ("2023-11-15", "2023-11-15", 0),
    ],
)
async def test_both_bounds_are_inclusive(mill: Mill, start: str, end: str, total: int) -> None:
    await post(mill, *({"timestamp": 1_700_000_000 + late} for late in (0, 0.5, 0.999, 1)))
    answer = await mill.client.get(f"/metrics?event_name=page_view&from={start}&to={end}")
    assert answer.json()["total_count"] == total


async def test_hours_and_days_are_labelled_in_utc(mill: Mill) -> None:
    await post(mill, {"timestamp": "2023-11-14T00:00:00Z"}, {"timestamp": "2023-11-14T23:59:59.999Z"})
    hours = (await mill.client.get(f"/metrics?{DAY}&group_by=hour")).json()["groups"]
    assert [group["group_value"] for group in hours] == ["2023-11-14 00:00:00", "2023-11-14 23:00:00"]
    days = (await mill.client.get(f"/metrics?{DAY}&group_by=day")).json()["groups"]
    assert days == [{"group_value": "2023-11-14", "total_count": 2, "unique_count": 1}]


@pytest.mark.parametrize(
    ("query", "field", "words"),
    [
        ("from=2&to=1", "from", "later"),
        ("from=1766717657.9&to=1766717657", "from", "later"),
        ("group_by=country", "group_by", "metadata.PATH"),
        ("group_by=", "group_by", "metadata.PATH"),
        ("group_by=hour&group_by=day", "group_by", "one unit of time"),
        ("group_by=channel&group_by=channel", "group_by", "different"),
        ("group_by=channel&group_by=tag&group_by=user_id", "group_by", "2 times"),
        ("group_by=metadata.", "group_by", "none of them empty"),
        ("group_by=metadata.a..b", "group_by", "none of them empty"),
        ("group_by=metadata." + "a" * 256, "group_by", "256"),
        ("group_by=metadata." + ".a" * 40, "group_by", "32 keys"),
        ("from=yesterday", "from", "RFC 3339"),
        ("from=-24x", "from", "RFC 3339"),
        ("from=2025-02-30", "from", "calendar"),
        ("from=1&to=nan", "to", "out of range"),
        ("from=1&to=1e400", "to", "neither"),
        ("from=1700000000000", "from", "milliseconds"),
        ("from=2023-11-14T22:13:20+02:00", "from", "%2B"),
        ("from=-1", "from", "1970"),
        ("from=1&from=2", "from", "once"),
        ("colour=red", "colour", "unknown parameter"),
        ("event_name=" + "a" * 257, "event_name", "256"),
        ("event_name=", "event_name", "1 to 256"),
        ("&".join(f"event_name={n}" for n in range(101)), "event_name", "100 times"),
        ("from=0&to=315360000&group_by=hour", "group_by", "10000"),
        ("tz=Mars/Olympus", "tz", "IANA"),
        ("tz=../../etc/passwd", "tz", "IANA"),
        ("measure=median", "measure", "sum:metadata.price"),
        ("measure=sum", "measure", "sum:metadata.price"),
        ("measure=sum:channel", "measure", "is a text"),
        ("measure=sum:price", "measure", "metadata.PATH"),
        ("precision=rough", "precision", "approximate"),
        ("fill=true", "fill", "group_by"),
        ("fill=yes", "fill", "true or false"),
        ("compare=next", "compare", "previous"),
        ("compare=previous&from=1&to=3000000000", "compare", "1970"),
        ("limit=3", "limit", "group_by"),
        ("limit=3&group_by=day", "limit", "with a property"),
        ("limit=0&group_by=channel", "limit", "1 to 1000"),
        ("limit=1001&group_by=channel", "limit", "1 to 1000"),
        ("limit=%D9%A3&group_by=channel", "limit", "1 to 1000"),
        ("channel>3", "channel", "is a text"),
        ("metadata.price>cheap", "metadata.price", "no number"),
        ("metadata.price>nan", "metadata.price", "no number"),
        ("metadata.price>1&metadata.price>2", "metadata.price", "once"),
        ("has=price", "price", "metadata.PATH"),
        ("&".join(f"channel={n}" for n in range(101)), "channel", "100 values"),
        ("&".join(f"metadata.a{n}=1" for n in range(21)), None, "20 filters"),
    ],
)
async def test_a_bad_query_gets_400_with_a_message_that_names_the_parameter(
    mill: Mill, query: str, field: str | None, words: str
) -> None:
    answer = await mill.client.get(f"/metrics?{query}")
    body = answer.json()
    assert (answer.status_code, body["error"], body.get("field")) == (400, "validation_error", field), body
    assert words in answer.json()["message"]


async def test_the_most_groups_that_are_answered_are_10_000(mill: Mill) -> None:
    seconds = 10_000 * 3600
    answer = await mill.client.get(f"/metrics?event_name=a&from=0&to={seconds - 1}&group_by=hour")
    assert answer.status_code == 200
    answer = await mill.client.get(f"/metrics?event_name=a&from=0&to={seconds}&group_by=hour")
    assert answer.status_code == 400


class Broken(StoreProxy):
    failure: Exception = StoreUnavailable("http://user:secret@10.0.0.1 is away")

    async def metrics(self, query: MetricsQuery) -> Metrics:
        raise self.failure

    async def check(self) -> list[str]:
        raise self.failure


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (StoreUnavailable("secret"), 503),
        (StoreMisconfigured("secret"), 503),
        (RuntimeError("secret"), 500),
    ],
)
async def test_a_broken_store_gets_an_answer_without_its_secrets(failure: Exception, status: int) -> None:
    async with running_mill(wrap_store=Broken) as mill:
        assert isinstance(mill.store, Broken)
        mill.store.failure = failure
        answer = await mill.client.get(f"/metrics?{DAY}")
        assert answer.status_code == status
        assert set(answer.json()) >= {"error", "message"}
        assert "secret" not in answer.text
        await asyncio.sleep(0)


class Hanging(StoreProxy):
    """Never answers; counts the questions that are under way, and those that were ever asked."""

    asked = pending = 0

    async def metrics(self, query: MetricsQuery) -> Metrics:
        self.asked += 1
        self.pending += 1
        try:
            await asyncio.Event().wait()
            raise AssertionError
        finally:
            self.pending -= 1


async def pending(store: Hanging, count: int) -> None:
    async def is_so() -> bool:
        return store.pending == count

    await eventually(is_so)


async def ask_and_leave(mill: Mill, leave: asyncio.Event) -> None:
    """Ask as a client that hangs up; return when the service is done with the request."""

    async def receive() -> dict[str, Any]:
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        raise AssertionError(message)

    path, query = "/metrics", DAY.encode()
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": query}
    await mill.app(scope | {"headers": [], "http_version": "1.1", "root_path": "", "scheme": "http"}, receive, send)


async def test_a_client_that_leaves_takes_its_query_along() -> None:
    leave = asyncio.Event()
    async with running_mill(wrap_store=Hanging) as mill, asyncio.timeout(5), asyncio.TaskGroup() as asking:
        assert isinstance(mill.store, Hanging)
        for _ in range(20):
            asking.create_task(ask_and_leave(mill, leave))
        await pending(mill.store, 8)
        leave.set()
        await pending(mill.store, 0)
        assert mill.store.asked == 8


async def test_queries_beyond_a_short_line_are_reported_to_come_again() -> None:
    async with running_mill(wrap_store=Hanging) as mill, asyncio.timeout(5):
        asking = {asyncio.create_task(mill.client.get(f"/metrics?{DAY}")) for _ in range(100)}
        refused, waiting = set[httpx.Response](), asking
        while len(refused) < 68:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            refused |= {task.result() for task in done}
        assert {(reply.status_code, reply.headers["Retry-After"]) for reply in refused} == {(503, "1")}
        assert {reply.json()["error"] for reply in refused} == {"overloaded"}
        assert len(waiting) == 32
        assert (await mill.client.get("/health/ready")).status_code == 200
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)


async def test_a_query_has_one_deadline_for_its_turn_and_its_answer() -> None:
    line = QueryLimiter(Shutdown(), concurrent=1, max_pending=5, seconds=0.3)
    async with running_mill(wrap_store=Hanging, limiter=line) as mill, asyncio.timeout(5):
        started = time.monotonic()
        replies = await asyncio.gather(*(mill.client.get(f"/metrics?{DAY}") for _ in range(5)))
        assert time.monotonic() - started < 1.5  # not five times the deadline
        assert {(reply.status_code, reply.json()["error"]) for reply in replies} == {(503, "unavailable")}
        assert isinstance(mill.store, Hanging)
        assert mill.store.pending == 0


class Stubborn(Hanging):
    """Does not end when it is cancelled, until it is let go."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.let_go = asyncio.Event()

    async def metrics(self, query: MetricsQuery) -> Metrics:
        while not self.let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.let_go.wait()
        return Metrics(0, 0)


async def test_a_store_that_ignores_cancellation_holds_its_place_in_the_line() -> None:
    line = QueryLimiter(Shutdown(), concurrent=1, max_pending=1, seconds=0.1)
    async with running_mill(wrap_store=Stubborn, limiter=line) as mill, asyncio.timeout(5):
        assert isinstance(mill.store, Stubborn)
        for error in ("unavailable", "overloaded"):
            assert (await mill.client.get(f"/metrics?{DAY}")).json()["error"] == error
        mill.store.let_go.set()

        async def is_answered() -> bool:
            return (await mill.client.get(f"/metrics?{DAY}")).status_code == 200

        await eventually(is_answered)


async def test_the_queries_of_one_project_do_not_keep_those_of_another_waiting() -> None:
    line = QueryLimiter(Shutdown(), concurrent=4, max_pending=6)
    hanging = [asyncio.create_task(line.run(asyncio.Event().wait, project="greedy")) for _ in range(6)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await line.run(asyncio.Event().wait, project="greedy")

    async def answer() -> int:
        return 7

    async with asyncio.timeout(2):
        assert await line.run(answer, project="modest") == 7
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
