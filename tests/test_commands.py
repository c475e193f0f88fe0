"""The commands, as a user runs them."""

import gzip
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from support import real_events, services
from support.mill import ROOT, environment, eventmill, running, wait_until

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def shared(folder: Path) -> dict[str, str]:
    """Settings of backends that processes of one machine can share."""
    (folder / "eventmill_store_jsonl-1.0.dist-info").mkdir(exist_ok=True)
    (folder / "eventmill_store_jsonl-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: eventmill-store-jsonl\nVersion: 1.0\n"
    )
    (folder / "eventmill_store_jsonl-1.0.dist-info" / "entry_points.txt").write_text(
        "[eventmill]\nstore_jsonl = eventmill_store_jsonl\n"
    )
    return {
        "PYTHONPATH": f"{ROOT / 'examples/third_party_plugin'}:{folder}",
        "EVENTMILL_QUEUE": "sqlite",
        "EVENTMILL_QUEUE_SQLITE_PATH": str(folder / "queue.db"),
        "EVENTMILL_QUEUE_SQLITE_LEASE_SECONDS": "5",
        "EVENTMILL_STORE": "jsonl",
        "EVENTMILL_STORE_JSONL_PATH": str(folder / "events.jsonl"),
        "EVENTMILL_LISTEN": "127.0.0.1:0",
        "EVENTMILL_SHUTDOWN_DELAY_SECONDS": "0",
    }


def ask(
    url: str, event_name: str, group_by: str | None = None, span: tuple[int, int] | None = None
) -> dict[str, object]:
    parameters = real_events.parameters(event_name, group_by)
    if span is not None:
        parameters |= {"from": span[0], "to": span[1]}
    answer = httpx.get(f"{url}/metrics", params=parameters, timeout=30)
    return dict(answer.raise_for_status().json())


def pending(folder: Path) -> int:
    """How many messages the queue holds."""
    with closing(sqlite3.connect(folder / "queue.db")) as database:
        return int(database.execute("SELECT count(*) FROM messages_line").fetchone()[0])


def wrong_answers(url: str) -> list[str]:
    return [
        problem for name, group_by in real_events.QUESTIONS for problem in real_events.wrong(ask(url, name, group_by))
    ]


# run


