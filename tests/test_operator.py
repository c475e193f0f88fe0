"""What an operator does: look at a deployment, pause it, settle its dead letters, from anywhere and without secrets."""

import asyncio
import json
import os
import pty
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from eventmill import Store
from eventmill.consumer.consumer import DRAIN_SECONDS, Consumer
from eventmill.consumer.pause import WATCH_SECONDS, read_order
from eventmill.event import encode_line
from eventmill.frames import DeadRecord, encode_dead, encode_frame
from eventmill.shutdown import Shutdown
from eventmill.testing import make_event
from eventmill.testing.contract import eventually
from eventmill.times import describe_skew
from support import services
from support.mill import Mill, environment, eventmill, running, running_mill, wait_until
from support.proxies import StoreProxy

EVENT = {"event_name": "a", "channel": "b", "user_id": "ada", "timestamp": 1_766_717_657, "event_id": "one"}
SPAN = ("--from", "1766717657", "--to", "1766717657")
NOON_MS = 1_700_000_000_000


def letter(name: str, reason: str = "rejected") -> bytes:
    body = encode_frame([encode_line(make_event(event_name=name))])
    return encode_dead(DeadRecord(reason=reason, died_at_ms=NOON_MS, message="no such column", body=body))


async def bury(mill: Mill, *letters: bytes) -> None:
    await mill.queue.dead.publish(letters, time.monotonic() + 5)


# Pausing


@pytest.mark.anyio
async def test_paused_consumers_store_nothing_until_they_resume() -> None:
    async with running_mill() as mill:
        answer = await mill.client.post("/pause", json={"reason": "moving the store"})
        assert (answer.status_code, answer.json()["paused"]) == (200, True)
        await asyncio.sleep(WATCH_SECONDS + 1)  # what it promises
        assert (await mill.client.post("/events", json=EVENT)).status_code == 202
        status = (await mill.client.get("/status")).json()
        assert (status["paused"], status["paused_because"]) == (True, "moving the store")
        assert abs(status["paused_at"] - time.time()) < 60
        assert (status["ready"], status["in_flight"]) == (1, 0)
        assert "eventmill resume" in [finding["fix"] for finding in (await mill.client.get("/check")).json()]
        assert (await mill.client.post("/resume")).json()["paused"] is False

        async def is_stored() -> bool:
            return bool((await mill.client.get("/status")).json()["newest_event_at"] == EVENT["timestamp"])

        await eventually(is_stored, WATCH_SECONDS + 5)


@pytest.mark.anyio
async def test_a_consumer_that_starts_while_paused_receives_nothing() -> None:
    async with running_mill() as mill:
        await mill.client.post("/pause")
        shutdown = Shutdown()
        second = Consumer(mill.queue, mill.store, shutdown, batch_seconds=0.01, receive_seconds=0.05)
        running_second = asyncio.create_task(second.run())
        await asyncio.sleep(WATCH_SECONDS + 1)  # the first one has paused, too
        await mill.client.post("/events", json=EVENT)
        await asyncio.sleep(0.5)
        assert (await mill.queue.depth()).ready == 1
        shutdown.begin(DRAIN_SECONDS)
        await running_second


@pytest.mark.anyio
async def test_the_last_order_counts_even_if_clocks_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_mill() as mill:
        await mill.client.post("/pause")
        behind = time.time_ns() - 3600 * 10**9
        with monkeypatch.context() as clock:
            clock.setattr("time.time_ns", lambda: behind)
            await mill.client.post("/resume")
        assert not (await read_order(mill.store)).is_pause


@pytest.mark.anyio
async def test_without_a_store_nobody_can_pause() -> None:
    class Hanging(StoreProxy):
        async def find(self, identities: object) -> list[object]:  # type: ignore[override]  # it answers nothing
            await asyncio.Event().wait()
            return []

    def hang(store: Store) -> Store:
        return Hanging(store)

    async with running_mill(wrap_store=hang) as mill:
        answer = await mill.client.post("/pause")
        assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
        assert (await mill.client.get("/status")).json()["paused"] is None


# Dead letters


