"""Where an event is: stored, waiting, refused, dead-lettered or unknown; and which events were refused."""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventmill import RejectedEvents, StoreUnavailable
from eventmill.api.access import Access
from eventmill.api.keys import Keyring, create_key
from eventmill.event import EventBatch, encode_line
from eventmill.frames import encode_frame
from eventmill.ingest.recent import RecentFrames
from eventmill.testing import make_event
from eventmill.testing.contract import eventually
from support.mill import Mill, eventmill, running, running_mill, wait_until
from support.proxies import StoreProxy

pytestmark = pytest.mark.anyio


def event(event_id: str, **fields: object) -> dict[str, object]:
    return {
        "event_name": "a",
        "channel": "b",
        "user_id": "ada",
        "timestamp": time.time() - 60,
        "event_id": event_id,
    } | fields


async def state_of(mill: Mill, **wanted: str) -> str:
    answer = await mill.client.get("/events/lookup", params=wanted)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["state"])


async def test_an_event_is_waiting_until_it_is_stored() -> None:
    class Away(StoreProxy):
        is_away = True

        async def insert(self, batch: EventBatch) -> None:
            if self.is_away:
                raise StoreUnavailable("away")
            await super().insert(batch)

    async with running_mill(wrap_store=Away) as mill:
        assert (await mill.client.post("/events", json=event("one"))).status_code == 202
        answer = (await mill.client.get("/events/lookup", params={"event_id": "one"})).json()
        assert answer["state"] == "waiting"
        assert answer["queue_messages"] == 1
        [waiting] = answer["waiting"]
        assert (waiting["event_id"], waiting["user_id"]) == ("one", "ada")
        assert abs(waiting["accepted_at"] - time.time()) < 10
        Away.is_away = False

        async def is_stored() -> bool:
            return await state_of(mill, event_id="one") == "stored"

        await eventually(is_stored, 10)
        assert await state_of(mill, user_id="ada") == "stored"
        stored = (await mill.client.get("/events/lookup", params={"event_id": "one"})).json()
        assert [each["event_id"] for each in stored["stored"]] == ["one"]
        assert stored["waiting"] == []


async def test_an_event_waits_also_while_the_store_cannot_be_searched() -> None:
    class Gone(StoreProxy):
        async def insert(self, batch: EventBatch) -> None:
            raise StoreUnavailable("gone")

        async def scan(self, *_: object) -> list[object]:  # type: ignore[override]  # it answers nothing
            raise StoreUnavailable("gone")

    async with running_mill(wrap_store=Gone) as mill:
        assert (await mill.client.post("/events", json=event("one"))).status_code == 202
        answer = (await mill.client.get("/events/lookup", params={"event_id": "one"})).json()
        assert answer["state"] == "waiting"
        assert answer["notes"][0] == "the store is unavailable and could not be searched"


async def test_an_event_that_was_refused_is_found_with_its_reason() -> None:
    async with running_mill() as mill:
        assert (await mill.client.post("/events", json=event("bad", channel=""))).status_code == 400
        bulk = [event("good"), event("worse", user_id=None)]
        assert (await mill.client.post("/events/bulk", json=bulk)).json()["rejected"] == 1
        answer = (await mill.client.get("/events/lookup", params={"event_id": "bad"})).json()
        assert answer["state"] == "refused"
        assert "channel" in answer["refused"][0]["message"]
        assert await state_of(mill, event_id="worse") == "refused"
        refused = (await mill.client.get("/events/refused")).json()
        assert [(each["reason"], each["field"]) for each in refused] == [
            ("validation_error", "user_id"),
            ("validation_error", "channel"),
        ]
        assert '"bad"' in refused[1]["payload"]


async def test_a_dead_letter_is_found_by_the_events_in_it() -> None:
    class Picky(StoreProxy):
        async def insert(self, batch: EventBatch) -> None:
            wrong = [index for index, each in enumerate(batch.events) if each.event_id == "cursed"]
            if wrong:
                raise RejectedEvents("it is cursed", wrong)
            await super().insert(batch)

    async with running_mill(wrap_store=Picky) as mill:
        await mill.client.post("/events/bulk", json=[event("cursed"), event("fine")])

        async def is_dead() -> bool:
            return await state_of(mill, event_id="cursed") == "dead_lettered"

        await eventually(is_dead, 10)
        [buried] = (await mill.client.get("/events/lookup", params={"event_id": "cursed"})).json()["dead_lettered"]
        assert (buried["reason"], buried["message"]) == ("rejected", "it is cursed")
        letters = (await mill.client.get("/dead-letters")).json()["letters"]
        assert [letter["id"] for letter in letters] == [buried["dead_letter"]]
        assert await state_of(mill, event_id="fine") == "stored"


