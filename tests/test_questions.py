"""The routes of questions, in process over the memory store, against answers that a person can compute."""

import csv
import io
import json
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpx
import pytest

from eventmill import Event, EventBatch, EventFilter, Position, StoreUnavailable, encode_line, frames
from eventmill.testing import make_event
from support import real_events
from support.mill import Mill, running_mill
from support.proxies import StoreProxy
from support.server import serving

pytestmark = pytest.mark.anyio

SPAN = f"from={real_events.EXPECTED['from']}&to={real_events.EXPECTED['to']}"


@pytest.fixture
async def mill() -> AsyncIterator[Mill]:
    async with running_mill() as mill:
        yield mill


@pytest.fixture
async def real(mill: Mill) -> Mill:
    """The API with the real events stored."""
    await real_events.store_in(mill)
    return mill


def distinct() -> list[dict[str, Any]]:
    """The real events, each once."""
    return list({line: json.loads(line) for line in real_events.lines()}.values())


async def store(mill: Mill, *events: dict[str, Any]) -> None:
    """Store events without the API."""
    await mill.store.insert(EventBatch.of([make_event(event_id=f"{n}", **event) for n, event in enumerate(events)]))


async def get(mill: Mill, path: str, status: int = 200) -> Any:
    answer = await mill.client.get(path)
    assert answer.status_code == status, answer.text
    return answer.json()


def tallied(pairs: Iterable[tuple[Any, str]]) -> list[tuple[Any, int, int]]:
    """Count (group, user) pairs as an answer orders them."""
    counts: Counter[Any] = Counter()
    users = defaultdict(set)
    for group, user in pairs:
        counts[group] += 1
        users[group].add(user)
    ordered = sorted(counts, key=lambda group: (-counts[group], group is None, group or ""))
    return [(group, counts[group], len(users[group])) for group in ordered]


def listed(groups: list[dict[str, Any]]) -> list[tuple[Any, int, int]]:
    return [(group["group_value"], group["total_count"], group["unique_count"]) for group in groups]


async def test_the_former_form_is_answered_byte_for_byte(mill: Mill) -> None:
    await store(mill, {"timestamp_ms": 1_700_000_000_000}, {"timestamp_ms": 1_700_000_000_500, "user_id": "b"})
    answer = await mill.client.get("/metrics?event_name=page_view&from=1700000000&to=1700000000.75&group_by=day")
    assert answer.content == (
        b'{"event_name":"page_view","from":1700000000,"to":1700000000.75,"total_count":2,"unique_count":2,'
        b'"group_by":"day","groups":[{"group_value":"2023-11-14","total_count":2,"unique_count":2}]}'
    )


async def test_real_events_are_grouped_by_every_property(real: Mill) -> None:
    events = distinct()
    answer = await get(real, f"/metrics?{SPAN}&group_by=metadata.status")
    assert answer["event_name"] is None
    assert listed(answer["groups"]) == tallied((str(e["metadata"]["status"]), e["user_id"]) for e in events)
    answer = await get(real, f"/metrics?{SPAN}&group_by=tag")
    assert listed(answer["groups"]) == tallied((tag, e["user_id"]) for e in events for tag in set(e["tags"]))
    assert answer["total_count"] == len(events)
    answer = await get(
        real, f"/metrics?{SPAN}&group_by=event_name&group_by=channel&event_name=page_view&event_name=download"
    )
    chosen = [e for e in events if e["event_name"] in ("page_view", "download")]
    expected = tallied(((e["event_name"], e["channel"]), e["user_id"]) for e in chosen)
    assert listed(answer["groups"]) == [([*group], total, unique) for group, total, unique in expected]


async def test_a_limit_has_an_exact_rest(real: Mill) -> None:
    answer = await get(real, f"/metrics?{SPAN}&group_by=metadata.path&limit=3")
    ranked = tallied((e["metadata"]["path"], e["user_id"]) for e in distinct())
    shown = {group for group, _, _ in ranked[:3]}
    rest = [e["user_id"] for e in distinct() if e["metadata"]["path"] not in shown]
    assert listed(answer["groups"]) == ranked[:3]
    assert listed(answer["other"]) == [(None, len(rest), len(set(rest)))]
    by_day = await get(real, f"/metrics?{SPAN}&group_by=metadata.path&group_by=day&limit=3")
    assert sum(group["total_count"] for group in by_day["groups"]) == sum(total for _, total, _ in ranked[:3])
    assert [group["group_value"] for group in by_day["other"]] == [
        "2015-05-17",
        "2015-05-18",
        "2015-05-19",
        "2015-05-20",
    ]


