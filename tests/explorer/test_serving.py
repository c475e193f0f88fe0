"""Where the explorer is served, and what it may do in a browser. No browser is needed here."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import eventmill_explorer
from support.mill import ROOT, install, running

PLUGIN = ROOT / "plugins" / "explorer"
STATIC = Path(eventmill_explorer.__file__).parent / "static"
SCRIPTS = [path for path in STATIC.rglob("*.js") if "vendor" not in path.parts]


def deployment(folder: Path) -> dict[str, str]:
    """Settings of a deployment whose store is that of a third party."""
    install(folder, "store_jsonl", "eventmill_store_jsonl")
    return {
        "PYTHONPATH": f"{ROOT / 'examples/third_party_plugin'}:{folder}",
        "EVENTMILL_QUEUE": "sqlite",
        "EVENTMILL_QUEUE_SQLITE_PATH": str(folder / "queue.db"),
        "EVENTMILL_STORE": "jsonl",
        "EVENTMILL_STORE_JSONL_PATH": str(folder / "events.jsonl"),
        "EVENTMILL_LISTEN": "127.0.0.1:0",
        "EVENTMILL_SHUTDOWN_DELAY_SECONDS": "0",
    }


def test_run_has_the_page_and_serve_only_if_it_is_wanted(tmp_path: Path) -> None:
    settings = deployment(tmp_path)
    cases: list[tuple[list[str], dict[str, str], int]] = [
        (["run"], {}, 200),
        (["run"], {"EVENTMILL_PAGES": "false"}, 404),
        (["serve"], {}, 404),
        (["serve"], {"EVENTMILL_PAGES": "true"}, 200),
        (["explore", "--listen", "127.0.0.1:0"], {"EVENTMILL_ANONYMOUS": "false"}, 200),
    ]
    for command, own, status in cases:
        with running(*command, cwd=tmp_path, settings=settings | own) as program:
            url = program.url()
            answers = [httpx.get(f"{url}{path}").status_code for path in ("/", "/explorer/app.js")]
            assert answers == [status, status], (command, own)
            assert httpx.get(f"{url}/event-names").status_code == 200
            assert program.stop() == 0


def test_browsers_may_load_only_files_of_the_server(tmp_path: Path) -> None:
    with running("run", "--memory", "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        url = program.url()
        for path in ("/", "/explorer/app.js", "/explorer/style.css", "/explorer/vendor/echarts.js"):
            answer = httpx.get(f"{url}{path}")
            rules = dict(rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";"))
            assert rules["default-src"] == "'none'"
            assert {rules[f"{kind}-src"] for kind in ("script", "style", "connect")} == {"'self'"}
            again = httpx.get(f"{url}{path}", headers={"If-None-Match": answer.headers["etag"]})
            assert again.status_code == 304
        assert httpx.get(f"{url}/explorer/missing.js").json()["error"] == "not_found"
        assert httpx.get(f"{url}/missing").json()["error"] == "not_found"
        assert httpx.post(f"{url}/").status_code == 405


def test_no_file_names_another_host() -> None:
    files = [*SCRIPTS, STATIC / "index.html", STATIC / "style.css"]
    named = [found for path in files for found in re.findall(r"""["'(](?:https?:)?//[^"')]+""", path.read_text())]
    assert named == []


def test_no_script_makes_html_of_text() -> None:
    dangerous = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function")
    assert [path.name for path in SCRIPTS if dangerous.search(path.read_text())] == []


@pytest.mark.parametrize("entry", json.loads((PLUGIN / "vendor.json").read_text()), ids=lambda entry: entry["as"])
def test_libraries_are_those_that_their_authors_publish(entry: dict[str, str]) -> None:
    assert hashlib.sha256((STATIC / "vendor" / entry["as"]).read_bytes()).hexdigest() == entry["sha256"]


def test_the_plugin_loads_no_file_before_the_page_is_served() -> None:
    code = "import sys, eventmill.plugins as p; p.load_plugins(); print('eventmill_explorer.pages' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
