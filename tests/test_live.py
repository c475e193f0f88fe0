"""GET /events/live on a running server, and the commands that print events."""

import json
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.mill import Program, eventmill, running, wait_until


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    with running("run", "--memory", "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        program.url()
        yield program
        assert program.stop() == 0


class Listener:
    """A client that collects what it is sent, until it is closed."""

    def __init__(self, url: str, query: str = "") -> None:
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.beats = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, args=(f"{url}/events/live{query}",), daemon=True)
        self._thread.start()
        wait_until(lambda: self.beats >= 2)  # the first poll knows what was there before

    def _listen(self, url: str) -> None:
        with httpx.stream("GET", url, timeout=10) as response:
            assert response.headers["Content-Type"].startswith("text/event-stream")
            for line in response.iter_lines():
                if line.startswith("data: "):
                    self.events.put(json.loads(line.removeprefix("data: ")))
                self.beats += line.startswith(":")
                if self._stop.is_set():
                    return

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)


def send(url: str, **fields: Any) -> None:
    event = {"event_name": "page_view", "channel": "web", "user_id": "ada"} | fields
    assert httpx.post(f"{url}/events?wait=stored", json=event | {"timestamp": _now()}).status_code == 200


def _now() -> float:
    import time

    return time.time()


def test_listeners_hear_of_events_once_and_only_of_those_that_they_ask_for(program: Program) -> None:
    url = program.url()
    send(url, user_id="before")
    everything, sales = Listener(url), Listener(url, "?event_name=sale&channel!=bot")
    send(url, event_name="sale")
    send(url, event_name="sale", channel="bot")
    send(url, user_id="\u202e<script>")
    heard = [everything.events.get(timeout=10) for _ in range(3)]
    assert [(event["event_name"], event["channel"]) for event in heard] == [
        ("sale", "web"),
        ("sale", "bot"),
        ("page_view", "web"),
    ]
    assert heard[2]["user_id"] == "\u202e<script>"
    assert sales.events.get(timeout=10)["channel"] == "web"
    wait_until(lambda: everything.beats > 3)
    assert everything.events.empty()
    assert sales.events.empty()
    everything.close()
    sales.close()


def test_a_shutdown_ends_the_streams_of_listeners(tmp_path: Path) -> None:
    with running("run", "--memory", "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        listener = Listener(program.url())
        assert program.stop() == 0
        listener.close()


def test_the_commands_of_questions_print_tables_json_and_csv(tmp_path: Path) -> None:
    data = tmp_path / "eventmill-data"
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        url = program.url()
        for user in ("ada", "bob"):
            for name in ("view", "buy")[: 1 + (user == "ada")]:
                send(url, event_name=name, user_id=user, metadata={"price": 10})

        def run(*arguments: str) -> str:
            done = eventmill(*arguments, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            return done.stdout

        _check_answers(run)  # through the socket of the folder
        assert run("query", "--group-by", "event_name", "--url", url) == "view\t2\t2\nbuy\t1\t1\nall\t3\t2\n"
        assert program.stop() == 0
    assert run("query", "--group-by", "event_name") == "view\t2\t2\nbuy\t1\t1\nall\t3\t2\n"  # without a server
    assert run("sql", "SELECT count(), 'a' FROM events FINAL WHERE project = 'default'") == "3\ta\n"
    assert len(run("events", "--csv").splitlines()) == 4
    assert data.exists()
    assert eventmill("erase", "ada", cwd=tmp_path).returncode == 2
    assert run("erase", "ada", "--yes").startswith("erased 2 stored events")
    assert run("events", "--user", "ada", "--json") == ""
    assert eventmill("query", "--where", "colour=red", cwd=tmp_path).returncode == 2


def _check_answers(run: Any) -> None:
    assert run("query", "--group-by", "event_name") == "view\t2\t2\nbuy\t1\t1\nall\t3\t2\n"
    assert run("sql", "SELECT count(), 'a' FROM events FINAL WHERE project = 'default'") == "3\ta\n"
    assert run("query", "buy", "--where", "metadata.price>=10") == "all\t1\t1\n"
    assert run("query", "--group-by", "user_id", "--limit", "1", "--csv").splitlines() == [
        "user_id,events,users",
        "ada,2,1",
        "other,1,1",
        "all,3,2",
    ]
    assert json.loads(run("query", "--measure", "sum:metadata.price", "--json"))["value"] == 30
    assert [line.split("\t")[:3] for line in run("names").splitlines()] == [["view", "2", "2"], ["buy", "1", "1"]]
    assert "property\tmetadata.price\t3\tnumber\t10 (3)" in run("properties")
    assert len(run("events", "--limit", "2").splitlines()) == 2
    assert [json.loads(line)["event_name"] for line in run("events", "view", "--json").splitlines()] == ["view", "view"]
    assert len(run("events", "--csv").splitlines()) == 4
    assert run("funnel", "view", "buy&metadata.price>5").startswith("all\tview\t2\t100.0%\t100.0%\t\nall\tbuy")
    assert run("retention", "--start", "view", "--from", "-1d").splitlines()[-1].split("\t")[1:3] == ["2", "1 50.0%*"]
