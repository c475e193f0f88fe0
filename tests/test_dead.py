"""`eventmill dead`: what an operator does with dead letters, on a real queue."""

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

import eventmill_queue_sqlite
from eventmill import Delivery, Queue
from eventmill.consumer.paging import Pager
from eventmill.event import encode_line
from eventmill.frames import DeadRecord, decode_frame, encode_dead, encode_frame
from eventmill.testing import make_event
from eventmill_queue_sqlite.settings import SqliteQueueSettings
from support.mill import eventmill, running, wait_until
from support.proxies import QueueProxy

NOON_MS = 1_700_000_000_000


def letter(name: str, **fields: object) -> bytes:
    body = encode_frame([encode_line(make_event(event_name=name))])
    return encode_dead(DeadRecord(**({"reason": "rejected", "died_at_ms": NOON_MS, "body": body} | fields)))  # type: ignore[arg-type]  # of various types


LETTERS = [
    letter("a", message="no such user", code="RejectedEvents", attempts=2),
    letter("b", died_at_ms=NOON_MS + 3_600_000),
    encode_dead(DeadRecord(reason="undecodable", body=b"\0 what?", died_at_ms=NOON_MS + 1)),
    b"moved by the service itself",
]


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    return {"EVENTMILL_QUEUE": "sqlite", "EVENTMILL_QUEUE_SQLITE_PATH": str(tmp_path / "queue.db")}


@pytest.fixture(autouse=True)
def letters(settings: dict[str, str]) -> None:
    async def publish() -> None:
        async with opened(settings) as queue:
            await queue.dead.publish(LETTERS, time.monotonic() + 5)

    asyncio.run(publish())


def opened(settings: dict[str, str]) -> AbstractAsyncContextManager[Queue]:
    path = Path(settings["EVENTMILL_QUEUE_SQLITE_PATH"])
    return eventmill_queue_sqlite.backend.open(SqliteQueueSettings(path=path))


def bodies(settings: dict[str, str], *, dead: bool) -> list[bytes]:
    async def receive() -> list[bytes]:
        async with opened(settings) as queue:
            queue = queue.dead if dead else queue
            deliveries = await queue.receive(100, 0)
            await queue.release(deliveries)
            return [delivery.body for delivery in deliveries]

    return asyncio.run(receive())


def listed(tmp_path: Path, settings: dict[str, str], *options: str) -> Sequence[dict[str, object]]:
    done = eventmill("dead", "list", "--json", *options, cwd=tmp_path, settings=settings)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_dead_letters_are_listed_with_their_reasons_as_often_as_one_likes(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    for _ in range(2):
        rows = listed(tmp_path, settings)
        assert [row["reason"] for row in rows] == ["rejected", "undecodable", "rejected", "moved"]
        assert rows[0] | {"id": ""} == {
            "id": "",
            "died_at": "2023-11-14T22:13:20Z",
            "reason": "rejected",
            "code": "RejectedEvents",
            "attempts": 2,
            "events": 1,
            "event_names": ["a"],
            "message": "no such user",
            "body": "",
        }
        assert rows[1]["body"] == "\0 what?"
    text = eventmill("dead", "list", cwd=tmp_path, settings=settings).stdout.splitlines()
    assert len(text) == 4
    assert text[0].split("\t")[2:] == ["rejected", "RejectedEvents", "2", "1", "a", "no such user"]


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (("--reason", "rejected"), 2),
        (("--reason", "poison"), 0),
        (("--event-name", "nothing"), 0),
        (("--event-name", "b"), 1),
        (("--since", "1700000001"), 2),
        (("--until", "2023-11-14T22:13:20.001Z"), 2),
        (("--limit", "3"), 3),
    ],
)
def test_filters_choose_among_them(
    tmp_path: Path, settings: dict[str, str], options: tuple[str, ...], count: int
) -> None:
    assert len(listed(tmp_path, settings, *options)) == count


