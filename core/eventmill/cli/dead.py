"""eventmill dead: list, show, replay and purge dead letters."""

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from eventmill.cli.connection import RequestFailed, Target, connect
from eventmill.cli.output import print_table
from eventmill.errors import ConfigurationError

_COLUMNS = ("id", "died_at", "reason", "code", "attempts", "events", "event_names", "message")
MAX_LETTERS = 1000  # the most that the API lists at a time


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters: those that match everything that is given."""

    ids: tuple[str, ...] = ()
    reason: str | None = None
    event_name: str | None = None
    since: str | None = None
    until: str | None = None

    def parameters(self) -> dict[str, Any]:
        """Return what is given, for a request."""
        given = {
            "ids": list(self.ids),
            "reason": self.reason,
            "event_name": self.event_name,
            "since": self.since,
            "until": self.until,
        }
        return {name: value for name, value in given.items() if value}


def show_list(wanted: Selection, target: Target, *, as_json: bool, limit: int) -> None:
    summaries = asyncio.run(_find(wanted, target, limit=min(limit, MAX_LETTERS)))
    if as_json:
        for summary in summaries:
            sys.stdout.write(json.dumps(summary) + "\n")
    else:
        print_table(_COLUMNS, [[_cell(summary[column]) for column in _COLUMNS] for summary in summaries])


def show_one(wanted: Selection, target: Target) -> None:
    found = asyncio.run(_find(wanted, target, full=True))
    if not found:
        raise ConfigurationError(f"there is no dead letter {wanted.ids[0]}: `eventmill dead list` shows them")
    for letter in found:
        sys.stdout.write(json.dumps(letter, indent=2) + "\n")


def settle(wanted: Selection, target: Target, *, replay: bool, dry_run: bool, everything: bool) -> None:
    body = wanted.parameters() | {"dry_run": dry_run, "all": everything}
    last = asyncio.run(_settle(target, f"/dead-letters/{'replay' if replay else 'purge'}", body))
    done = ("would be " if dry_run else "") + ("replayed" if replay else "purged")
    sys.stdout.write(f"{last['matched']} dead letters {done}, {last['others']} others left\n")
    if "done" not in last:
        raise RequestFailed(f"it ended early: {last.get('error', 'the connection was lost')}")


async def _settle(target: Target, path: str, body: dict[str, Any]) -> Any:
    with Console(stderr=True, quiet=not sys.stderr.isatty()).status("dead letters"):
        async with connect(target) as connection:
            answer = await connection.post(path, body)
    return answer[-1] if isinstance(answer, list) else answer


async def _find(wanted: Selection, target: Target, **options: Any) -> list[Any]:
    parameters = wanted.parameters()
    async with connect(target) as connection:
        found = await connection.get("/dead-letters", id=parameters.pop("ids", None), **parameters, **options)
    return list(found)


def _cell(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else " ".join(str(value).split())