@pytest.mark.parametrize("options", [(), ("--memory",)], ids=["chdb", "memory"])
def test_run_takes_the_real_events_and_answers_right_also_when_they_are_sent_twice(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    with running("run", *options, "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        url = program.url()
        for _ in range(2):
            sent = eventmill("send", str(real_events.FILE), "--url", url, cwd=tmp_path)
            assert sent.returncode == 0, sent.stderr
            assert sent.stdout.startswith("accepted 9999 of 9999 events in ")
            assert sent.stderr == ""
            wait_until(lambda: wrong_answers(url) == [])
        assert program.stop() == 0, program.output


def test_run_keeps_the_events_for_its_next_start_when_it_is_killed(tmp_path: Path) -> None:
    options = ("run", "--data", str(tmp_path / "my data"), "--listen", "127.0.0.1:0")
    with running(*options, cwd=tmp_path) as program:
        program.wait_for(re.escape(str(tmp_path / "my data")))
        url = program.url()
        assert eventmill("send", str(real_events.FILE), "--url", url, cwd=tmp_path).returncode == 0
        wait_until(lambda: wrong_answers(url) == [])
        program.stop(signal.SIGKILL)
    with running(*options, cwd=tmp_path) as program:
        url = program.url()
        assert wrong_answers(url) == []
        second = eventmill(*options, cwd=tmp_path)
        assert second.returncode == 2
        assert "another process uses the chDB folder" in second.stderr.splitlines()[-1]


def test_serve_accepts_events_while_the_store_is_unavailable_and_answers_when_it_is_back(tmp_path: Path) -> None:
    with services.running_clickhouse(tmp_path / "server") as server:
        settings = shared(tmp_path) | {"EVENTMILL_STORE": "clickhouse", "EVENTMILL_STORE_CLICKHOUSE_URL": server.url}
        assert eventmill("migrate", cwd=tmp_path, settings=settings).returncode == 0
        server.kill()
        with (
            running("serve", cwd=tmp_path, settings=settings) as api,
            running("consume", cwd=tmp_path, settings=settings) as consumer,
        ):
            url = api.url()
            assert httpx.get(f"{url}/health/ready").json()["status"] == "degraded"
            assert eventmill("send", str(real_events.FILE), "--url", url, cwd=tmp_path).returncode == 0
            answer = httpx.get(f"{url}/metrics", params=real_events.parameters("download", None))
            assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
            server.start()
            wait_until(lambda: httpx.get(f"{url}/health/ready").json()["status"] == "ok")
            wait_until(lambda: wrong_answers(url) == [], 60)
            server.kill()
            server.start()
            assert wrong_answers(url) == []
            assert eventmill("send", str(real_events.FILE), "--url", url, cwd=tmp_path).returncode == 0
            wait_until(lambda: pending(tmp_path) == 0, 60)
            assert wrong_answers(url) == []
            assert consumer.stop() == 0, consumer.output
            assert api.stop() == 0, api.output


def test_migrate_prints_the_statements_without_reaching_for_a_server(tmp_path: Path) -> None:
    settings = {"EVENTMILL_QUEUE": "memory", "EVENTMILL_STORE": "clickhouse", "EVENTMILL_RETENTION_DAYS": "90"}
    settings["EVENTMILL_STORE_CLICKHOUSE_URL"] = "http://127.0.0.1:9/"
    done = eventmill("migrate", "--print", cwd=tmp_path, settings=settings)
    assert done.returncode == 0
    assert "CREATE TABLE IF NOT EXISTS events" in done.stdout
    assert "toIntervalDay(90)" in done.stdout


def test_events_older_than_the_retention_are_rejected(tmp_path: Path) -> None:
    settings = {"EVENTMILL_RETENTION_DAYS": "30", "EVENTMILL_LISTEN": "127.0.0.1:0"}
    with running("run", "--memory", cwd=tmp_path, settings=settings) as program:
        done = eventmill("send", "-", "--url", program.url(), cwd=tmp_path, stdin=line(1))
    assert done.returncode == 1
    assert "the oldest time that is accepted" in done.stderr


def test_run_prints_what_a_newcomer_needs(tmp_path: Path) -> None:
    with running("run", "--memory", "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        url = program.url()
        program.wait_for(r"queue memory \(lost on exit\), store memory \(lost on exit\)")
        program.wait_for(f"curl {url}/events -d")
        assert program.stop(signal.SIGINT) == 0
        assert "Traceback" not in program.output


def test_run_empties_the_memory_queue_into_the_store_before_it_stops(tmp_path: Path) -> None:
    settings = shared(tmp_path) | {"EVENTMILL_QUEUE": "memory", "EVENTMILL_BATCH_SECONDS": "60"}
    with running("run", cwd=tmp_path, settings=settings) as program:
        url = program.url()
        sent = eventmill("send", str(real_events.FILE), "--url", url, cwd=tmp_path)
        assert sent.returncode == 0, sent.stderr
        assert program.stop(signal.SIGTERM) == 0, program.output
    stored = {line for line in (tmp_path / "events.jsonl").read_bytes().splitlines() if line.startswith(b"{")}
    identities = {(e["event_name"], e["timestamp_ms"], e["event_id"]) for e in map(json.loads, stored)}
    assert len(identities) == real_events.EXPECTED["distinct_events"]


def test_an_argument_that_is_no_utf_8_is_wrong_usage(tmp_path: Path) -> None:
    command: list[str | bytes] = [sys.executable, "-m", "eventmill", "query", "--where", b"user_id=\xff"]
    done = subprocess.run(command, cwd=tmp_path, env=environment({}), capture_output=True, check=False)
    assert (done.returncode, b"is not UTF-8" in done.stderr) == (2, True), done.stderr


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    settings = {"EVENTMILL_SHUTDOWN_DELAY_SECONDS": "60", "EVENTMILL_LISTEN": "127.0.0.1:0"}
    with running("run", "--memory", cwd=tmp_path, settings=settings) as program:
        url = program.url()
        program.process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{url}/health/ready").status_code == 503)
        assert httpx.get(f"{url}/health").status_code == 200
        assert program.stop(seconds=5) == 1


def test_an_unfinished_upload_does_not_delay_stopping(tmp_path: Path) -> None:
    with running("run", "--memory", "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        host, port = program.url().removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            wait_until(lambda: httpx.get(f"http://{host}:{port}/health").status_code == 200)
            started = time.monotonic()
            program.process.send_signal(signal.SIGTERM)
            answer = client.recv(4096)
            assert answer.startswith(b"HTTP/1.1 408")
            assert program.process.wait(10) == 0
            assert time.monotonic() - started < 5
        assert "Traceback" not in program.output


# serve and consume


def test_serve_with_two_workers_and_consume_share_the_work(tmp_path: Path) -> None:
    settings = shared(tmp_path)
    assert eventmill("migrate", cwd=tmp_path, settings=settings).returncode == 0
    with (
        running("serve", "--workers", "2", cwd=tmp_path, settings=settings) as api,
        running("consume", cwd=tmp_path, settings=settings) as one,
        running("consume", cwd=tmp_path, settings=settings) as two,
    ):
        url = api.url()
        sent = eventmill("send", str(real_events.FILE), "--url", url, cwd=tmp_path)
        assert sent.returncode == 0, sent.stderr + api.output
        wait_until(lambda: wrong_answers(url) == [], 60)
        for program in (api, one, two):
            assert program.stop() == 0, program.output
            assert "Traceback" not in program.output


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    import os

    with running("serve", "--workers", "2", cwd=tmp_path, settings=shared(tmp_path)) as api:
        url = api.url()
        children = Path(f"/proc/{api.process.pid}/task/{api.process.pid}/children")
        workers = [
            int(pid)
            for pid in children.read_text().split()
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        api.wait_for(f"worker {workers[0]} died")
        event = {"event_name": "a", "channel": "b", "user_id": "c", "timestamp": 1_700_000_000}
        assert httpx.post(f"{url}/events", json=event).status_code == 202
        assert api.stop() == 0


def test_serve_keeps_serving_a_while_after_sigterm(tmp_path: Path) -> None:
    settings = shared(tmp_path) | {"EVENTMILL_SHUTDOWN_DELAY_SECONDS": "2", "EVENTMILL_STORE": "none"}
    with running("serve", cwd=tmp_path, settings=settings) as api:
        url = api.url()
        assert httpx.get(f"{url}/metrics?event_name=a&from=1&to=2").status_code == 503
        api.process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{url}/health/ready").status_code == 503)
        event = {"event_name": "a", "channel": "b", "user_id": "c", "timestamp": 1_700_000_000}
        assert httpx.post(f"{url}/events", json=event).status_code == 202
        assert api.process.wait(10) == 0


@pytest.mark.parametrize(
    ("command", "settings", "words"),
    [
        (["serve"], {"EVENTMILL_QUEUE": "memory", "EVENTMILL_STORE": "memory"}, ["'memory'", "eventmill run"]),
        (["serve", "--workers", "2"], {"EVENTMILL_QUEUE": "memory", "EVENTMILL_STORE": "none"}, ["eventmill run"]),
        (["consume"], {"EVENTMILL_QUEUE": "memory", "EVENTMILL_STORE": "memory"}, ["'memory'", "eventmill run"]),
        (["serve"], {}, ["EVENTMILL_QUEUE is required: one of memory"]),
        (["serve"], {"EVENTMILL_QUEUE": "memory"}, ["EVENTMILL_STORE is required: one of clickhouse, memory"]),
        (["consume"], {"EVENTMILL_QUEUE": "memory", "EVENTMILL_STORE": "none"}, ["only with `eventmill serve`"]),
        (["run"], {"EVENTMILL_QUEUE": "kafka"}, ["there is no queue 'kafka'", "Available: memory"]),
        (["run"], {"EVENTMILL_LISTEN": "8080"}, ["EVENTMILL_LISTEN", "HOST:PORT"]),
        (["run"], {"EVENTMILL_BATCH_EVENTS": "many"}, ["EVENTMILL_BATCH_EVENTS"]),
        (["run"], {"EVENTMILL_QUEUE_SQLITE_LEASE_SECONDS": "0"}, ["EVENTMILL_QUEUE_SQLITE_LEASE_SECONDS"]),
        (["run", "--listen", "256.0.0.1:80"], {}, ["cannot listen on 256.0.0.1:80"]),
        (["send", "nowhere.ndjson"], {}, ["nowhere.ndjson"]),
        (["send", "-", "--url", "ftp://x"], {}, ["ftp://x"]),
        (["send", "-", "--url", "http://[::1"], {}, ["http://HOST:PORT"]),
        (["send", "-", "--url", "http://127.0.0.1:99999"], {}, ["http://HOST:PORT"]),
        (["send", "-", "--url", f"http://{'a' * 100}.x"], {}, ["http://HOST:PORT"]),
        (["check"], {}, ["EVENTMILL_QUEUE is required"]),
        (["migrate"], {}, ["EVENTMILL_QUEUE is required"]),
    ],
)
def test_wrong_configuration_ends_with_exit_code_2_and_one_clear_line(
    tmp_path: Path, command: list[str], settings: dict[str, str], words: list[str]
) -> None:
    done = eventmill(*command, cwd=tmp_path, stdin=b"{}\n", settings=settings)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert all(word in line for word in words), line


@pytest.mark.parametrize("command", [["nonsense"], ["run", "--nonsense"], ["send"], ["serve", "--workers", "0"]])
def test_wrong_usage_ends_with_exit_code_2(tmp_path: Path, command: list[str]) -> None:
    done = eventmill(*command, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_reported(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = eventmill("run", "--listen", address, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"cannot listen on {address}" in done.stderr


def test_a_misspelt_variable_is_reported(tmp_path: Path) -> None:
    settings = {"EVENTMILL_QUEUE": "memory", "EVENTMILL_STORE": "memory", "EVENTMILL_LISTN": "x"}
    done = eventmill("check", cwd=tmp_path, settings=settings)
    assert done.returncode == 0
    assert "EVENTMILL_LISTN is not a setting; did you mean EVENTMILL_LISTEN?" in done.stderr


# the others


def test_check_shows_what_should_be_known(tmp_path: Path) -> None:
    done = eventmill("check", cwd=tmp_path, settings={"EVENTMILL_QUEUE": "memory", "EVENTMILL_STORE": "memory"})
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "process\tok\t\t",
        "queue\twarning\tmessages in the memory queue are lost on exit\t",
        "store\twarning\tevents in the memory store are lost on exit\t",
    ]


def test_check_fails_for_a_store_that_cannot_be_used(tmp_path: Path) -> None:
    settings = shared(tmp_path) | {"EVENTMILL_STORE_JSONL_PATH": str(tmp_path / "nowhere" / "events.jsonl")}
    done = eventmill("check", cwd=tmp_path, settings=settings)
    assert done.returncode == 1
    assert "FAILED\tStoreUnavailable" in done.stdout


def test_migrate_may_run_again(tmp_path: Path) -> None:
    for _ in range(2):
        done = eventmill("migrate", cwd=tmp_path, settings=shared(tmp_path))
        assert done.returncode == 0
        assert done.stdout.splitlines() == ["queue\tsqlite\tup to date", "store\tjsonl\tup to date"]


def test_plugins_are_listed_as_text_and_as_json(tmp_path: Path) -> None:
    assert "queue\tmemory\tqueue_memory\teventmill\t" in eventmill("plugins", cwd=tmp_path).stdout
    rows = json.loads(eventmill("plugins", "--json", cwd=tmp_path).stdout)
    assert {(row["kind"], row["name"], row["status"]) for row in rows} >= {
        ("queue", "memory", "ok"),
        ("store", "memory", "ok"),
    }


def test_a_broken_plugin_is_listed_with_its_cause(tmp_path: Path) -> None:
    metadata = tmp_path / "acme-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[eventmill]\nacme = acme_missing\n")
    rows = json.loads(eventmill("plugins", "--json", cwd=tmp_path, settings={"PYTHONPATH": str(tmp_path)}).stdout)
    [broken] = [row for row in rows if row["distribution"] == "acme"]
    assert broken["status"] == "broken: ModuleNotFoundError: No module named 'acme_missing'"


# send


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> object:
    with running("run", "--memory", "--listen", "127.0.0.1:0", cwd=tmp_path_factory.mktemp("run")) as program:
        yield program.url()


def line(number: int) -> bytes:
    event = {"event_name": "sent", "channel": "web", "user_id": f"user {number}", "timestamp": 1_700_000_000}
    return json.dumps(event).encode()


@pytest.mark.parametrize("form", ["plain", "gzip", "zstd", "stdin", "gzip on stdin"])
def test_send_reads_plain_and_compressed_lines(tmp_path: Path, url: str, form: str) -> None:
    lines = b"\n".join(line(number) for number in range(5000))
    content = gzip.compress(lines) if "gzip" in form else zstd.compress(lines) if form == "zstd" else lines
    file = tmp_path / "events"
    file.write_bytes(content)
    source = "-" if "stdin" in form else str(file)
    done = eventmill("send", source, "--url", url, cwd=tmp_path, stdin=content if "stdin" in form else None)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("accepted 5000 of 5000 events")


def test_send_names_the_lines_that_were_rejected(tmp_path: Path, url: str) -> None:
    lines = [line(1), b"", b"nope", line(2), b"{}", b'{"x":"' + b"y" * 200_000 + b'"}', line(3)]
    done = eventmill("send", "-", "--url", url, cwd=tmp_path, stdin=b"\n".join(lines))
    assert done.returncode == 1
    assert done.stdout.startswith("accepted 3 of 6 events")
    assert done.stdout.rstrip().endswith("rejected 3")
    refused = sorted(done.stderr.splitlines())
    assert [text.split(":")[0] for text in refused] == ["line 3", "line 5", "line 6"]
    assert "event_name is required" in refused[1]
    assert "32768" in refused[2]


def test_send_of_nothing_but_bad_lines_fails(tmp_path: Path, url: str) -> None:
    done = eventmill("send", "-", "--url", url, cwd=tmp_path, stdin=b"nope\n{}\n")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 2)
    assert done.stdout.startswith("accepted 0 of 2 events")


def test_send_of_a_damaged_file_fails_with_a_message(tmp_path: Path, url: str) -> None:
    file = tmp_path / "events.gz"
    file.write_bytes(gzip.compress(b"\n".join(line(number) for number in range(5000)))[:-2000])
    done = eventmill("send", str(file), "--url", url, cwd=tmp_path)
    assert done.returncode == 1
    assert "gave up" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_send_that_is_interrupted_says_how_far_it_came(tmp_path: Path, url: str, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "eventmill", "send", "-", "--url", url],
        env=environment({}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(b"\n".join([line(number) for number in range(20_500)]))
    process.stdin.flush()
    wait_until(lambda: ask(url, "sent", span=(1_700_000_000, 1_700_000_000))["total_count"] >= 20_000)  # type: ignore[operator]
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    accepted = re.match(rb"accepted (\d+) of ", out)
    assert accepted is not None
    # What is on the server may not have been answered yet: a few requests are under way at once.
    assert 10_000 <= int(accepted[1]) <= 20_000
    assert err == b"eventmill: interrupted\n"


def test_send_gives_up_on_a_service_that_is_not_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
    done = eventmill("send", "-", "--url", nobody, "--patience", "1", cwd=tmp_path, stdin=line(1))
    assert done.returncode == 1
    assert nobody in done.stderr
    assert done.stdout.startswith("accepted 0 of 1 events")


def test_send_waits_for_a_service_that_comes_back(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    import threading

    results = []
    arguments = ("send", "-", "--url", f"http://{address}", "--patience", "30")
    sender = threading.Thread(target=lambda: results.append(eventmill(*arguments, cwd=tmp_path, stdin=line(1))))
    sender.start()
    with running("run", "--memory", "--listen", address, cwd=tmp_path):
        sender.join(40)
    [done] = results
    assert (done.returncode, done.stderr) == (0, "")


def test_send_shows_when_something_else_answers(tmp_path: Path, url: str) -> None:
    done = eventmill("send", "-", "--url", f"{url}/nowhere", cwd=tmp_path, stdin=line(1))
    assert done.returncode == 1
    assert "404" in done.stderr