def test_one_letter_is_shown_whole(tmp_path: Path, settings: dict[str, str]) -> None:
    rows = listed(tmp_path, settings)
    shown = json.loads(eventmill("dead", "show", str(rows[0]["id"]), cwd=tmp_path, settings=settings).stdout)
    assert shown["events"][0]["event_name"] == "a"
    shown = json.loads(eventmill("dead", "show", str(rows[1]["id"]), cwd=tmp_path, settings=settings).stdout)
    assert shown["body"] == "\0 what?"
    missing = eventmill("dead", "show", "ffff", cwd=tmp_path, settings=settings)
    assert (missing.returncode, missing.stdout) == (2, "")


def test_a_replay_puts_the_same_events_back_and_leaves_the_others(tmp_path: Path, settings: dict[str, str]) -> None:
    dry = eventmill("dead", "replay", "--event-name", "a", "--dry-run", cwd=tmp_path, settings=settings)
    assert dry.stdout == "1 dead letters would be replayed, 3 others left\n"
    assert bodies(settings, dead=False) == []
    done = eventmill("dead", "replay", "--event-name", "a", cwd=tmp_path, settings=settings)
    assert done.stdout == "1 dead letters replayed, 3 others left\n"
    [body] = bodies(settings, dead=False)
    assert [event for event, _ in decode_frame(body)] == [make_event(event_name="a")]
    assert len(bodies(settings, dead=True)) == 3
    assert eventmill("dead", "replay", cwd=tmp_path, settings=settings).stdout.startswith("3 dead letters replayed, 0")
    assert b"moved by the service itself" in bodies(settings, dead=False)


def test_a_purge_removes_only_what_is_named(tmp_path: Path, settings: dict[str, str]) -> None:
    careless = eventmill("dead", "purge", cwd=tmp_path, settings=settings)
    assert careless.returncode == 2
    assert "--all" in careless.stderr
    row = listed(tmp_path, settings)[0]
    assert eventmill("dead", "purge", str(row["id"]), cwd=tmp_path, settings=settings).returncode == 0
    assert len(bodies(settings, dead=True)) == 3
    assert eventmill("dead", "purge", "--all", cwd=tmp_path, settings=settings).stdout.startswith(
        "3 dead letters purged"
    )
    assert bodies(settings, dead=True) == bodies(settings, dead=False) == []


@pytest.mark.parametrize("command", [("purge", ""), ("replay", "ab")])
def test_an_id_that_may_mean_anything_is_rejected(
    tmp_path: Path, settings: dict[str, str], command: tuple[str, str]
) -> None:
    done = eventmill("dead", *command, cwd=tmp_path, settings=settings)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(bodies(settings, dead=True)) == 4


def test_a_replay_ends_while_a_consumer_buries_the_same_letters_again(tmp_path: Path, settings: dict[str, str]) -> None:
    settings = settings | {"EVENTMILL_STORE": "clickhouse", "EVENTMILL_STORE_CLICKHOUSE_URL": f"chdb://{tmp_path}/chdb"}
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=settings) as program:
        program.url()
        done = eventmill("dead", "replay", "--reason", "undecodable", cwd=tmp_path, settings=settings)
        assert done.stdout.startswith("1 dead letters replayed, ")
        wait_until(lambda: len(bodies(settings, dead=True)) == 4)


def test_an_invalid_time_is_reported(tmp_path: Path, settings: dict[str, str]) -> None:
    done = eventmill("dead", "list", "--since", "yesterday", cwd=tmp_path, settings=settings)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "--since" in done.stderr


def publish(settings: dict[str, str], bodies: Sequence[bytes]) -> None:
    async def run() -> None:
        async with opened(settings) as queue:
            await queue.dead.publish(bodies, time.monotonic() + 5)

    asyncio.run(run())