async def test_measures_are_those_of_the_numbers(real: Mill) -> None:
    sizes = sorted(e["metadata"]["bytes"] for e in distinct() if isinstance(e["metadata"].get("bytes"), int))
    expected = {
        "sum": sum(sizes),
        "avg": statistics.mean(sizes),
        "min": sizes[0],
        "max": sizes[-1],
        "p50": sizes[int(0.5 * len(sizes))],
        "p99": sizes[int(0.99 * len(sizes))],
    }
    for function, value in expected.items():
        answer = await get(real, f"/metrics?{SPAN}&measure={function}:metadata.bytes")
        assert answer["value"] == pytest.approx(value, rel=1e-9), function
        assert answer["total_count"] == len(distinct())
        assert "unique_count" not in answer
    assert (await get(real, f"/metrics?{SPAN}&measure=sum:metadata.path"))["value"] is None
    assert "unique_count" not in await get(real, f"/metrics?{SPAN}&measure=count")
    approximate = await get(real, f"/metrics?{SPAN}&measure=users&precision=approximate")
    assert approximate["precision"] == "approximate"


@pytest.mark.parametrize(
    ("filters", "keeps"),
    [
        ("channel=web&channel=bot", lambda e: e["channel"] in ("web", "bot")),
        ("channel!=web&channel!=bot", lambda e: e["channel"] not in ("web", "bot")),
        ("metadata.status=404", lambda e: e["metadata"]["status"] == 404),
        ("metadata.status%21=404", lambda e: e["metadata"]["status"] != 404),
        ("metadata.bytes>=1000", lambda e: (e["metadata"].get("bytes") or 0) >= 1000),
        ("metadata.bytes%3E=1000", lambda e: (e["metadata"].get("bytes") or 0) >= 1000),
        ("metadata.bytes>1000&metadata.bytes<2000", lambda e: 1000 < (e["metadata"].get("bytes") or 0) < 2000),
        ("tag=get&tag!=2xx", lambda e: "get" in e["tags"] and "2xx" not in e["tags"]),
        ("has=metadata.referrer", lambda e: "referrer" in e["metadata"]),
        ("lacks=metadata.referrer", lambda e: "referrer" not in e["metadata"]),
        ("event_name!=page_view", lambda e: e["event_name"] != "page_view"),
        ("metadata.agent=a=b", lambda e: e["metadata"].get("agent") == "a=b"),
    ],
)
async def test_filters_keep_what_they_say(real: Mill, filters: str, keeps: Any) -> None:
    kept = [event for event in distinct() if keeps(event)]
    answer = await get(real, f"/metrics?{SPAN}&{filters}")
    assert (answer["total_count"], answer["unique_count"]) == (len(kept), len({event["user_id"] for event in kept}))


async def test_missing_null_and_empty_values_are_three_groups(mill: Mill) -> None:
    documents = [b'{"plan":""}', b'{"plan":null}', b"{}", b'{"plan":"null"}', b'{"plan":10}', b'{"plan":"10"}']
    await store(mill, *({"metadata": document, "timestamp_ms": 1_700_000_000_000} for document in documents))
    answer = await get(mill, "/metrics?from=1700000000&to=1700000000&group_by=metadata.plan")
    assert [(group["group_value"], group["total_count"]) for group in answer["groups"]] == [
        ("10", 2),
        ("null", 2),
        ("", 1),
        (None, 1),
    ]


