"""Text from outside reaches neither a terminal nor a log unescaped, and breaks no command."""

import asyncio
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

import eventmill_queue_sqlite
from eventmill.event import encode_line
from eventmill.frames import DeadRecord, encode_dead, encode_frame
from eventmill.testing import make_event
from eventmill.text import escape
from eventmill_queue_sqlite.settings import SqliteQueueSettings
from support.mill import environment, eventmill, running, wait_until

NAMES = ("[/x]", "[bold]", "\x1b[2J", "a\nb", "\u202eabc", "%s{0}")


@pytest.fixture
def queue(tmp_path: Path) -> dict[str, str]:
    """Settings of a queue whose dead letters have hostile contents and times."""
    path = tmp_path / "queue.db"

    async def fill() -> None:
        async with eventmill_queue_sqlite.backend.open(SqliteQueueSettings(path=path)) as queue:
            for name in NAMES:
                frame = encode_frame([encode_line(make_event(event_name=name))])
                for died_at_ms in (0, 1_766_717_657_000, 2**53, 2**62):
                    record = DeadRecord(body=frame, reason="rejected", message=name, code=name, died_at_ms=died_at_ms)
                    await queue.dead.publish([encode_dead(record)], time.monotonic() + 10)

    asyncio.run(fill())
    return {"EVENTMILL_QUEUE": "sqlite", "EVENTMILL_QUEUE_SQLITE_PATH": str(path), "EVENTMILL_STORE": "memory"}


def on_a_terminal(*arguments: str, cwd: Path, settings: dict[str, str]) -> tuple[int, str]:
    """Run a command on a terminal; return its exit code and what it shows."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "eventmill", *arguments]
    with subprocess.Popen(command, cwd=cwd, env=environment(settings), stdout=slave, stderr=slave) as process:
        os.close(slave)
        shown = b""
        try:
            while part := os.read(master, 65536):
                shown += part
        except OSError:  # the end of a terminal
            pass
        os.close(master)
        return process.wait(), shown.decode()


def test_dead_letters_are_listed_without_control_characters(tmp_path: Path, queue: dict[str, str]) -> None:
    code, shown = on_a_terminal("dead", "list", cwd=tmp_path, settings=queue)
    assert code == 0, shown
    assert "\x1b[2J" not in shown
    assert "\u202e" not in shown
    assert "[/x]" in shown
    piped = eventmill("dead", "list", cwd=tmp_path, settings=queue)
    assert piped.returncode == 0, piped.stderr
    assert len(piped.stdout.splitlines()) == 4 * len(NAMES)
    assert "\x1b" not in piped.stdout
    assert "9999-12-31T23:59:59Z" in piped.stdout


def test_a_dead_letter_is_shown_as_json(tmp_path: Path, queue: dict[str, str]) -> None:
    listed = eventmill("dead", "list", cwd=tmp_path, settings=queue).stdout.splitlines()
    for line in listed[::5]:
        done = eventmill("dead", "show", line.split("\t")[0], cwd=tmp_path, settings=queue)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout


def test_a_message_in_the_queue_cannot_write_lines_into_the_log(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    settings = {"EVENTMILL_QUEUE": "sqlite", "EVENTMILL_QUEUE_SQLITE_PATH": str(path), "EVENTMILL_STORE": "memory"}

    async def publish() -> None:
        async with eventmill_queue_sqlite.backend.open(SqliteQueueSettings(path=path)) as queue:
            bodies = [b"\x1b[2J\n2026-01-01 ERROR forged: x", b"EM\x01\x1b[2J\nERROR forged"]
            await queue.publish(bodies, time.monotonic() + 10)

    async def is_dead() -> bool:
        async with eventmill_queue_sqlite.backend.open(SqliteQueueSettings(path=path)) as queue:
            return (await queue.dead.depth()).ready == 2

    asyncio.run(publish())
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=settings) as program:
        wait_until(lambda: asyncio.run(is_dead()))
        assert program.stop() == 0
    assert "\x1b" not in program.output
    assert not [line for line in program.output.splitlines() if line.startswith(("2026-01-01 ERROR forged", "ERROR"))]


@pytest.mark.parametrize("text", ["plain", "", "größe", "[/x]", "a b"])
def test_printable_text_is_unchanged(text: str) -> None:
    assert escape(text) == text


@pytest.mark.parametrize(
    ("text", "escaped"), [("\x1b[2J", "\\x1b[2J"), ("a\nb", "a\\nb"), ("\u202e", "\\u202e"), ("\ud800", "\\ud800")]
)
def test_control_characters_are_escaped(text: str, escaped: str) -> None:
    assert escape(text) == escaped