@pytest.mark.anyio
async def test_dead_letters_are_listed_shown_replayed_and_purged_over_http() -> None:
    async with running_mill() as mill:
        await bury(mill, letter("a"), letter("b"), letter("c", "poison"))
        summaries = (await mill.client.get("/dead-letters", params={"reason": "rejected"})).json()["letters"]
        assert sorted(summary["event_names"][0] for summary in summaries) == ["a", "b"]
        [first] = [summary for summary in summaries if summary["event_names"] == ["a"]]
        answer = await mill.client.get("/dead-letters", params={"id": first["id"], "full": "true"})
        [full] = answer.json()["letters"]
        assert full["events"][0]["event_name"] == "a"
        assert (await mill.client.post("/dead-letters/purge", json={})).status_code == 400
        assert (await mill.client.post("/dead-letters/purge", json={"reasons": "x"})).status_code == 400
        dry = await mill.client.post("/dead-letters/replay", json={"event_name": "a", "dry_run": True})
        assert json.loads(dry.text.splitlines()[-1]) == {"matched": 1, "others": 2, "done": True}
        replayed = await mill.client.post("/dead-letters/replay", json={"event_name": "a"})
        assert replayed.headers["content-type"] == "application/x-ndjson"
        purged = await mill.client.post("/dead-letters/purge", json={"reason": "poison"})
        assert json.loads(purged.text.splitlines()[-1]) == {"matched": 1, "others": 1, "done": True}
        left = (await mill.client.get("/dead-letters")).json()
        assert [summary["event_names"] for summary in left.pop("letters")] == [["b"]]
        assert left == {"total": 1, "reasons": {"rejected": 1}, "newest_at": NOON_MS / 1000, "missed": 0}


@pytest.mark.anyio
async def test_the_oldest_letters_are_listed_first_and_a_list_says_that_it_is_cut() -> None:
    async with running_mill() as mill:
        letters = [
            encode_dead(DeadRecord(reason="undecodable", died_at_ms=NOON_MS + number, body=b"%d" % number))
            for number in range(300)
        ]
        await bury(mill, *reversed(letters))
        for limit in (1, 7, 250):
            found = (await mill.client.get("/dead-letters", params={"limit": str(limit)})).json()
            assert [each["body"] for each in found["letters"]] == [f"{number}" for number in range(limit)]
            assert (found["total"], found["missed"]) == (300, 0)


@pytest.mark.anyio
async def test_letters_that_another_process_holds_are_not_passed_over_in_silence() -> None:
    async with running_mill() as mill:
        await bury(mill, *(letter(f"event {number}") for number in range(30)))
        held = await mill.queue.dead.receive(10, 1)
        findings = {each["part"]: each["message"] for each in (await mill.client.get("/check")).json()}
        assert findings["dead letters"].startswith("30 dead letters wait for a decision: 20 rejected")
        found = (await mill.client.get("/dead-letters")).json()
        assert (len(found["letters"]), found["missed"]) == (20, 10)
        purged = await mill.client.post("/dead-letters/purge", json={"all": True})
        assert json.loads(purged.text.splitlines()[-1]) == {"matched": 20, "others": 0, "missed": 10}
        await mill.queue.dead.release(held)
        purged = await mill.client.post("/dead-letters/purge", json={"all": True})
        assert json.loads(purged.text.splitlines()[-1]) == {"matched": 10, "others": 0, "done": True}


@pytest.mark.anyio
async def test_requests_for_dead_letters_wait_for_each_other() -> None:
    async with running_mill() as mill:
        await bury(mill, *(letter(f"event {number}") for number in range(300)))
        listed, purged, looked_up = await asyncio.gather(
            mill.client.get("/dead-letters"),
            mill.client.post("/dead-letters/purge", json={"all": True}),
            mill.client.get("/events/lookup", params={"event_id": "nothing"}),
        )
        assert listed.json()["total"] == 300
        assert json.loads(purged.text.splitlines()[-1]) == {"matched": 300, "others": 0, "done": True}
        assert looked_up.json()["is_complete"] is True


