"""Every alert fires when its trouble is caused, and ends with it: a real Prometheus scrapes a running deployment.

The rules are those of compose/, with shorter times: what lasts minutes there must last a second here.
"""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from pydantic import SecretStr

import eventmill_queue_redis
from eventmill_queue_redis.settings import RedisQueueSettings
from support import services
from support.mill import ROOT, Program, eventmill, running, wait_until

RULES = (ROOT / "compose/prometheus/alerts.yml").read_text()
ALERTS = re.findall(r"alert: (\w+)", RULES)
FIRE_SECONDS = 90  # the backlog is looked up every 15 s
MAX_CONNECTIONS = 16
EVENT = {"event_name": "a", "channel": "b", "user_id": "c", "timestamp": 1_700_000_000}
METRICS_AT = r"metrics at http://(127\.0\.0\.1:\d+)/metrics"


class Scene:
    """A deployment of `serve` and `consume` over Redis and ClickHouse, and a Prometheus that scrapes it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self.redis = stack.enter_context(services.running_redis(folder / "redis"))
        self.clickhouse = stack.enter_context(services.running_clickhouse(folder / "clickhouse"))
        self.settings = {
            "EVENTMILL_OPS_LISTEN": "127.0.0.1:0",
            "EVENTMILL_QUEUE": "redis",
            "EVENTMILL_QUEUE_REDIS_URL": self.redis.url,
            "EVENTMILL_STORE": "clickhouse",
            "EVENTMILL_STORE_CLICKHOUSE_URL": self.clickhouse.url,
            "EVENTMILL_SHUTDOWN_DELAY_SECONDS": "0",
            "EVENTMILL_MAX_CONNECTIONS": str(MAX_CONNECTIONS),
            "EVENTMILL_BATCH_SECONDS": "0.1",
        }
        assert eventmill("migrate", cwd=folder, settings=self.settings).returncode == 0
        api = stack.enter_context(running("serve", "--listen", "127.0.0.1:0", cwd=folder, settings=self.settings))
        self.url = api.url()
        self.targets = folder / "targets.json"
        self._api = api.wait_for(METRICS_AT)[1]
        self.start_consumer()
        self.prometheus = stack.enter_context(prometheus(folder, self.targets))

    def start_consumer(self) -> None:
        self.consumer: Program = self._stack.enter_context(running("consume", cwd=self.folder, settings=self.settings))
        self.show_all()

    def show_all(self) -> None:
        self.show(self._api, self.consumer.wait_for(METRICS_AT)[1])

    def show(self, *targets: str) -> None:
        """Let Prometheus scrape these targets only."""
        self.targets.write_text(json.dumps([{"targets": targets}]))

    def post(self, **fields: object) -> int:
        with httpx.Client() as client:
            return client.post(f"{self.url}/events", json=EVENT | fields).status_code

    def order(self, command: str) -> None:
        assert eventmill(command, "--url", self.url, cwd=self.folder).returncode == 0

    def firing(self) -> set[str]:
        answer = httpx.get(f"{self.prometheus}/api/v1/alerts").json()
        return {alert["labels"]["alertname"] for alert in answer["data"]["alerts"] if alert["state"] == "firing"}

    def expect(self, alert: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait until the alert fires."""
        until = time.monotonic() + FIRE_SECONDS
        while alert not in self.firing():
            assert time.monotonic() < until, f"{alert} does not fire; firing: {self.firing()}"
            meanwhile()
            time.sleep(0.2)

    def expect_calm(self, *alerts: str) -> None:
        """Wait until none of these alerts fires any more."""
        wait_until(lambda: not self.firing() & set(alerts), FIRE_SECONDS)


