"""The dashboard and the alerts in compose/ use metrics that there are, and docs/operating.md explains each alert."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from eventmill_queue_sqs.usage import Usage
from support import exposition
from support.mill import ROOT, running

DASHBOARD = json.loads((ROOT / "compose/grafana/eventmill.json").read_text())
ALERTS_FILE = ROOT / "compose/prometheus/alerts.yml"
ALERTS: list[Any] = yaml.safe_load(ALERTS_FILE.read_text())["groups"][0]["rules"]
PAGE = (ROOT / "docs/operating.md").read_text()
METRIC = re.compile(r"\b(?:eventmill|process)_[a-z_]+\b")
EVENT = {"event_name": "a", "channel": "b", "user_id": "c", "timestamp": 1_700_000_000}


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of all series that a process may expose: those of `run` with embedded backends, and those of SQS."""
    settings = {"EVENTMILL_OPS_LISTEN": "127.0.0.1:0"}
    folder = tmp_path_factory.mktemp("run")
    with running("run", "--listen", "127.0.0.1:0", cwd=folder, settings=settings) as program:
        program.url()
        text = httpx.get(program.wait_for(r"metrics at (http://[\d.:]+/metrics)")[1]).text
    # A metric with labels has no series before its first event, but its description.
    declared = re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE)
    names = exposition.names(exposition.parse(text)) | {name for name, _ in declared}
    for name, kind in declared:
        if kind == "histogram":
            names |= {f"{name}_{part}" for part in ("bucket", "count", "sum")}
    usage = Usage()
    usage.count("send_message_batch", 1)
    sqs = {sample.name for metric in usage.collect() for sample in metric.samples}
    return names | {name for name in sqs if not name.endswith("_created")}


def queries() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"]
    for rule in ALERTS:
        yield rule["alert"], rule["expr"]


@pytest.mark.parametrize(("place", "query"), list(queries()))
def test_a_query_uses_metrics_that_exist(exposed: set[str], place: str, query: str) -> None:
    used = set(METRIC.findall(query))
    assert used, f"{place} asks for nothing"
    assert used <= exposed, f"{place} asks for {used - exposed}"


def test_the_table_of_metrics_is_complete(exposed: set[str]) -> None:
    table = PAGE[PAGE.index("### All metrics") : PAGE.index("## Alerts")]
    listed = set(re.findall(r"`((?:eventmill|process)_[a-z_]+)`", table))
    base = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exposed}
    totals = {name for name in base if f"{name}_total" in base}
    assert listed == base - totals


def test_the_first_row_has_the_golden_signals() -> None:
    first = [panel["title"] for panel in DASHBOARD["panels"] if 0 < panel["gridPos"]["y"] < 7]
    assert [title.split(":")[0] for title in first] == [
        *("Traffic", "Errors", "Latency", "Saturation", "Freshness", "Dead letters")
    ]


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_an_alert_links_to_its_section(rule: Any) -> None:
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    sections = [title.lower() for title in re.findall(r"^### (\w+)$", (ROOT / page).read_text(), re.MULTILINE)]
    assert anchor in sections
    assert rule["labels"]["severity"] in ("page", "ticket")


def test_promtool_accepts_rules_and_configuration(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    for kind, file in (("rules", ALERTS_FILE), ("config", ALERTS_FILE.with_name("prometheus.yml"))):
        done = subprocess.run([promtool, "check", kind, str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    command = [promtool, "test", "rules", str(ROOT / "tests/data/alerts_test.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
