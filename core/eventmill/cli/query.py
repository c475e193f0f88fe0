"""eventmill query: count events and unique users."""

import asyncio
import json
import sys
import time
from typing import Any

from eventmill.api.metrics import MetricsResponse
from eventmill.cli.connection import Target, connect
from eventmill.cli.output import print_table

DAY_SECONDS = 86_400


def query(
    target: Target, event_name: str, start: str | None, end: str | None, group_by: str | None, *, as_json: bool
) -> None:
    """Print the answer of GET /metrics; by default for the last 24 hours."""
    start, end = start or f"{time.time() - DAY_SECONDS:.0f}", end or f"{time.time():.0f}"
    answer = asyncio.run(_ask(target, event_name, start, end, group_by))
    if as_json:
        sys.stdout.write(json.dumps(answer) + "\n")
        return
    rows = [
        tuple(map(str, (group["group_value"], group["total_count"], group["unique_count"])))
        for group in [*answer["groups"], answer | {"group_value": "all"}]
    ]
    print_table((group_by or event_name, "events", "users"), rows)


async def _ask(target: Target, event_name: str, start: str, end: str, group_by: str | None) -> Any:
    wanted = {"event_name": event_name, "from": start, "to": end, "group_by": group_by}
    async with connect(target) as connection:
        return await connection.get("/metrics", MetricsResponse, **wanted)