async def test_hours_of_a_zone_are_right_over_both_changes_of_its_clocks(mill: Mill) -> None:
    autumn, spring = 1_698_539_400, 1_711_845_000  # half an hour before the clocks of Berlin change
    await store(mill, *({"timestamp_ms": 1000 * (start + 1800 * n)} for start in (autumn, spring) for n in range(4)))

    async def hours(start: int, zone: str) -> list[str]:
        query = f"/metrics?from={start}&to={start + 7199}&group_by=hour&tz={zone}&fill=true"
        return [group["group_value"] for group in (await get(mill, query))["groups"]]

    assert await hours(autumn, "Europe/Berlin") == [
        "2023-10-29 02:00:00+02:00",
        "2023-10-29 02:00:00+01:00",
        "2023-10-29 03:00:00+01:00",
    ]
    assert await hours(spring, "Europe/Berlin") == [
        "2024-03-31 01:00:00+01:00",
        "2024-03-31 03:00:00+02:00",
        "2024-03-31 04:00:00+02:00",
    ]
    assert await hours(autumn, "Asia/Kathmandu") == [
        "2023-10-29 06:00:00+05:45",
        "2023-10-29 07:00:00+05:45",
        "2023-10-29 08:00:00+05:45",
    ]
    day = await get(mill, "/metrics?from=2023-10-29&to=2023-10-29&tz=Europe/Berlin&group_by=day")
    assert (day["to"] - day["from"] + 1) / 3600 == 25
    assert [(group["group_value"], group["total_count"]) for group in day["groups"]] == [("2023-10-29", 4)]


async def test_weeks_start_on_monday_and_months_on_their_first(mill: Mill) -> None:
    await store(mill, {"timestamp_ms": 1_700_000_000_000})  # a Tuesday
    for unit, label in (("week", "2023-11-13"), ("month", "2023-11"), ("minute", "2023-11-14 22:13:00")):
        [group] = (await get(mill, f"/metrics?from=1699999990&to=1700000010&group_by={unit}"))["groups"]
        assert group["group_value"] == label


async def test_fill_adds_the_empty_groups(mill: Mill) -> None:
    await store(mill, {"timestamp_ms": 1_700_000_000_000}, {"timestamp_ms": 1_700_172_800_000, "channel": "ios"})
    query = "/metrics?from=2023-11-14&to=2023-11-16&group_by=day&fill=true"
    assert [group["total_count"] for group in (await get(mill, query))["groups"]] == [1, 0, 1]
    groups = (await get(mill, f"{query}&group_by=channel"))["groups"]
    assert [(*group["group_value"], group["total_count"]) for group in groups] == [
        ("2023-11-14", "web", 1),
        ("2023-11-14", "ios", 0),
        ("2023-11-15", "ios", 0),
        ("2023-11-15", "web", 0),
        ("2023-11-16", "ios", 1),
        ("2023-11-16", "web", 0),
    ]


async def test_a_comparison_answers_the_span_before(mill: Mill) -> None:
    await store(mill, *({"timestamp_ms": 1_700_000_000_000 + 1000 * n, "user_id": f"{n}"} for n in range(6)))
    answer = await get(mill, "/metrics?from=1700000003&to=1700000004&compare=previous&fresh=true")
    assert answer["total_count"] == 2
    assert {**answer["previous"], "groups": None} == {
        "from": 1_700_000_001,
        "to": 1_700_000_002,
        "total_count": 2,
        "unique_count": 2,
        "groups": None,
    }
    assert answer["fresh_until"] > 1_700_000_000


async def test_the_default_span_is_the_last_24_hours(mill: Mill) -> None:
    answer = await get(mill, "/metrics")
    assert answer["to"] - answer["from"] == 86_400
    answer = await get(mill, "/metrics?from=-7d")
    assert answer["to"] - answer["from"] == 7 * 86_400


async def test_event_names_have_counts_and_times(real: Mill) -> None:
    answer = await get(real, f"/event-names?{SPAN}")
    expected = real_events.EXPECTED["events"]
    names = {name["event_name"]: (name["total_count"], name["unique_count"]) for name in answer["event_names"]}
    assert names == {name: (own["total_count"], own["unique_count"]) for name, own in expected.items()}
    times = [event["timestamp"] for event in distinct() if event["event_name"] == "download"]
    [download] = [name for name in answer["event_names"] if name["event_name"] == "download"]
    assert (download["first_seen"], download["last_seen"]) == (min(times), max(times))
    assert len((await get(real, f"/event-names?{SPAN}&limit=2"))["event_names"]) == 2


