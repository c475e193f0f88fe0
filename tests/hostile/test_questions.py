"""Hostile texts in every parameter of every question are data, over the real engine."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from eventmill.testing.store_contract.suite import HOSTILE
from support.mill import running, wait_until

MORE = [
    "\0",
    "\n",
    "\x7f",
    "a" * 900,
    "..",
    "[…]",
    "{…}",
    "\\",
    "\\\\",
    "=",
    "!",
    "<",
    ">=",
    "&",
    "#",
    "+",
    "%",
    "%00",
    "NaN",
]
TEXTS = [text for text in [*HOSTILE, *MORE] if len(text.encode()) < 1000]
FIELDS = ["channel", "user_id", "campaign_id", "event_id", "tag", "metadata.a", "channel!", "tag!", "metadata.a!"]
_METRICS = ["event_name", "has", "lacks", "from", "to", "tz", "group_by", "measure", "precision", "fill", "compare"]
_METRICS += ["limit", "fresh", "metadata.a>"]
OTHERS = [(name, "/metrics") for name in _METRICS] + [(name, "/events") for name in ("cursor", "format", "tag")]
OTHERS += [("sample", "/properties"), ("limit", "/event-names")]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path_factory.mktemp("hostile")) as program:
        event = {"event_name": "a", "channel": "web", "user_id": "ada", "timestamp": 1_700_000_000, "tags": ["t"]}
        url = program.url()
        assert httpx.post(f"{url}/events?wait=stored", json=event | {"metadata": {"a": "b"}}).status_code == 200
        yield url
        assert total(url) == 1
        assert program.stop() == 0
        assert "Traceback" not in program.output


def total(url: str) -> Any:
    return httpx.get(f"{url}/metrics?from=0").json()["total_count"]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_hostile_text_is_data(url: str, text: str) -> None:
    with httpx.Client(base_url=url, timeout=20) as client:
        for name in FIELDS:
            answer = client.get("/metrics", params={"from": "0", name: text})
            assert answer.status_code == 200, (name, answer.text)
            assert answer.json()["total_count"] == (1 if name.endswith("!") else 0), name
        for name, path in OTHERS:
            answer = client.get(path, params={"from": "0"} | {name: text})
            assert answer.status_code in (200, 400), (path, name, answer.text)
        for name in (f"metadata.{text}", text, f"{text}!", f"{text}<1"):
            assert client.get("/metrics", params={name: "1"}).status_code in (200, 400), name
            assert client.get("/metrics", params={"group_by": name}).status_code in (200, 400), name
        for body in _bodies(text):
            for path in ("/funnels", "/retention"):
                answer = client.post(path, json=body)
                assert answer.status_code in (200, 400), (path, body, answer.text)
        assert client.get(f"/users/{_encode(text)}/events").status_code in (200, 404)
        assert client.request("DELETE", "/users", params={"user_id": text}).status_code in (200, 400)
    wait_until(lambda: total(url) == 1)


def _bodies(text: str) -> list[dict[str, Any]]:
    steps = [{"event_name": text, "where": [f"channel={text}", f"metadata.a!={text}"]}, {"event_name": [text, "a"]}]
    span = {"from": 1_700_000_000, "to": 1_700_000_001}
    return [
        span | {"steps": steps, "group_by": f"metadata.{text}"},
        span | {"steps": steps, "where": [text]},
        span | {"start": steps[0], "return": steps[1], "unit": "day"},
        {"tz": text, "unit": text, "window": text, "from": text, "to": text, "steps": steps},
        {text: text},
    ]


def _encode(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())
