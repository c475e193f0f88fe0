"""eventmill refused: the latest events that the API refused, and why."""

import asyncio
import json
import sys
from typing import Any

from eventmill.api.refused import RefusedResponse
from eventmill.cli.connection import Target, connect
from eventmill.cli.output import print_table
from eventmill.times import describe

_COLUMNS = ("refused_at", "reason", "message", "payload")


def show(target: Target, limit: int, *, as_json: bool) -> None:
    """Print the refused events, newest first."""
    found = asyncio.run(_get(target, limit))
    if as_json:
        for event in found:
            sys.stdout.write(json.dumps(event) + "\n")
    else:
        print_table(_COLUMNS, [_row(event) for event in found])


async def _get(target: Target, limit: int) -> Any:
    async with connect(target) as connection:
        return await connection.get("/events/refused", list[RefusedResponse], limit=limit)


def _row(event: Any) -> tuple[str, ...]:
    return (describe(round(event["refused_at"] * 1000)), event["reason"], event["message"], event["payload"])
