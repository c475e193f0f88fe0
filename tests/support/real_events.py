"""The real events of examples/data, and the right answers about them, computed independently."""

import gzip
import json
from typing import Any

from eventmill.testing.contract import eventually
from support.mill import ROOT, Mill

FILE = ROOT / "examples" / "data" / "apache_access_2015.ndjson.gz"
EXPECTED: dict[str, Any] = json.loads((ROOT / "tests" / "data" / "apache_access_2015.expected.json").read_text())
QUESTIONS = [(name, group_by) for name in EXPECTED["events"] for group_by in (None, "channel", "hour", "day")]


def lines() -> list[bytes]:
    return gzip.decompress(FILE.read_bytes()).splitlines()


async def store_in(mill: Mill) -> None:
    """Post all events, and return when they are stored."""
    body = b"\n".join(lines())
    await mill.client.post("/events/bulk", content=body, headers={"Content-Type": "application/x-ndjson"})

    async def is_stored() -> bool:
        depth = await mill.queue.depth()
        return depth.ready == depth.in_flight == 0

    await eventually(is_stored)


def parameters(event_name: str, group_by: str | None) -> dict[str, Any]:
    """The query parameters of a question."""
    bounds = {"event_name": event_name, "from": EXPECTED["from"], "to": EXPECTED["to"]}
    return bounds | ({"group_by": group_by} if group_by else {})


def wrong(answer: dict[str, Any]) -> list[str]:
    """Return what is wrong with an answer of GET /metrics, or nothing."""
    expected = EXPECTED["events"][answer["event_name"]]
    problems = [
        f"{answer['event_name']}: {key} is {answer[key]}, not {expected[key]}"
        for key in ("total_count", "unique_count")
        if answer[key] != expected[key]
    ]
    if answer["group_by"]:
        groups = {group["group_value"]: group["total_count"] for group in answer["groups"]}
        order = list(groups)
        right = expected[answer["group_by"]]
        if groups != right:
            problems.append(f"{answer['event_name']} by {answer['group_by']}: {groups}, not {right}")
        if order != sorted(
            order, key=lambda value: (-groups[value], value) if answer["group_by"] == "channel" else value
        ):
            problems.append(f"{answer['event_name']} by {answer['group_by']}: not in order: {order}")
    return problems
