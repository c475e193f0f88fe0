"""eventmill events: print stored events, or follow them."""

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from eventmill.api.events import EventsResponse
from eventmill.cli.connection import Target, connect
from eventmill.cli.output import print_answer
from eventmill.times import describe

_DEFAULT_LIMIT = 20
_MAX_LIMIT = 1_000  # of a page
_PREFIX = b"data: "


def show(target: Target, wanted: Mapping[str, Any], user: str | None, *, as_json: bool, as_csv: bool) -> None:
    """Print events as a table, or all of them as lines."""
    path = "/events" if user is None else f"/users/{quote(user, safe='')}/events"
    if as_json or as_csv:
        asyncio.run(_stream(target, path, {**wanted, "format": "csv" if as_csv else "ndjson"}))
    else:
        limit = min(wanted.get("limit", _DEFAULT_LIMIT), _MAX_LIMIT)
        answer = asyncio.run(_page(target, path, {**wanted, "limit": limit}))
        rows = [_row(event) for event in answer["events"]]
        columns = ["time", "event", "user", "channel", "metadata"]
        print_answer(columns, rows, answer, as_json=False, as_csv=False)


def follow(target: Target, wanted: Mapping[str, Any], *, as_json: bool) -> None:
    """Print events as they are stored."""
    asyncio.run(_follow(target, wanted, as_json=as_json))


async def _page(target: Target, path: str, wanted: Mapping[str, Any]) -> Any:
    async with connect(target) as connection:
        return await connection.get(path, EventsResponse, **wanted)


async def _stream(target: Target, path: str, wanted: Mapping[str, Any]) -> None:
    async with connect(target) as connection:
        async for chunk in connection.stream(path, wanted):
            sys.stdout.buffer.write(chunk)


async def _follow(target: Target, wanted: Mapping[str, Any], *, as_json: bool) -> None:
    rest = b""
    async with connect(target) as connection:
        async for chunk in connection.stream("/events/live", wanted):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.startswith(_PREFIX):
                    event = json.loads(line.removeprefix(_PREFIX))
                    if as_json:
                        sys.stdout.write(json.dumps(event) + "\n")
                    else:
                        print_answer((), [_row(event)], event, as_json=False, as_csv=False)
            sys.stdout.flush()


def _row(event: Mapping[str, Any]) -> list[str]:
    metadata = json.dumps(event["metadata"], ensure_ascii=False)
    return [
        describe(round(event["timestamp"] * 1000)),
        event["event_name"],
        event["user_id"],
        event["channel"],
        metadata,
    ]