async def test_properties_say_what_a_sample_has(real: Mill) -> None:
    answer = await get(real, f"/properties?{SPAN}&event_name=download")
    events = [event for event in distinct() if event["event_name"] == "download"]
    assert (answer["sampled"], answer["is_complete"]) == (len(events), True)
    [status] = [each for each in answer["properties"] if each["name"] == "metadata.status"]
    assert (status["count"], status["types"]) == (len(events), {"number": len(events)})
    counts = Counter(str(event["metadata"]["status"]) for event in events)
    assert {value["value"]: value["count"] for value in status["values"]} == dict(counts.most_common(10))
    tags = Counter(tag for event in events for tag in set(event["tags"]))
    assert {tag["value"]: tag["count"] for tag in answer["tags"]} == dict(tags)
    few = await get(real, f"/properties?{SPAN}&sample=10")
    assert (few["sampled"], few["is_complete"]) == (10, False)


async def test_paths_of_nested_and_dotted_keys_can_be_asked_for(mill: Mill) -> None:
    document = json.dumps({"a": {"b": 1}, "a.b": 2, "c\\d": 3, "list": [1], "none": {}}).encode()
    await store(mill, {"timestamp_ms": 1_700_000_000_000, "metadata": document})
    span = "from=1700000000&to=1700000000"
    properties = (await get(mill, f"/properties?{span}"))["properties"]
    assert {each["name"]: each["values"][0]["value"] for each in properties} == {
        "metadata.a.b": "1",
        "metadata.a\\.b": "2",
        "metadata.c\\\\d": "3",
        "metadata.list": "[…]",
        "metadata.none": "{…}",
    }
    for each in properties:
        answer = await mill.client.get(
            f"/metrics?{span}", params={"from": 1700000000, "to": 1700000000, "group_by": each["name"]}
        )
        assert [group["group_value"] for group in answer.json()["groups"]] == [each["values"][0]["value"]]


async def test_pages_of_raw_events_hold_each_event_once(real: Mill) -> None:
    seen, cursor = [], ""
    while cursor is not None:
        page = await get(real, f"/events?{SPAN}&event_name=page_view&channel=web&limit=500&cursor={cursor}")
        seen += page["events"]
        cursor = page["next"]
    expected = [event for event in distinct() if (event["event_name"], event["channel"]) == ("page_view", "web")]
    assert len(seen) == len(expected) == len({event["event_id"] for event in seen})
    assert [event["timestamp"] for event in seen] == sorted((event["timestamp"] for event in expected), reverse=True)


async def test_a_stream_has_all_events_and_can_be_posted_again(real: Mill) -> None:
    lines = (await real.client.get(f"/events?{SPAN}&format=ndjson")).content
    assert len(lines.splitlines()) == real_events.EXPECTED["distinct_events"]
    again = await real.client.post("/events/bulk", content=lines, headers={"Content-Type": "application/x-ndjson"})
    assert (again.json()["accepted"], again.json()["rejected"]) == (real_events.EXPECTED["distinct_events"], 0)
    ids = [json.loads(line)["event_id"] for line in lines.splitlines()]
    assert again.json()["event_ids"] == ids
    few = (await real.client.get(f"/events?{SPAN}&format=ndjson&limit=7")).content
    assert few.splitlines() == lines.splitlines()[:7]


class FailsAfterOnePage(StoreProxy):
    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        if before is not None:
            raise StoreUnavailable("the server is gone")
        return await super().scan(filter, before, limit)


async def test_a_stream_that_fails_midway_is_cut_off_and_explained(caplog: pytest.LogCaptureFixture) -> None:
    async with running_mill(wrap_store=FailsAfterOnePage) as mill, serving(mill.app) as (port, _):
        await store(mill, *({"timestamp_ms": 1_700_000_000_000 + n} for n in range(6_000)))
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
                await client.get(f"http://127.0.0.1:{port}/events?from=0&format=ndjson")
    [record] = [record for record in caplog.records if record.name.startswith("eventmill")]
    assert "the server is gone" in record.getMessage()
    assert not any(record.exc_info for record in caplog.records)