def test_identical_letters_are_all_purged(tmp_path: Path, settings: dict[str, str]) -> None:
    publish(settings, [letter("same")] * 251)
    rows = listed(tmp_path, settings, "--event-name", "same", "--limit", "1000")
    assert len(rows) == 251
    assert len({row["id"] for row in rows}) == 1
    one = eventmill("dead", "purge", str(rows[0]["id"]), "--dry-run", cwd=tmp_path, settings=settings)
    assert one.stdout == "251 dead letters would be purged, 4 others left\n"
    done = eventmill("dead", "purge", "--all", cwd=tmp_path, settings=settings)
    assert done.stdout == "255 dead letters purged, 0 others left\n"
    assert bodies(settings, dead=True) == []


def test_identical_letters_are_all_replayed(tmp_path: Path, settings: dict[str, str]) -> None:
    publish(settings, [letter("same")] * 251)
    done = eventmill("dead", "replay", "--event-name", "same", cwd=tmp_path, settings=settings)
    assert done.stdout == "251 dead letters replayed, 4 others left\n"
    assert len(bodies(settings, dead=True)) == 4


class LosingOnce(QueueProxy):
    """Loses all leases when they are extended for the first time."""

    def __init__(self, inner: Queue) -> None:
        super().__init__(inner)
        self.lost = asyncio.Event()

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        if self.lost.is_set():
            return await self.inner.extend(deliveries)
        await self.inner.release(deliveries)
        self.lost.set()
        return list(deliveries)


@pytest.fixture
def queue_settings(tmp_path: Path) -> SqliteQueueSettings:
    return SqliteQueueSettings(path=tmp_path / "short.db", lease_seconds=0.5)


@pytest.mark.anyio
async def test_a_message_cannot_be_received_by_others_while_a_queue_is_paged(
    queue_settings: SqliteQueueSettings,
) -> None:
    async with eventmill_queue_sqlite.backend.open(queue_settings) as queue:
        await queue.publish([b"same"] * 100, time.monotonic() + 5)
        async with Pager(queue) as pager:
            async for page in pager.pages():
                assert len(page) == 100
                assert await queue.receive(100, 1.2) == []
        assert len(await queue.receive(100, 1)) == 100


@pytest.mark.anyio
async def test_a_message_whose_lease_was_lost_is_paged_once(queue_settings: SqliteQueueSettings) -> None:
    async with eventmill_queue_sqlite.backend.open(queue_settings) as inner:
        queue = LosingOnce(inner)
        await queue.publish([b"same"] * 251, time.monotonic() + 5)
        count = 0
        async with asyncio.timeout(10), Pager(queue) as pager:
            async for page in pager.pages():
                count += len(page)
                await queue.lost.wait()
        assert count == 251


def publish_dead(settings: dict[str, str], *bodies: bytes) -> None:
    async def publish() -> None:
        async with opened(settings) as queue:
            await queue.dead.publish(bodies, time.monotonic() + 5)

    asyncio.run(publish())


def test_an_unknown_reason_is_rejected_with_those_there_are(tmp_path: Path, settings: dict[str, str]) -> None:
    done = eventmill("dead", "purge", "--reason", "nothing", cwd=tmp_path, settings=settings)
    assert (done.returncode, done.stdout) == (2, "")
    assert "rejected, undecodable, poison, moved, newer" in done.stderr


def test_the_former_reason_still_finds_its_letters(tmp_path: Path, settings: dict[str, str]) -> None:
    publish_dead(settings, b'ed\x01{"reason":"killer"}\nbody')
    for reason in ("killer", "poison"):
        assert [row["reason"] for row in listed(tmp_path, settings, "--reason", reason)] == ["poison"]


def test_a_letter_of_a_newer_program_can_be_listed_and_purged_but_not_replayed(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    publish_dead(settings, encode_dead(DeadRecord(reason="rejected", body=b"body"), version=3))
    [row] = listed(tmp_path, settings, "--reason", "newer")
    assert "version 3" in str(row["message"])
    replayed = eventmill("dead", "replay", "--reason", "newer", cwd=tmp_path, settings=settings)
    assert replayed.stdout == "0 dead letters replayed, 5 others left\n"
    purged = eventmill("dead", "purge", str(row["id"]), cwd=tmp_path, settings=settings)
    assert purged.stdout == "1 dead letters purged, 4 others left\n"
