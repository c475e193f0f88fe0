"""eventmill copy: backups of a running deployment, restored elsewhere, give the same answers."""

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from support import real_events
from support.mill import Program, environment, eventmill, running, wait_until

LINE = {
    "project": "shop",
    "event_name": "order",
    "timestamp_ms": 1_700_000_000_123,
    "event_id": "\u202e'",
    "channel": "web",
    "user_id": "ada",
    "received_at_ms": 1_700_000_000_999,
    "version": 2**62,
    "metadata": {"nested": {"a": [1, None, "\\u0000"]}},
}
BOUNDS = f"from={real_events.EXPECTED['from']}&to={real_events.EXPECTED['to']}"


def fill(program: Program) -> None:
    """Send the real events, and wait until they are stored."""
    url = program.url()
    body = b"\n".join(real_events.lines())
    answer = httpx.post(
        f"{url}/events/bulk", content=body, headers={"Content-Type": "application/x-ndjson"}, timeout=30
    )
    assert answer.status_code == 202
    count = real_events.EXPECTED["distinct_events"]
    wait_until(lambda: httpx.get(f"{url}/metrics?{BOUNDS}").json()["total_count"] == count, 30)


def answers(program: Program) -> list[Any]:
    """Return the answers to many questions, and all events."""
    url = program.url()
    paths = [
        f"/metrics?{BOUNDS}&group_by=channel&group_by=day",
        f"/metrics?{BOUNDS}&group_by=tag&measure=p95:metadata.bytes",
        f"/event-names?{BOUNDS}",
        f"/events?{BOUNDS}&limit=1000",
    ]
    return [httpx.get(f"{url}{path}", timeout=30).json() for path in paths]


@pytest.mark.parametrize("suffix", ["ndjson.zst", "parquet"])
def test_a_backup_of_a_running_deployment_restores_the_same_answers(tmp_path: Path, suffix: str) -> None:
    backup = tmp_path / f"backup.{suffix}"
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        fill(program)
        expected = answers(program)
        done = eventmill("copy", "eventmill-data", str(backup), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert sum(int(line.split("\t")[2]) for line in done.stdout.splitlines()) == 9980
        assert program.stop() == 0
    for _ in range(2 if suffix == "ndjson.zst" else 1):  # restoring again changes nothing
        done = eventmill("copy", str(backup), "elsewhere", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    with running("run", "--data", "elsewhere", "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        assert answers(program) == expected
        assert program.stop() == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".eventmill")) == []


def test_a_copy_that_was_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        fill(program)
        for suffix in ("ndjson.zst", "parquet"):
            target = f"backup.{suffix}"
            command = [sys.executable, "-m", "eventmill", "copy", "eventmill-data", target]
            copying = subprocess.Popen(command, cwd=tmp_path, env=environment({}), stderr=subprocess.PIPE, text=True)
            wait_until(partial(_is_under_way, tmp_path, copying))
            copying.send_signal(signal.SIGKILL)
            copying.communicate()
            done = eventmill("copy", "eventmill-data", target, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            assert "going on after" in done.stderr or not done.stderr
            lines = eventmill("copy", target, f"{suffix}.ndjson", cwd=tmp_path)
            assert lines.returncode == 0, lines.stderr
            events = [json.loads(line) for line in (tmp_path / f"{suffix}.ndjson").read_text().splitlines()]
            assert len(events) == len({event["event_id"] for event in events}) == 9980
        assert program.stop() == 0


def _is_under_way(folder: Path, copying: subprocess.Popen[str]) -> bool:
    return bool(list(folder.glob(".eventmill-copy-*.json"))) or copying.poll() is not None


def test_events_of_all_projects_keep_their_versions(tmp_path: Path) -> None:
    settings = {"EVENTMILL_QUEUE": "memory", "EVENTMILL_STORE": "clickhouse"}
    settings |= {"EVENTMILL_STORE_CLICKHOUSE_URL": f"chdb://{tmp_path}/a/chdb"}
    line = LINE
    other = line | {"project": "default", "event_id": "2"}
    text = "".join(json.dumps(each) + "\n" for each in (line, other))
    (tmp_path / "in.ndjson.gz").write_bytes(gzip.compress(text.encode()))
    steps = [("in.ndjson.gz", "a"), ("a", "out.parquet"), ("out.parquet", "store"), ("store", "out.ndjson")]
    for source, target in steps:
        used = settings if "store" in (source, target) else {}
        done = eventmill(
            "copy", source, target, cwd=tmp_path, settings=used | {"EVENTMILL_QUEUE": "memory"} if used else {}
        )
        assert done.returncode == 0, (source, target, done.stderr)
        assert done.stdout == "default\torder\t1\t1\nshop\torder\t1\t1\n"
    found = [json.loads(each) for each in (tmp_path / "out.ndjson").read_text().splitlines()]
    assert [{name: each[name] for name in line} for each in found] == [other, line]


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("nowhere", "b.ndjson", "does not exist"),
        ("a.ndjson", "nowhere/b.ndjson", "cannot write"),
        ("a.ndjson", "b.jsonl", "neither a data folder nor a file"),
        ("incomplete.ndjson", "b", "lacks a field"),
        ("a.ndjson", "http://127.0.0.1:1", "eventmill send"),
        ("a.ndjson", "there.ndjson", "there.ndjson exists"),
        ("a.ndjson", "b", "line 2: not an event of a copy"),
        ("torn.gz", "b", "torn.gz, after line"),
        ("not.parquet", "b", "not a file of a copy"),
    ],
)
def test_a_copy_that_cannot_work_says_why(tmp_path: Path, source: str, target: str, words: str) -> None:
    (tmp_path / "a.ndjson").write_text('\n{"event_name": "a"}\n')
    (tmp_path / "there.ndjson").touch()
    (tmp_path / "incomplete.ndjson").write_text(json.dumps(LINE | {"user_id": ""}) + "\n")
    (tmp_path / "torn.gz").write_bytes(gzip.compress(os.urandom(1000).hex().encode())[:500])
    (tmp_path / "not.parquet").write_bytes(b"hello")
    done = eventmill("copy", source, target, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "b.jsonl").exists()