async def test_csv_keeps_hostile_texts_in_their_cells(mill: Mill) -> None:
    texts = ['"', ",", "=1+1", "\u202e", "'; --"]
    await store(mill, *({"channel": text, "timestamp_ms": 1_700_000_000_000 - n} for n, text in enumerate(texts)))
    answer = await mill.client.get("/events?from=1699999990&to=1700000000&format=csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["channel"] for row in rows] == texts
    assert (rows[0]["tags"], rows[0]["metadata"]) == ("[]", "{}")


@pytest.mark.parametrize("cursor", ["x", "AAAA", "WzFd", "W251bGwsMSwyXQ", "é", "[1]"])
async def test_a_wrong_cursor_gets_400(mill: Mill, cursor: str) -> None:
    assert (await mill.client.get("/events", params={"cursor": cursor})).json()["field"] == "cursor"


@pytest.mark.parametrize("user", ["ada", "a/b", "../x", "?", "100%", "\u202e", "events"])
async def test_all_events_of_a_user_can_be_read_and_erased(mill: Mill, user: str) -> None:
    await store(mill, {"user_id": user, "timestamp_ms": 1_700_000_000_000}, {"user_id": "other"}, {"user_id": user})
    path = f"/users/{''.join(f'%{byte:02X}' for byte in user.encode())}/events"
    assert len((await get(mill, path))["events"]) == 2
    erased = await mill.client.request("DELETE", "/users", params={"user_id": user})
    assert (erased.status_code, erased.json()["events"], erased.json()["is_complete"]) == (200, 2, True)
    assert (await get(mill, path))["events"] == []
    assert len((await get(mill, "/events?from=0"))["events"]) == 1


JOURNEY = [
    ("ada", "view", 0),
    ("ada", "cart", 10),
    ("ada", "buy", 20),
    ("bob", "view", 0),
    ("bob", "buy", 5),
    ("bob", "cart", 10),
    ("eve", "cart", 0),
    ("eve", "view", 10),
    ("dan", "view", 0),
    ("dan", "view", 3000),
    ("dan", "cart", 3010),
    ("dan", "buy", 7000),
]


async def test_a_funnel_counts_users_in_order_and_within_the_window(mill: Mill) -> None:
    base_ms = 1_700_000_000_000
    journey = [
        {"user_id": user, "event_name": name, "timestamp_ms": base_ms + 1000 * at, "channel": user[0]}
        for user, name, at in JOURNEY
    ]
    await store(mill, *journey)
    body = {"from": 1_700_000_000, "to": 1_700_010_000, "window": "1h", "group_by": "channel"}
    body |= {"steps": [{"event_name": name} for name in ("view", "cart", "buy")]}
    answer = (await mill.client.post("/funnels", json=body)).json()
    assert [step["users"] for step in answer["steps"]] == [4, 3, 1]
    assert [step["conversion"] for step in answer["steps"]] == [1, 0.75, 0.25]
    assert [step["median_seconds"] for step in answer["steps"]] == [None, 10, 10]
    assert [(group["group_value"], group["steps"][2]["users"]) for group in answer["groups"]] == [
        ("a", 1),
        ("b", 0),
        ("d", 0),
        ("e", 0),
    ]
    body |= {"window": "2h", "where": ["user_id!=ada"]}
    answer = (await mill.client.post("/funnels", json=body)).json()
    assert [step["users"] for step in answer["steps"]] == [3, 2, 1]


async def test_retention_counts_who_comes_back(mill: Mill) -> None:
    day_ms, start_ms = 86_400_000, 1_700_006_400_000  # 2023-11-15
    visits = [("ada", "sign_up", 0), ("ada", "buy", 1), ("ada", "buy", 1), ("bob", "sign_up", 0), ("bob", "buy", 2)]
    visits += [("eve", "buy", 0), ("eve", "sign_up", 1), ("eve", "sign_up", 2)]
    await store(
        mill,
        *(
            {"user_id": user, "event_name": name, "timestamp_ms": start_ms + day * day_ms + n}
            for n, (user, name, day) in enumerate(visits)
        ),
    )
    body = {
        "from": "2023-11-15",
        "to": 1_700_200_000,
        "start": {"event_name": "sign_up"},
        "return": {"event_name": "buy"},
    }
    answer = (await mill.client.post("/retention", json=body)).json()
    cohorts = [
        (each["cohort"], each["users"], [period["users"] for period in each["periods"]]) for each in answer["cohorts"]
    ]
    assert cohorts == [("2023-11-15", 2, [0, 1, 1]), ("2023-11-16", 1, [0, 0]), ("2023-11-17", 0, [0])]
    assert [period["complete"] for period in answer["cohorts"][0]["periods"]] == [True, True, False]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/funnels", {"steps": [{"event_name": "a"}]}, "steps"),
        ("/funnels", {"steps": [{}] * 11}, "steps"),
        ("/funnels", {"steps": [{}, {}], "window": "soon"}, "window"),
        ("/funnels", {"steps": [{}, {}], "window": 0}, "window"),
        ("/funnels", {"steps": [{}, {}], "group_by": "tag"}, "group_by"),
        ("/funnels", {"steps": [{}, {}], "group_by": "country"}, "group_by"),
        ("/funnels", {"steps": [{}, {"where": ["colour=red"]}]}, "steps[1]"),
        ("/funnels", {"steps": [{}, {"event_name": []}]}, "steps[1]"),
        ("/funnels", {"steps": [{}, {"where": ["tz=UTC"]}]}, "steps[1]"),
        ("/funnels", {"steps": [{}, {}], "where": ["from=1"]}, "from"),
        ("/funnels", {"steps": [{}, {}], "colour": "red"}, "colour"),
        ("/funnels", {"steps": [{}, {}], "from": 2, "to": 1}, "from"),
        ("/retention", {"unit": "hour"}, "unit"),
        ("/retention", {"from": 0}, "unit"),
        ("/retention", {"start": {"where": ["metadata.a>b"]}}, "start"),
        ("/retention", {"tz": "Mars"}, "tz"),
        ("/funnels", {"steps": ["a", "b"]}, "steps[0]"),
        ("/funnels", {"steps": [{}, {}], "window": True}, "window"),
        ("/funnels", {"steps": [{"event_name": 5}, {}]}, "steps[0].event_name"),
        ("/funnels", {"steps": [{"event_name": "\ud800"}, {}]}, "steps[0]"),
        ("/funnels", {"steps": [{"where": ["channel=\ud800"]}, {}]}, "steps[0]"),
        ("/funnels", {"steps": [{"where": ["channel"]}, {}]}, "steps[0]"),
        ("/funnels", {"steps": [{}, {}], "group_by": "metadata.\ud800"}, "group_by"),
        ("/funnels", {"steps": [{}, {}], "from": "\ud800"}, "from"),
        ("/properties/materialize", {"name": "metadata.\udfff"}, "name"),
    ],
)
async def test_a_bad_question_gets_400_with_the_field(mill: Mill, path: str, body: Any, field: str) -> None:
    answer = await mill.client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"], answer.json().get("field")) == (400, "validation_error", field)