def test_what_an_operator_does_is_logged_with_the_key(tmp_path: Path) -> None:
    settings = {"EVENTMILL_ANONYMOUS": "false"}
    new = ("keys", "new", "--scope", "admin", "--project", "*", "--name", "oncall")
    key = eventmill(*new, cwd=tmp_path, settings=settings).stdout.strip()
    with running("run", "--memory", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=settings) as program:
        target = ("--url", program.url(), "--key", key)
        for _ in range(2):  # a second time within ten seconds, too
            assert eventmill("dead", "purge", "--reason", "moved", *target, cwd=tmp_path).returncode == 0
        assert eventmill("pause", "--reason", "a test", *target, cwd=tmp_path).returncode == 0
        assert "by oncall (" in eventmill("status", "--seconds", "0.1", *target, cwd=tmp_path).stdout
        program.wait_for('"ordered to pause"')
    records = [json.loads(line) for line in program.output.splitlines() if line.startswith("{")]
    done = [record for record in records if "operator" in record]
    assert [record["message"] for record in done] == [
        "purge of dead letters: 0 (done)",
        "purge of dead letters: 0 (done)",
        "ordered to pause",
    ]
    assert all(record["operator"].startswith("oncall (") for record in done)
    assert (done[0]["reason"], done[2]["reason"]) == ("moved", "a test")


# Findings


def test_check_names_each_trouble_with_its_fix(tmp_path: Path) -> None:
    with services.running_redis(tmp_path / "redis", "--appendonly", "no") as redis:
        settings = {
            "EVENTMILL_QUEUE": "redis",
            "EVENTMILL_QUEUE_REDIS_URL": redis.url,
            "EVENTMILL_STORE": "clickhouse",
            "EVENTMILL_STORE_CLICKHOUSE_URL": f"chdb://{tmp_path}/chdb",
        }
        command = f"ulimit -n 1024; exec {sys.executable} -m eventmill check --json"
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment(settings),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        findings = {(each["part"], each["state"]): each for each in json.loads(done.stdout)}
        assert findings["store", "failed"]["fix"] == "eventmill migrate"
        assert findings["process", "warning"]["fix"] == "ulimit -n 65536"
        assert "CONFIG SET appendonly yes" in findings["queue", "warning"]["fix"]
        assert eventmill("migrate", cwd=tmp_path, settings=settings).returncode == 0
        done = eventmill("check", cwd=tmp_path, settings=settings)
        assert done.returncode == 0, done.stdout
        assert "store\tok" in done.stdout


def test_check_names_wrong_settings_and_unreachable_servers(tmp_path: Path) -> None:
    settings = {
        "EVENTMILL_QUEUE": "redis",
        "EVENTMILL_QUEUE_REDIS_URL": "redis://127.0.0.1:1/0",
        "EVENTMILL_STORE": "none",
        "EVENTMILL_QUEUE_REDIS_LEASE": "7",
    }
    done = eventmill("check", cwd=tmp_path, settings=settings)
    assert done.returncode == 1
    assert "queue\tFAILED\tQueueUnavailable: Redis:" in done.stdout
    assert "settings\twarning\tEVENTMILL_QUEUE_REDIS_LEASE is not a setting" in done.stdout


def test_a_clock_that_differs_is_named() -> None:
    now = time.time()
    assert describe_skew(now + 1, "Redis") == []
    [ahead], [behind] = describe_skew(now + 61, "Redis"), describe_skew(now - 3600, "SQS")
    assert "the clock of Redis is 61 s ahead of" in ahead
    assert "the clock of SQS is 3600 s behind" in behind


# Commands from elsewhere


