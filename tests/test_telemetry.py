"""The metrics say what happened, of one process and of several together."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily

from eventmill.ingest.telemetry import MAX_PROJECTS, IngestTelemetry
from eventmill.runtime.operations import WITHOUT_BACKLOG
from eventmill.runtime.telemetry import SafeRegistry, Total
from support import services
from support.exposition import Series, parse, scrape, value
from support.mill import eventmill, running, running_mill, wait_until
from support.proxies import QueueProxy, StoreProxy

EVENT = {"event_name": "a", "channel": "b", "user_id": "c", "timestamp": 1_700_000_000}
ANY_PORT = {"EVENTMILL_OPS_LISTEN": "127.0.0.1:0"}
METRICS_AT = r"metrics at (http://127\.0\.0\.1:\d+)/metrics"


def event(number: int) -> dict[str, object]:
    return EVENT | {"user_id": f"user {number}"}


def test_a_run_counts_what_was_posted_refused_stored_and_asked(tmp_path: Path) -> None:
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=ANY_PORT) as program:
        url, pages = program.url(), program.wait_for(METRICS_AT)[1]
        for number in range(5):
            assert httpx.post(f"{url}/events", json=event(number)).status_code == 202
        assert httpx.post(f"{url}/events", json=EVENT | {"user_id": ""}).status_code == 400
        bulk = [event(5), event(6), EVENT | {"channel": 7}, "no event"]
        assert httpx.post(f"{url}/events/bulk", json=bulk).json()["accepted"] == 2
        assert httpx.post(f"{url}/events/bulk", content=b"{").status_code == 400
        question = {"event_name": "a", "from": "1700000000", "to": "1700000000"}
        assert httpx.get(f"{url}/metrics", params=question).status_code == 200
        assert httpx.get(f"{url}/nothing/at/all").status_code == 404
        assert httpx.get(f"{url}/{'x' * 9000}").status_code == 414
        wait_until(lambda: value(scrape(pages), "eventmill_consumer_stored_events_total") == 7)
        series = scrape(pages)
    assert value(series, "eventmill_events_accepted_total", project="default") == 7
    assert value(series, "eventmill_events_refused_total", project="default", reason="validation_error") == 4
    requests = "eventmill_http_request_seconds_count"
    assert value(series, requests, route="/events", method="POST", status="202") == 5
    assert value(series, requests, route="/events", method="POST", status="400") == 1
    assert value(series, requests, route="/metrics", method="GET", status="200") == 1
    assert value(series, requests, route="unknown", method="GET", status="404") == 1
    assert value(series, "eventmill_http_refusals_total", status="414") == 1
    assert value(series, "eventmill_publish_seconds_count") == value(series, "eventmill_published_frames_total") > 0
    assert value(series, "eventmill_consumer_delay_seconds_count") == value(series, "eventmill_published_frames_total")
    assert time.time() - value(series, "eventmill_consumer_newest_stored_timestamp_seconds") < 60
    assert value(series, "eventmill_query_seconds_count") == 1
    assert value(series, "eventmill_up", part="queue") == value(series, "eventmill_up", part="store") == 1
    assert value(series, "eventmill_queue_messages", state="dead") == 0
    assert value(series, "eventmill_store_clickhouse_disk_free_bytes") > 0
    assert value(series, "eventmill_queue_sqlite_disk_free_bytes") > 0


def test_the_numbers_are_those_of_the_crash_test(tmp_path: Path) -> None:
    """A run of one second in which no crash happens, since counters of a process end with it."""
    for _ in range(3):
        address = f"127.0.0.1:{services.free_port()}"
        last, ended = dict[str, Series](), threading.Event()

        def watch(address: str = address, last: dict[str, Series] = last, ended: threading.Event = ended) -> None:
            while not ended.wait(0.02):
                try:
                    last["series"] = scrape(f"http://{address}")
                except httpx.HTTPError:
                    continue

        watcher = threading.Thread(target=watch)
        watcher.start()
        settings = {"EVENTMILL_OPS_LISTEN": address}
        done = eventmill("crashtest", "--seconds", "1", "--json", cwd=tmp_path, settings=settings)
        ended.set()
        watcher.join()
        figures, series = json.loads(done.stdout), last["series"]
        if not figures["crashes"]:
            break
    assert figures["crashes"] == figures["doubled"] == figures["lost"] == 0
    assert value(series, "eventmill_events_accepted_total") == figures["accepted"] > 100
    assert value(series, "eventmill_consumer_stored_events_total") == figures["stored"]
    assert value(series, "eventmill_consumer_dead_letters_total", reason="undecodable") == figures["dead"] > 0


def test_workers_appear_as_one_and_a_killed_one_takes_no_count_along(tmp_path: Path) -> None:
    settings = ANY_PORT | {
        "EVENTMILL_QUEUE": "sqlite",
        "EVENTMILL_QUEUE_SQLITE_PATH": str(tmp_path / "queue.db"),
        "EVENTMILL_STORE": "none",
        "EVENTMILL_SHUTDOWN_DELAY_SECONDS": "0",
    }
    with running("serve", "--workers", "2", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=settings) as program:
        url, pages = program.url(), program.wait_for(METRICS_AT)[1]

        def post(count: int) -> None:
            for number in range(count):  # each on a connection of its own, so that both workers get some
                assert httpx.post(f"{url}/events", json=event(number)).status_code == 202

        def accepted() -> float:
            return value(scrape(pages), "eventmill_events_accepted_total")

        post(30)
        assert accepted() == 30
        assert value(scrape(pages), "eventmill_queue_messages", state="ready") == 30
        assert httpx.get(f"{pages}/health/ready").json()["status"] == "ok"
        children = Path(f"/proc/{program.process.pid}/task/{program.process.pid}/children").read_text().split()
        workers = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(workers[0], signal.SIGKILL)
        program.wait_for("starting another")
        assert accepted() == 30
        post(10)
        wait_until(lambda: accepted() == 40)
        assert program.stop() == 0


def test_a_taken_port_is_a_warning_and_events_are_accepted(tmp_path: Path) -> None:
    with running("run", "--memory", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=ANY_PORT) as first:
        address = first.wait_for(METRICS_AT)[1].removeprefix("http://")
        taken = {"EVENTMILL_OPS_LISTEN": address}
        with running("run", "--memory", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=taken) as second:
            url = second.url()
            assert httpx.post(f"{url}/events", json=EVENT).status_code == 202
            second.wait_for("running without metrics: cannot listen on.*EVENTMILL_OPS_LISTEN")


def test_a_consumer_has_metrics_and_readiness_of_its_own(tmp_path: Path) -> None:
    with services.running_clickhouse(tmp_path / "clickhouse") as server:
        settings = ANY_PORT | {
            "EVENTMILL_QUEUE": "sqlite",
            "EVENTMILL_QUEUE_SQLITE_PATH": str(tmp_path / "queue.db"),
            "EVENTMILL_STORE": "clickhouse",
            "EVENTMILL_STORE_CLICKHOUSE_URL": server.url,
        }
        assert eventmill("migrate", cwd=tmp_path, settings=settings).returncode == 0
        with running("consume", cwd=tmp_path, settings=settings) as program:
            pages = program.wait_for(METRICS_AT)[1]
            assert httpx.get(f"{pages}/health/ready").json()["status"] == "ok"
            assert value(scrape(pages), "eventmill_consumer_breaker_open") == 0
            server.kill()
            wait_until(lambda: httpx.get(f"{pages}/health/ready").json()["status"] == "degraded")
            assert httpx.get(f"{pages}/health/live").status_code == 200


@pytest.mark.anyio
async def test_failures_are_counted_by_class() -> None:
    class Away(QueueProxy):
        async def publish(self, bodies: object, deadline: float) -> None:
            raise RuntimeError("a bug")

    class Failing(StoreProxy):
        async def metrics(self, query: object) -> object:  # type: ignore[override]  # it answers nothing
            raise RuntimeError("another bug")

    async with running_mill(wrap_queue=Away, wrap_store=Failing) as mill:
        assert (await mill.client.post("/events", json=EVENT)).status_code == 503
        question = {"event_name": "a", "from": "1700000000", "to": "1700000000"}
        assert (await mill.client.get("/metrics", params=question)).status_code == 500
        series = parse(generate_latest(mill.registry).decode())
    assert value(series, "eventmill_publish_failures_total", error="RuntimeError") == 3
    assert value(series, "eventmill_events_refused_total", reason="unavailable") == 1
    assert value(series, "eventmill_queries_failed_total", error="RuntimeError") == 1
    assert value(series, "eventmill_http_request_seconds_count", route="/metrics", status="500") == 1


def test_further_projects_share_one_label() -> None:
    registry = CollectorRegistry()
    telemetry = IngestTelemetry(registry)
    for number in range(MAX_PROJECTS + 50):
        for _ in range(2):
            telemetry.accept(f"project {number}", 1, 10)
        telemetry.refuse(f"project {number}", "validation_error", 1)
    series = parse(generate_latest(registry).decode())
    projects = {dict(labels).get("project") for name, labels in series if name == "eventmill_events_accepted_total"}
    assert len(projects) == MAX_PROJECTS + 1
    assert value(series, "eventmill_events_accepted_total") == 2 * (MAX_PROJECTS + 50)
    assert value(series, "eventmill_events_accepted_total", project="other") == 100
    assert value(series, "eventmill_events_refused_total", project="other") == 50


def test_promtool_accepts_what_is_exposed(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    with running("run", "--memory", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=ANY_PORT) as program:
        url, pages = program.url(), program.wait_for(METRICS_AT)[1]
        assert httpx.post(f"{url}/events", json=EVENT).status_code == 202
        text = httpx.get(f"{pages}/metrics").text
        modern = httpx.get(f"{pages}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert modern.headers["content-type"].startswith("application/openmetrics-text")
    assert re.search(r"^# EOF$", modern.text, re.MULTILINE)


def test_a_new_worker_that_sorts_first_does_not_leave_old_figures_behind() -> None:
    """Only the first worker by name looks up the backlog, and the names of workers are process ids."""

    def metrics(**gauges: float) -> list[Metric]:
        return [GaugeMetricFamily(name, "A gauge.", number) for name, number in gauges.items()]

    total = Total()
    total.update({"11.sock": metrics(ready=5000, up=1), "12.sock": metrics(open=3)}, ["11.sock", "12.sock"])
    shown = total.update({"100.sock": metrics(ready=0, up=0), "11.sock": metrics(open=4)}, ["100.sock", "11.sock"])
    assert {metric.name: metric.samples[0].value for metric in shown} == {"ready": 0, "up": 0, "open": 4}


def test_a_worker_that_looks_up_no_backlog_shows_none(tmp_path: Path) -> None:
    with running("run", "--memory", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=ANY_PORT) as program:
        pages = program.wait_for(METRICS_AT)[1]
        wait_until(lambda: "eventmill_up" in httpx.get(f"{pages}/metrics").text)
        without = httpx.get(f"{pages}/metrics?{WITHOUT_BACKLOG}").text
    assert "eventmill_consumer_paused" in without
    assert "eventmill_up" not in without
    assert "eventmill_queue_" not in without


def test_a_collector_that_fails_hides_only_its_own_metrics() -> None:
    class Broken:
        def collect(self) -> list[Metric]:
            raise OSError("the folder is gone")

    registry = SafeRegistry()
    registry.register(Broken())
    Counter("eventmill_other", "It works.", registry=registry).inc()
    assert value(parse(generate_latest(registry).decode()), "eventmill_other_total") == 1


def test_workers_that_reject_their_settings_end_the_server_with_2(tmp_path: Path) -> None:
    settings = {"EVENTMILL_QUEUE": "sqlite", "EVENTMILL_QUEUE_SQLITE_PATH": str(tmp_path), "EVENTMILL_STORE": "none"}
    done = eventmill("serve", "--workers", "2", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=settings)
    assert done.returncode == 2