async def test_erasing_a_user_reaches_dead_letters_and_memory(mill: Mill) -> None:
    events = [make_event(user_id=user, event_id=f"{user} {n}") for user in ("gone", "kept") for n in range(2)]
    bodies = [
        frames.encode_frame([encode_line(event) for event in events]),
        frames.encode_frame([encode_line(events[0])]),
        frames.encode_frame([encode_line(events[3])]),
        b"not a frame",
    ]
    letters = [frames.encode_dead(frames.DeadRecord(reason="rejected", body=body)) for body in bodies]
    await mill.queue.dead.publish(letters, time.monotonic() + 5)
    refused = {"event_name": "a", "channel": "web", "user_id": "gone"}
    assert (await mill.client.post("/events", json=refused)).status_code == 400
    waiting = refused | {"timestamp": int(time.time())}
    assert (await mill.client.post("/events", json=waiting)).status_code == 202
    assert (await get(mill, "/events/lookup?user_id=gone"))["state"] != "unknown"
    answer = (await mill.client.request("DELETE", "/users?user_id=gone")).json()
    assert (answer["dead_lettered"], answer["unreadable"], answer["is_complete"]) == (3, 1, True)
    found = await get(mill, "/dead-letters?full=true")
    users = [event["user_id"] for letter in found["letters"] for event in letter["events"]]
    assert (found["total"], users) == (3, ["kept", "kept", "kept"])
    assert await get(mill, "/events/refused") == []
    assert (await get(mill, "/events/lookup?user_id=gone"))["state"] == "unknown"


@pytest.mark.parametrize(
    "query",
    ["", "user_id=a&user_id=b", "user_id=a&event_name=x", "user_id=a&from=0", "user_id=%00", "user_id=", "user=a"],
)
async def test_an_erasure_that_is_not_fully_understood_erases_nothing(mill: Mill, query: str) -> None:
    await store(mill, {"timestamp_ms": 1_700_000_000_000, "user_id": "a"})
    assert (await mill.client.delete(f"/users?{query}")).status_code == 400
    assert (await get(mill, "/metrics?from=0"))["total_count"] == 1