@pytest.fixture
def api(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A server with keys in another folder: its URL, and an admin key and a read key as settings."""
    home, settings = tmp_path / "server", {"EVENTMILL_ANONYMOUS": "false"}
    home.mkdir()
    admin = eventmill("keys", "new", "--scope", "admin", "--project", "*", cwd=home, settings=settings).stdout.strip()
    read = eventmill("keys", "new", "--scope", "read", cwd=home, settings=settings).stdout.strip()
    with running("run", "--memory", "--listen", "127.0.0.1:0", cwd=home, settings=settings) as program:
        yield program.url(), {"admin": admin, "read": read}


def test_commands_work_against_a_url_with_a_key(api: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    url, keys = api
    folder = tmp_path / "laptop"
    folder.mkdir()
    assert httpx.post(f"{url}/events", json=EVENT, headers={"X-API-Key": keys["admin"]}).status_code == 202

    def run(*arguments: str, key: str = "admin") -> subprocess.CompletedProcess[str]:
        return eventmill(*arguments, "--url", url, cwd=folder, settings={"EVENTMILL_KEY": keys[key]})

    status = json.loads(run("status", "--json", "--seconds", "0.1").stdout)
    assert status["since_start"]["events_accepted"] == 1
    assert run("check").returncode == 0
    wait_until(lambda: run("query", "a", *SPAN).stdout == "all\t1\t1\n")
    assert run("query", "a", *SPAN, "--group-by", "channel", key="read").stdout == "b\t1\t1\nall\t1\t1\n"
    assert run("query", "a", *SPAN, "--project", "other").stdout == "all\t0\t0\n"
    assert run("lookup", "one", "--from", "1766717657", key="read").stdout.startswith("stored\tone\tada\t")
    assert run("dead", "list").stdout == ""
    assert "0 dead letters purged" in run("dead", "purge", "--all").stdout
    assert run("pause").returncode == 0
    assert "PAUSED since" in run("status", "--seconds", "0.1").stdout
    assert run("resume").returncode == 0
    refused = run("status", key="read")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "403" in refused.stderr
    assert list(folder.iterdir()) == []


def test_mistakes_of_the_caller_are_explained(api: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    url, keys = api
    for arguments, code, words in (
        (("status", "--url", url), 2, "401: send a key"),
        (("status", "--url", "127.0.0.1"), 2, "must be http://HOST:PORT"),
        (("status", "--url", "http://127.0.0.1:1"), 1, "http://127.0.0.1:1 does not answer"),
        (("query", "a", "--from", "today", "--to", "1", "--url", url, "--key", keys["read"]), 2, "--from is neither"),
        (("dead", "list", "--since", "x", "--url", url, "--key", keys["admin"]), 2, "--since: 'x' is neither"),
        (("lookup", "--url", url), 2, "name either an event id or --user"),
        (("status",), 2, "EVENTMILL_QUEUE is required"),
    ):
        done = eventmill(*arguments, cwd=tmp_path)
        assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), (arguments, done.stderr)
        assert words in done.stderr


NOT_OURS = [b"{}", b"[]", b"", b"5", b"null", b'{"status": NaN}', b"<html>", b"[" * 5000, b"{}\n{}"]


@pytest.mark.parametrize("number", range(len(NOT_OURS)))
def test_an_answer_that_is_not_eventmills_is_reported(tmp_path: Path, number: int) -> None:
    answer = NOT_OURS[number]

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET  # noqa: N815 (its name in the library)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        commands = [("status",), ("check",), ("query", "a"), ("lookup", "x"), ("refused",), ("pause",)]
        commands += [("dead", "list"), ("dead", "show", "abcd"), ("dead", "replay")]
        for command in commands[number % 3 :: 3]:  # each command gets three of the answers
            done = eventmill(*command, "--url", url, cwd=tmp_path)
            is_empty_list = answer == b"[]" and command[0] in ("check", "refused")
            assert (done.returncode, done.stdout) == (0 if is_empty_list else 1, ""), command
            assert is_empty_list or "not eventmill's" in done.stderr, (command, done.stderr)
        server.shutdown()


def test_a_key_never_appears_in_an_error(tmp_path: Path) -> None:
    for key in ("ema_secret\r", "ema_secret\nX: y", "ema_sécret"):
        done = eventmill("status", "--url", "http://127.0.0.1:1", "--key", key, cwd=tmp_path)
        assert done.returncode in (1, 2)
        assert "cret" not in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_an_empty_option_does_not_match_everything(tmp_path: Path) -> None:
    done = eventmill("dead", "purge", "--event-name", "", "--reason", "poison", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "eventmill: --event-name must not be empty\n")


def test_a_second_run_leaves_the_socket_of_the_first_alone(tmp_path: Path) -> None:
    arguments = ("run", "--memory", "--listen", "127.0.0.1:0")
    with running(*arguments, cwd=tmp_path) as first:
        assert httpx.post(f"{first.url()}/events", json=EVENT).status_code == 202
        with running(*arguments, cwd=tmp_path) as second:
            second.wait_for("commands reach another `eventmill run`")
            second.url()
            second.stop()
        status = json.loads(eventmill("status", "--json", "--seconds", "0.1", cwd=tmp_path).stdout)
        assert status["since_start"]["events_accepted"] == 1


def test_a_run_is_asked_if_the_settings_name_its_backends(tmp_path: Path) -> None:
    same = {"EVENTMILL_QUEUE": "sqlite", "EVENTMILL_QUEUE_SQLITE_PATH": str(tmp_path / "own.db")}
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=same) as program:
        assert httpx.post(f"{program.url()}/events", json=EVENT).status_code == 202
        chdb = {"EVENTMILL_STORE_CLICKHOUSE_URL": f"chdb://{tmp_path}/eventmill-data/chdb"}
        settings = same | {"EVENTMILL_STORE": "clickhouse"} | chdb
        status = eventmill("status", "--json", "--seconds", "0.1", cwd=tmp_path, settings=settings)
        assert json.loads(status.stdout)["since_start"]["events_accepted"] == 1


def test_a_url_and_a_folder_are_two_deployments(tmp_path: Path) -> None:
    url = {"EVENTMILL_URL": "http://127.0.0.1:1"}
    done = eventmill("dead", "purge", "--all", "--data", "test", cwd=tmp_path, settings=url)
    assert (done.returncode, "choose one" in done.stderr) == (2, True)


def test_commands_find_the_run_of_their_folder(tmp_path: Path) -> None:
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        url = program.url()
        socket = tmp_path / "eventmill-data" / "run.sock"
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        assert httpx.post(f"{url}/events", json=EVENT).status_code == 202
        wait_until(lambda: eventmill("query", "a", *SPAN, cwd=tmp_path).stdout == "all\t1\t1\n")
        assert "store\tok" in eventmill("check", cwd=tmp_path).stdout
        status = json.loads(eventmill("status", "--json", "--seconds", "0.1", cwd=tmp_path).stdout)
        assert (status["since_start"]["events_accepted"], status["store"]["status"]) == (1, "ok")
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        done = eventmill("status", "--json", "--seconds", "0.1", "--data", "../eventmill-data", cwd=elsewhere)
        assert json.loads(done.stdout)["since_start"]["events_accepted"] == 1
        assert program.stop() == 0
        assert not socket.exists()
    stopped = json.loads(eventmill("status", "--json", "--seconds", "0.1", cwd=tmp_path).stdout)
    assert (stopped["since_start"]["events_accepted"], stopped["ready"]) == (0, 0)


def test_a_killed_run_is_not_asked_and_a_memory_run_leaves_no_folder(tmp_path: Path) -> None:
    with running("run", "--memory", "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        program.url()
        assert eventmill("status", "--seconds", "0.1", cwd=tmp_path).returncode == 0
        program.stop(signal.SIGKILL)
    assert (tmp_path / "eventmill-data" / "run.sock").exists()
    with running("run", "--memory", "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        program.url()
        assert eventmill("status", "--seconds", "0.1", cwd=tmp_path).returncode == 0
        program.stop()
    assert list(tmp_path.iterdir()) == []


def test_named_backends_are_used_directly(tmp_path: Path) -> None:
    with running("run", "--memory", "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        assert httpx.post(f"{program.url()}/events", json=EVENT).status_code == 202
        named = {"EVENTMILL_QUEUE": "sqlite", "EVENTMILL_QUEUE_SQLITE_PATH": str(tmp_path / "q.db")}
        done = eventmill(
            "status", "--json", "--seconds", "0.1", cwd=tmp_path, settings=named | {"EVENTMILL_STORE": "none"}
        )
        assert json.loads(done.stdout)["since_start"]["events_accepted"] == 0


@pytest.mark.parametrize("is_terminal", [False, True])
def test_status_can_be_watched(tmp_path: Path, is_terminal: bool) -> None:
    with running("run", "--memory", "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        program.url()
        command = [sys.executable, "-m", "eventmill", "status", "--watch"]
        if is_terminal:
            reading, writing = pty.openpty()
        else:
            reading, writing = os.pipe()
        with subprocess.Popen(command, cwd=tmp_path, env=environment({}), stdout=writing) as watching:
            os.close(writing)
            shown, until = b"", time.monotonic() + 20
            while shown.count(b"messages ready") < 2 and time.monotonic() < until:
                shown += os.read(reading, 65536)
            watching.send_signal(signal.SIGINT)
            code = watching.wait(10)
        os.close(reading)
    assert shown.count(b"messages ready") >= 2
    assert code == 130