async def test_what_nobody_knows_is_unknown_and_old_events_need_a_start() -> None:
    async with running_mill() as mill:
        assert await state_of(mill, event_id="nothing") == "unknown"
        old = event("old", timestamp=1_700_000_000)
        answer = await mill.client.post("/events", params={"wait": "stored"}, json=old)
        assert answer.json()["status"] == "stored"
        answer = await mill.client.get("/events/lookup", params={"event_id": "old", "from": "1700000000"})
        assert answer.json()["state"] == "stored"
        assert await state_of(mill, event_id="old") == "stored"  # it was accepted by this process a moment ago
        later = (await mill.client.get("/events/lookup", params={"user_id": "ada"})).json()
        assert [each["event_id"] for each in later["stored"]] == ["old"]
        notes = (await mill.client.get("/events/lookup", params={"event_id": "other"})).json()["notes"]
        assert any("7 days" in note for note in notes)
        for wrong in ({}, {"event_id": "a", "user_id": "b"}, {"event_id": ""}, {"event_id": "a", "from": "yesterday"}):
            assert (await mill.client.get("/events/lookup", params=wrong)).status_code == 400


async def test_a_key_finds_only_events_of_its_project() -> None:
    (write, a), (read, b), (other, c) = (
        create_key("write", "shop"),
        create_key("read", "shop"),
        create_key("read", "blog"),
    )
    async with running_mill(access=Access("default", Keyring([a, b, c], None))) as mill:

        async def get(path: str, key: str, **parameters: str) -> Any:
            answer = await mill.client.get(path, params=parameters, headers={"X-API-Key": key})
            assert answer.status_code == 200
            return answer.json()

        own = {"X-API-Key": write}
        assert (await mill.client.post("/events", json=event("mine"), headers=own)).status_code == 202
        assert (await mill.client.post("/events", json=event("bad", channel=""), headers=own)).status_code == 400
        assert (await get("/events/lookup", read, event_id="mine"))["state"] in ("waiting", "stored")
        assert (await get("/events/lookup", other, event_id="mine"))["state"] == "unknown"
        assert (await get("/events/lookup", other, event_id="bad"))["state"] == "unknown"
        assert len(await get("/events/refused", read)) == 1
        assert await get("/events/refused", other) == []
        assert (await mill.client.get("/events/refused", headers=own)).status_code == 403


async def test_refused_events_are_bounded_and_hold_no_keys() -> None:
    async with running_mill() as mill:
        bulk = [event(f"{number}", channel="") for number in range(100)]
        for _ in range(11):
            await mill.client.post("/events/bulk", json=bulk)
        assert len((await mill.client.get("/events/refused", params={"limit": "1000"})).json()) == 1000
        large = event("large", channel="", metadata={"text": "x" * 5000})
        await mill.client.post("/events", json=large)
        secret, _ = create_key("write", "default")
        await mill.client.post("/events/bulk", content=f'{{"api_key": "{secret}", "events": 7}}')
        with_key, cut = (await mill.client.get("/events/refused", params={"limit": "2"})).json()
        assert secret not in with_key["payload"]
        assert len(cut["payload"]) == 1024


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        (b'{"event_id": "a\\/b", "channel": ""}', {"event_id": "a/b"}),
        (b'{"user_id" : "J\\u00fcrgen", "channel": ""}', {"user_id": "Jürgen"}),
        (b'{"user_id": 4711}', {"user_id": "4711"}),
        (b'{"metadata": {"text": "%b"}, "event_id": "late", "x": 1}' % (b"x" * 2000), {"event_id": "late"}),
        (b'{"event_id": "cut", "channel"', {"event_id": "cut"}),
    ],
)
async def test_a_refused_event_is_found_however_it_was_written(sent: bytes, wanted: dict[str, str]) -> None:
    async with running_mill() as mill:
        assert (await mill.client.post("/events", content=sent)).status_code == 400
        nested = {"event_name": "a", "channel": "", "metadata": {"user_id": "nested"}}
        assert (await mill.client.post("/events", json=nested | {"user_id": "outer"})).status_code == 400
        assert await state_of(mill, **wanted) == "refused"
        assert await state_of(mill, user_id="nested") == "unknown"


