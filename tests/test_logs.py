"""The log: JSON without a terminal, one line for what repeats, ids that clients get back, and no payloads."""

import json
import logging
from pathlib import Path

import httpx

from eventmill.runtime.repeats import Repeats
from support.mill import running, wait_until

EVENT = {"event_name": "a", "channel": "b", "user_id": "secret-user", "timestamp": 1_700_000_000}


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def logger_with(handler: logging.Handler) -> logging.Logger:
    logger = logging.Logger("test", logging.DEBUG)
    logger.addHandler(handler)
    return logger


def test_a_message_that_repeats_is_written_once_with_its_count() -> None:
    kept = Kept()
    repeats = Repeats(kept, window_seconds=0.2)
    logger = logger_with(repeats)
    for number in range(1000):
        logger.warning("the queue is unavailable: attempt %d", number)
    logger.warning("another trouble")
    assert kept.lines == ["the queue is unavailable: attempt 0", "another trouble"]
    wait_until(lambda: len(kept.lines) == 3)
    assert kept.lines[2] == "the queue is unavailable: attempt 0 (repeated 999 times within 0.2 s)"
    logger.warning("the queue is unavailable: attempt %d", 1000)
    assert kept.lines[3:] == ["the queue is unavailable: attempt 1000"]
    repeats.close()


def test_messages_that_clients_vary_do_not_flood_the_log() -> None:
    kept = Kept()
    repeats = Repeats(kept, window_seconds=60)
    logger = logger_with(repeats)
    for number in range(500):
        logger.warning("POST /%s", "x" * number)
    repeats.close()
    assert 20 <= len(kept.lines) <= 23
    assert "repeated 479 times" in kept.lines[-1]


def test_debug_records_are_not_limited_and_closing_writes_the_counts() -> None:
    kept = Kept()
    repeats = Repeats(kept, window_seconds=60)
    logger = logger_with(repeats)
    for _ in range(3):
        logger.debug("stored a batch")
        logger.info("again")
        logger.info("refused: 3", extra={"count": 3})
    assert kept.lines.count("refused: 3") == 3
    assert kept.lines.count("stored a batch") == 3
    assert kept.lines.count("again") == 1
    repeats.close()
    assert kept.lines[-1] == "again (repeated 2 times within 60 s)"


def test_each_record_is_a_json_object_with_the_id_of_the_request(tmp_path: Path) -> None:
    settings = {
        "EVENTMILL_QUEUE": "redis",
        "EVENTMILL_QUEUE_REDIS_URL": "redis://127.0.0.1:1/0",
        "EVENTMILL_STORE": "none",
        "EVENTMILL_LOG_LEVEL": "debug",
        "EVENTMILL_SHUTDOWN_DELAY_SECONDS": "0",
    }
    with running("serve", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=settings) as program:
        url = program.url()
        own = httpx.post(f"{url}/events", json=EVENT, headers={"X-Request-ID": "client-7"})
        assert own.status_code == 503
        assert own.json()["request_id"] == own.headers["X-Request-ID"] == "client-7"
        forged = 'x"\x1b[31m'
        refused = httpx.post(f"{url}/events", json=EVENT | {"user_id": forged}, headers={"X-Request-ID": "not an id"})
        missing = httpx.get(f"{url}/nothing")
        program.wait_for(missing.json()["request_id"])
        program.stop()
    records = [json.loads(line) for line in program.output.splitlines()]
    assert all({"time", "level", "logger", "message"} <= record.keys() for record in records)
    by_id = {record["request_id"]: record for record in records if "request_id" in record}
    assert by_id["client-7"]["status"] == 503
    assert refused.json()["request_id"] in by_id
    assert by_id[missing.json()["request_id"]]["status"] == 404
    assert "not an id" not in by_id
    assert "secret-user" not in program.output
    assert "\x1b" not in program.output


def test_every_kind_of_error_has_a_request_id(tmp_path: Path) -> None:
    settings = {"EVENTMILL_ANONYMOUS": "false"}
    with running("run", "--memory", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=settings) as program:
        url = program.url()
        answers = [
            httpx.get(f"{url}/nothing"),
            httpx.put(f"{url}/events"),
            httpx.get(f"{url}/metrics?from=soon"),
            httpx.post(f"{url}/events", content=b"{"),
            httpx.post(f"{url}/events/bulk", json=[{}]),
            httpx.post(f"{url}/events", headers={"Host": "evil.example"}, json=EVENT),
            httpx.get(f"{url}/{'x' * 9000}"),
            httpx.get(f"{url}/metrics?{'x' * 5000}"),
        ]
    assert [answer.status_code for answer in answers] == [404, 405, 400, 400, 400, 403, 414, 414]
    ids = {answer.json()["request_id"] for answer in answers}
    assert len(ids) == len(answers)


def test_a_batch_is_one_debug_record_with_its_size(tmp_path: Path) -> None:
    settings = {"EVENTMILL_LOG_LEVEL": "debug"}
    with running("run", "--memory", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=settings) as program:
        url = program.url()
        httpx.post(f"{url}/events/bulk", json=[EVENT, EVENT | {"user_id": "other"}])
        line = program.wait_for(r'\{.*"stored a batch".*\}')[0]
    batch = json.loads(line)
    assert (batch["level"], batch["events"]) == ("debug", 2)
    assert batch["seconds"] >= 0
    assert "secret-user" not in program.output
