"""The deployed halves: `serve` and `consume` as processes of their own, over every queue that can be shared."""

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import pytest
from redis import Redis

from support import real_events, services
from support.mill import eventmill, running, wait_until

LEASE_SECONDS = 5


@dataclass
class Deployment:
    """Settings of a queue of one kind and ClickHouse over HTTP; for each trouble how to make it and how to mend it."""

    settings: dict[str, str]
    troubles: Mapping[str, tuple[Callable[[], object], Callable[[], object]]]


def sqlite(folder: Path, stack: ExitStack) -> Deployment:
    path = folder / "queue.db"
    other = stack.enter_context(closing(sqlite3.connect(path, isolation_level=None, timeout=10)))
    locked = (lambda: other.execute("BEGIN IMMEDIATE"), lambda: other.execute("ROLLBACK"))
    return Deployment({"EVENTMILL_QUEUE_SQLITE_PATH": str(path)}, {"QueueUnavailable": locked})


def redis(folder: Path, stack: ExitStack) -> Deployment:
    server = stack.enter_context(services.running_redis(folder / "redis"))

    def allow(what: str) -> None:
        with Redis.from_url(server.url) as client:
            client.execute_command("ACL", "SETUSER", "default", what)

    denied = (lambda: allow("-@stream"), lambda: allow("+@stream"))
    troubles = {"QueueUnavailable": (server.kill, server.start), "QueueMisconfigured": denied}
    return Deployment({"EVENTMILL_QUEUE_REDIS_URL": server.url}, troubles)


def sqs(folder: Path, stack: ExitStack) -> Deployment:
    server = stack.enter_context(services.running_sqs())
    settings = services.AWS | {"EVENTMILL_QUEUE_SQS_URL": f"{server.endpoint}/000000000000/events"}
    kinds = {"QueueUnavailable": "cut", "QueueMisconfigured": "deny"}
    mend = partial(server.fail, "", 0)
    return Deployment(settings, {trouble: (partial(server.fail, kind, -1), mend) for trouble, kind in kinds.items()})


@pytest.fixture(params=[sqlite, redis, sqs], ids=lambda kind: kind.__name__)
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    name = request.param.__name__
    with ExitStack() as stack:
        clickhouse = stack.enter_context(services.running_clickhouse(tmp_path / "clickhouse"))
        deployment = request.param(tmp_path, stack)
        deployment.settings |= {
            "EVENTMILL_QUEUE": name,
            f"EVENTMILL_QUEUE_{name.upper()}_LEASE_SECONDS": str(LEASE_SECONDS),
            "EVENTMILL_STORE": "clickhouse",
            "EVENTMILL_STORE_CLICKHOUSE_URL": clickhouse.url,
            "EVENTMILL_LISTEN": "127.0.0.1:0",
            "EVENTMILL_SHUTDOWN_DELAY_SECONDS": "0",
            "EVENTMILL_BATCH_EVENTS": "1000",
        }
        yield deployment


def wrong_answers(url: str) -> list[str]:
    answers = []
    for name, group_by in real_events.QUESTIONS:
        reply = httpx.get(f"{url}/metrics", params=real_events.parameters(name, group_by), timeout=30)
        answers += real_events.wrong(reply.raise_for_status().json())
    return answers


def test_two_consumers_of_which_one_is_killed_store_every_event_once(deployment: Deployment, tmp_path: Path) -> None:
    settings = deployment.settings
    migrated = eventmill("migrate", cwd=tmp_path, settings=settings)
    assert migrated.returncode == 0, migrated.stderr
    with (
        running("serve", "--workers", "2", cwd=tmp_path, settings=settings) as api,
        running("consume", cwd=tmp_path, settings=settings) as killed,
        running("consume", cwd=tmp_path, settings=settings) as survivor,
    ):
        url = api.url()
        killed.wait_for("consuming from")
        survivor.wait_for("consuming from")
        sent = eventmill("send", str(real_events.FILE), "--url", url, cwd=tmp_path)
        assert sent.returncode == 0, sent.stderr + api.output
        wait_until(lambda: stored(url) > 0)
        os.kill(killed.process.pid, signal.SIGKILL)
        wait_until(lambda: wrong_answers(url) == [], 60)
        for program in (survivor, api):
            assert program.stop() == 0, program.output
            assert "Traceback" not in program.output


def stored(url: str) -> int:
    name = real_events.QUESTIONS[0][0]
    reply = httpx.get(f"{url}/metrics", params=real_events.parameters(name, None), timeout=30)
    return int(reply.raise_for_status().json()["total_count"])


@pytest.mark.parametrize("trouble", ["QueueUnavailable", "QueueMisconfigured"])
def test_a_queue_that_is_unusable_is_reported_rejects_and_recovers(
    deployment: Deployment, tmp_path: Path, trouble: str
) -> None:
    if trouble not in deployment.troubles:
        pytest.skip("root cannot be denied a file")
    break_it, mend_it = deployment.troubles[trouble]
    assert eventmill("migrate", cwd=tmp_path, settings=deployment.settings).returncode == 0
    with (
        running("serve", cwd=tmp_path, settings=deployment.settings) as api,
        running("consume", cwd=tmp_path, settings=deployment.settings) as consumer,
    ):
        url = api.url()
        assert post(url, "before").status_code == 202
        break_it()
        wait_until(lambda: readiness(url) == (503, trouble))
        started = time.monotonic()
        refused = post(url, "during")
        assert refused.status_code == 503, refused.text
        assert int(refused.headers["Retry-After"]) >= 1
        assert time.monotonic() - started < 6
        mend_it()
        wait_until(lambda: readiness(url) == (200, None))
        assert post(url, "after").status_code == 202
        wait_until(lambda: {"before", "after"} <= channels(url), 60)
        for program in (consumer, api):
            assert program.stop() == 0, program.output
            assert "Traceback" not in program.output


def post(url: str, channel: str) -> httpx.Response:
    event = {"event_name": "probe", "channel": channel, "user_id": "somebody", "timestamp": 1_700_000_000}
    return httpx.post(f"{url}/events", json=event, timeout=20)


def readiness(url: str) -> tuple[int, str | None]:
    reply = httpx.get(f"{url}/health/ready", timeout=10)
    return reply.status_code, reply.json()["queue"]["trouble"]


def channels(url: str) -> set[str]:
    question = "event_name=probe&group_by=channel&from=1700000000&to=1700000000"
    reply = httpx.get(f"{url}/metrics?{question}")
    return {group["group_value"] for group in reply.raise_for_status().json()["groups"]}
