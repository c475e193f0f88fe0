"""eventmill lookup: where an event, or those of a user, are."""

import asyncio
import json
import sys
from typing import Any

from eventmill.api.search import LookupResponse
from eventmill.cli.connection import Target, connect
from eventmill.cli.output import print_table
from eventmill.errors import ConfigurationError
from eventmill.times import describe

_COLUMNS = ("state", "event", "user", "time", "details")


def lookup(
    target: Target, event_id: str | None, user_id: str | None, start: str | None, end: str | None, *, as_json: bool
) -> None:
    """Print where the events are; exit 1 if they are unknown."""
    if bool(event_id) == bool(user_id):
        raise ConfigurationError("name either an event id or --user")
    answer = asyncio.run(_ask(target, event_id, user_id, start, end))
    if as_json:
        sys.stdout.write(json.dumps(answer) + "\n")
    else:
        print_table(_COLUMNS, _rows(answer))
        for note in _notes(answer):
            sys.stderr.write(f"{note}\n")
    if answer["state"] == "unknown":
        sys.exit(1)


async def _ask(target: Target, event_id: str | None, user_id: str | None, start: str | None, end: str | None) -> Any:
    wanted = {"event_id": event_id, "user_id": user_id, "from": start, "to": end}
    async with connect(target) as connection:
        return await connection.get("/events/lookup", LookupResponse, **wanted)


def _rows(answer: Any) -> list[tuple[str, ...]]:
    rows = [_row("stored", each, f"received {_time(each['received_at'])}") for each in answer["stored"]]
    for each in answer["dead_lettered"]:
        details = f"{each['reason']}: {each['message']}: run `eventmill dead show {each['dead_letter']}`"
        rows.append(_row("dead-lettered", each, details))
    rows += [_row("waiting", each, f"accepted {_time(each['accepted_at'])}") for each in answer["waiting"]]
    rows += [
        ("refused", "", "", _time(each["refused_at"]), f"{each['message']}: {each['payload']}")
        for each in answer["refused"]
    ]
    return rows or [("unknown", "", "", "", "")]


def _row(state: str, event: Any, details: str) -> tuple[str, ...]:
    return (state, event["event_id"], event["user_id"], _time(event["timestamp"]), details)


def _notes(answer: Any) -> list[str]:
    waiting = answer["queue_messages"]
    more = [f"{waiting} messages wait in the queue: the event may be in one of them"]
    notes = [each.replace("set from", "set --from").replace("X-Project", "--project") for each in answer["notes"]]
    return [*notes, *(more if answer["state"] == "unknown" and waiting else [])]


def _time(seconds: float) -> str:
    return describe(round(seconds * 1000))