def test_repeated_events_and_many_names_are_copied_once_each(tmp_path: Path) -> None:
    lines = [json.dumps(LINE | {"event_name": f"name {n}", "event_id": f"{n}"}) + "\n" for n in range(1200)]
    (tmp_path / "in.ndjson").write_text("".join(lines + lines[:50]))
    done = eventmill("copy", "in.ndjson", "data", cwd=tmp_path)
    assert (done.returncode, "several times" in done.stderr) == (0, True), done.stderr


def test_a_copy_whose_partial_file_is_gone_starts_again(tmp_path: Path) -> None:
    (tmp_path / "in.ndjson").write_text(json.dumps(LINE) + "\n")
    name = hashlib.blake2b(f"in.ndjson\0{tmp_path}/out.ndjson.gz".encode(), digest_size=6).hexdigest()
    progress = {"place": 1, "size": 1000, "copied": [["shop", "order", 1]]}
    (tmp_path / f".eventmill-copy-{name}.json").write_text(json.dumps(progress))
    done = eventmill("copy", "in.ndjson", "out.ndjson.gz", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "shop\torder\t1\t1\n"), done.stderr


def test_a_progress_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "in.ndjson").write_text(json.dumps(LINE) + "\n")
    name = hashlib.blake2b(f"in.ndjson\0{tmp_path}/out.ndjson".encode(), digest_size=6).hexdigest()
    (tmp_path / f".eventmill-copy-{name}.json").write_text("{}")
    done = eventmill("copy", "in.ndjson", "out.ndjson", cwd=tmp_path)
    assert (done.returncode, "remove it to start again" in done.stderr) == (1, True), done.stderr


def test_a_data_folder_in_use_is_no_target(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").touch()
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        program.url()
        done = eventmill("copy", "a.ndjson", "eventmill-data", cwd=tmp_path)
        assert (done.returncode, "stop it" in done.stderr) == (2, True)
        assert program.stop() == 0
    shutil.rmtree(tmp_path / "eventmill-data")


def write_events(file: Path, count: int, prefix: str) -> None:
    file.write_text("".join(json.dumps(LINE | {"event_id": f"{prefix}{n}"}) + "\n" for n in range(count)))


def start_copy(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a copy, and wait until it has saved its progress."""
    before = set(folder.glob(".eventmill-copy-*.json"))
    command = [sys.executable, "-m", "eventmill", "copy", *arguments]
    copying = subprocess.Popen(command, cwd=folder, env=environment({}), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: set(folder.glob(".eventmill-copy-*.json")) > before or copying.poll() is not None)
    return copying


def test_unfinished_copies_of_two_sources_to_one_file_do_not_mix(tmp_path: Path) -> None:
    for name in "ab":
        write_events(tmp_path / f"{name}.ndjson", 60_000, name)
        copying = start_copy(tmp_path, f"{name}.ndjson", "target.ndjson")
        copying.kill()
        copying.communicate()
    done = eventmill("copy", "a.ndjson", "target.ndjson", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "shop\torder\t60000\t60000\n"), done.stderr
    ids = [json.loads(line)["event_id"] for line in (tmp_path / "target.ndjson").read_text().splitlines()]
    assert ids == [f"a{n}" for n in range(60_000)]


def test_an_interrupted_copy_of_files_stops_and_goes_on(tmp_path: Path) -> None:
    write_events(tmp_path / "in.ndjson", 60_000, "")
    copying = start_copy(tmp_path, "in.ndjson", "out.ndjson")
    copying.send_signal(signal.SIGINT)
    _, errors = copying.communicate(timeout=20)
    assert (copying.returncode, "run the same command to go on" in errors) == (130, True), errors
    assert not (tmp_path / "out.ndjson").exists()
    done = eventmill("copy", "in.ndjson", "out.ndjson", cwd=tmp_path)
    assert (done.returncode, "going on after" in done.stderr) == (0, True), done.stderr
    assert len((tmp_path / "out.ndjson").read_text().splitlines()) == 60_000


def test_a_project_without_events_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    lines = [json.dumps(LINE | {"project": name}) for name in ("shop", "blog")]
    (tmp_path / "in.ndjson").write_text("\n".join(lines))
    for target in ("out.ndjson", "out.parquet"):
        done = eventmill("copy", "in.ndjson", target, "--project", "shpo", cwd=tmp_path)
        assert (done.returncode, "no events of the project shpo" in done.stderr) == (1, True), done.stderr
        assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["in.ndjson"]
    done = eventmill("copy", "in.ndjson", "out.ndjson", "--project", "blog", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "blog\torder\t1\t1\n"), done.stderr