@contextmanager
def prometheus(folder: Path, targets: Path) -> Iterator[str]:
    """A Prometheus that scrapes and evaluates every second."""
    program = shutil.which("prometheus")
    assert program, "prometheus is not installed (Debian: apt-get install prometheus)"
    rules = re.sub(r"for: \w+", "for: 1s", RULES).replace("[5m]", "[15s]").replace("> 300", "> 20")
    (folder / "alerts.yml").write_text(rules)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["alerts.yml"],
        "scrape_configs": [
            {"job_name": "eventmill", "file_sd_configs": [{"files": [str(targets)], "refresh_interval": "1s"}]}
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{services.free_port()}"
    command = [
        program,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    with subprocess.Popen(command) as process:
        try:
            wait_until(lambda: is_ready(f"http://{address}"))
            yield f"http://{address}"
        finally:
            process.terminate()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(tmp_path_factory.mktemp("scene"), stack)


def test_nothing_fires_on_a_good_day(scene: Scene) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        assert scene.post() == 202
        time.sleep(0.2)
    wait_until(lambda: not scene.firing())
    scraped = httpx.get(f"{scene.prometheus}/api/v1/query", params={"query": "sum(eventmill_events_accepted_total)"})
    assert float(scraped.json()["data"]["result"][0]["value"][1]) > 50


def test_a_dead_queue(scene: Scene) -> None:
    scene.redis.kill()
    scene.expect("EventmillQueueDown")
    assert scene.post() == 503
    scene.redis.start()
    scene.expect_calm("EventmillQueueDown")


def test_a_dead_store(scene: Scene) -> None:
    scene.clickhouse.kill()
    assert scene.post(user_id="during the outage") == 202
    scene.expect("EventmillStoreDown")
    scene.clickhouse.start()
    scene.expect_calm("EventmillStoreDown")


def test_a_pause_a_backlog_and_stale_events(scene: Scene) -> None:
    scene.order("pause")
    scene.expect("EventmillConsumersPaused")
    for number in range(150):  # one after another, so that each is a message of its own
        assert scene.post(user_id=f"{number}") == 202
    scene.expect("EventmillBacklog", scene.post)
    scene.expect("EventmillNotFresh", scene.post)
    scene.order("resume")
    scene.expect_calm("EventmillConsumersPaused", "EventmillBacklog", "EventmillNotFresh")


def test_events_that_are_refused(scene: Scene) -> None:
    scene.expect("EventmillRefusals", lambda: scene.post(channel=""))
    scene.expect_calm("EventmillRefusals")


def test_requests_that_fail(scene: Scene) -> None:
    scene.expect("EventmillErrors", lambda: httpx.get(f"{scene.url}/events"))
    scene.expect_calm("EventmillErrors")


def test_an_api_that_is_missing(scene: Scene) -> None:
    scene.show(scene.consumer.wait_for(METRICS_AT)[1])
    scene.expect("EventmillApiMissing")
    scene.show_all()
    scene.expect_calm("EventmillApiMissing")


def test_a_message_that_nobody_can_read(scene: Scene) -> None:
    async def publish() -> None:
        settings = RedisQueueSettings(url=SecretStr(scene.redis.url))
        async with eventmill_queue_redis.backend.open(settings) as queue:
            await queue.publish([b"not a frame"], time.monotonic() + 5)

    asyncio.run(publish())
    scene.expect("EventmillDeadLetters")
    done = eventmill("dead", "purge", "--reason", "undecodable", "--url", scene.url, cwd=scene.folder)
    assert done.stdout.startswith("1 dead letters purged")
    scene.expect_calm("EventmillDeadLetters")


def test_too_many_connections(scene: Scene) -> None:
    host, port = scene.url.removeprefix("http://").split(":")

    def connect() -> None:
        with ExitStack() as stack:
            for _ in range(2 * MAX_CONNECTIONS):
                stack.enter_context(closing(socket.create_connection((host, int(port)))))
            time.sleep(0.5)

    scene.expect("EventmillConnectionsRefused", connect)
    scene.expect_calm("EventmillConnectionsRefused")


def test_consumers_that_are_missing(scene: Scene) -> None:
    scene.consumer.stop()
    scene.expect("EventmillConsumersMissing")
    scene.start_consumer()
    scene.expect_calm("EventmillConsumersMissing")


def test_a_disk_that_is_nearly_full(scene: Scene, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        settings = {"EVENTMILL_OPS_LISTEN": "127.0.0.1:0"}
        data = disk / "data"
        with running("run", "--listen", "127.0.0.1:0", "--data", str(data), cwd=tmp_path, settings=settings) as program:
            scene.show(program.wait_for(METRICS_AT)[1])
            scene.expect("EventmillDiskLow")
            assert "less than 1 GiB is left" in eventmill("check", "--data", str(data), cwd=tmp_path).stdout
            program.stop()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_every_alert_has_its_trouble() -> None:
    source = Path(__file__).read_text()
    assert [alert for alert in ALERTS if f'expect("{alert}"' not in source] == []