async def test_an_event_that_was_purged_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventmill.api.search.SETTLED_SECONDS", 0.0)

    class Picky(StoreProxy):
        async def insert(self, batch: EventBatch) -> None:
            if wrong := [index for index, each in enumerate(batch.events) if each.event_id == "cursed"]:
                raise RejectedEvents("it is cursed", wrong)
            await super().insert(batch)

    async with running_mill(wrap_store=Picky) as mill:
        await mill.client.post("/events", json=event("cursed"))

        async def is_dead() -> bool:
            return bool((await mill.client.get("/dead-letters")).json()["total"])

        await eventually(is_dead, 10)
        await mill.client.post("/dead-letters/purge", json={"all": True})
        answer = (await mill.client.get("/events/lookup", params={"event_id": "cursed"})).json()
        assert (answer["state"], answer["is_complete"]) == ("unknown", True)
        assert "is neither in the queue nor stored" in answer["notes"][0]


async def test_recent_frames_are_bounded_and_found_newest_first() -> None:
    recent = RecentFrames(max_bytes=20_000)
    events = [make_event(event_id=f"event {number}", user_id=f"user {number % 7}") for number in range(2000)]
    for start in range(0, len(events), 10):
        recent.add([encode_frame([encode_line(each) for each in events[start : start + 10]])])
    assert recent.find("default", "event_id", "event 1999", 10)[0].event == events[1999]
    assert recent.find("default", "event_id", "event 0", 10) == []
    assert recent.find("other", "event_id", "event 1999", 10) == []
    assert recent.find("default", "event_id", 'event "1999', 10) == []
    found = recent.find("default", "user_id", "user 3", 5)
    assert len(found) == 5
    assert {each.event.user_id for each in found} == {"user 3"}


async def test_every_worker_answers_for_all(tmp_path: Path) -> None:
    settings = {
        "EVENTMILL_QUEUE": "sqlite",
        "EVENTMILL_QUEUE_SQLITE_PATH": str(tmp_path / "queue.db"),
        "EVENTMILL_STORE": "none",
        "EVENTMILL_SHUTDOWN_DELAY_SECONDS": "0",
    }

    def check() -> None:
        arguments = ("serve", "--workers", "3", "--listen", "127.0.0.1:0")
        with running(*arguments, cwd=tmp_path, settings=settings) as program:
            url = program.url()
            wait_until(lambda: len(list_sockets(program.process.pid)) == 3)
            assert httpx.post(f"{url}/events", json=event("one")).status_code == 202
            assert httpx.post(f"{url}/events", json=event("bad", channel="")).status_code == 400
            for _ in range(8):  # each on a connection of its own, so that several workers answer
                waiting = httpx.get(f"{url}/events/lookup", params={"event_id": "one"}).json()
                assert waiting["state"] == "waiting"
                refused = httpx.get(f"{url}/events/lookup", params={"event_id": "bad"}).json()
                assert refused["state"] == "refused"
                assert len(httpx.get(f"{url}/events/refused").json()) == 1
            done = eventmill("lookup", "one", "--url", url, cwd=tmp_path)
            assert (done.returncode, done.stdout.split("\t")[:2]) == (0, ["waiting", "one"])
            done = eventmill("lookup", "nothing", "--url", url, cwd=tmp_path)
            assert (done.returncode, done.stdout.split("\t")[0]) == (1, "unknown")
            assert "1 messages wait in the queue" in done.stderr

    await asyncio.to_thread(check)


def list_sockets(pid: int) -> list[str]:
    """The Unix sockets of the workers of this process that accept connections."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    lines = Path("/proc/net/unix").read_text().splitlines()
    return [line for line in lines if any(line.endswith(f"/{child}.sock") for child in children)]