async def test_zero_has_one_text_whatever_its_sign(mill: Mill) -> None:
    texts = (b"0", b"-0.0", b"-0e5", b"0.0", b"-0")
    await store(mill, *({"timestamp_ms": 1_700_000_000_000, "metadata": b'{"n":%s}' % text} for text in texts))
    answer = await get(mill, "/metrics?from=0&group_by=metadata.n")
    assert listed(answer["groups"]) == [("0", 5, 1)]
    assert (await get(mill, "/metrics?from=0&metadata.n=0"))["total_count"] == 5


@pytest.mark.parametrize("number", ["1_0", "0x1", "１", "nan", "inf", "1e", "", " 1"])
async def test_what_is_no_number_is_not_compared(mill: Mill, number: str) -> None:
    answer = await mill.client.get("/metrics", params={"metadata.n<": number} if number else "metadata.n%3C=")
    assert (answer.status_code, answer.json()["field"]) == (400, "metadata.n")


async def test_a_sample_with_very_many_texts_ends_early_and_says_so(mill: Mill) -> None:
    keys = [f"k{n}" for n in range(200)]
    events = [
        {
            "timestamp_ms": 1_700_000_000_000 + n,
            "metadata": json.dumps(dict.fromkeys(keys, f"{n}{'x' * 200}")).encode(),
        }
        for n in range(1_000)
    ]
    await store(mill, *events)
    answer = await get(mill, "/properties?from=0")
    assert 100 < answer["sampled"] < 1_000
    assert (answer["is_complete"], answer["properties"][0]["count"]) == (False, answer["sampled"])


async def test_the_ends_of_a_span_are_answered_as_they_were_asked(mill: Mill) -> None:
    cases: dict[str, dict[str, Any]] = {"/funnels": {"steps": [{}, {}]}, "/retention": {}}
    for path, body in cases.items():
        answer = await mill.client.post(path, json=body | {"from": 1_700_000_000, "to": 1_700_000_000.5})
        assert [answer.json()[name] for name in ("from", "to")] == [1_700_000_000, 1_700_000_000.5]
        answer = await mill.client.post(path, json=body | {"from": 1_700_000_000, "to": 1_700_000_100})
        assert b'"from":1700000000,"to":1700000100,' in answer.content


async def test_a_store_without_sql_says_so(mill: Mill) -> None:
    answer = await mill.client.post("/sql", json={"sql": "SELECT 1"})
    assert (answer.status_code, answer.json()["message"]) == (400, "this store has no SQL")
    assert (await mill.client.post("/properties/materialize", json={"name": "metadata.a"})).json() == {
        "name": "metadata.a",
        "materialized": False,
    }


async def test_a_body_that_is_no_json_is_explained(mill: Mill) -> None:
    answer = await mill.client.post("/funnels", content=b'{"steps": []}', headers={"Content-Type": "text/plain"})
    assert (answer.status_code, "Content-Type: application/json" in answer.json()["message"]) == (400, True)
    answer = await mill.client.post("/funnels", content=b'{"steps', headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["field"], "not JSON" in answer.json()["message"]) == (400, "body", True)


@pytest.mark.parametrize("form", ["json", "ndjson", "csv", "lines"])
async def test_metadata_is_exported_byte_for_byte(mill: Mill, form: str) -> None:
    text = '{"p":1,"p":2 , "a":1e0,"b":-0,"c":"\\u00e9"}'
    await store(mill, {"timestamp_ms": 1_700_000_000_000, "metadata": text.encode()})
    answer = await mill.client.get(f"/events?from=0&format={form}")
    assert (text.replace('"', '""') if form == "csv" else text) in answer.text


async def test_a_comparison_may_be_encoded_as_clients_do(mill: Mill) -> None:
    await store(mill, *({"timestamp_ms": 1_700_000_000_000, "metadata": b'{"n":%d}' % n} for n in range(4)))
    for query, count in (("metadata.n%3E%3D=2", 2), ("metadata.n>=2", 2), ("metadata.n%3E2", 1), ("metadata.n>2", 1)):
        assert (await get(mill, f"/metrics?from=0&{query}"))["total_count"] == count, query
