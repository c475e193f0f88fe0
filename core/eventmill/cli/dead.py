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


def show_list(wanted: Selection, target: Target, *, as_json: bool, is_full: bool, limit: int) -> None:
    found, summary = asyncio.run(_list(wanted, target, is_full=is_full, limit=limit))
    if as_json or is_full:
        for letter in found:
            sys.stdout.write(json.dumps(letter) + "\n")
    else:
        rows = [[_cell(letter[column]) for column in _COLUMNS[:-1]] + [_describe(letter)] for letter in found]
        print_table(_COLUMNS, rows)
    if summary:
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary["reasons"].items())
        sys.stderr.write(f"the oldest {len(found)} of {summary['total']} dead letters ({reasons}): see --limit\n")


async def _list(wanted: Selection, target: Target, *, is_full: bool, limit: int) -> tuple[list[Any], Any]:
    """Return the letters, and a summary of all if there may be more."""
    parameters = wanted.parameters()
    async with connect(target) as connection:
        found = await connection.get("/dead-letters", **parameters, full=is_full or None, limit=limit)
        return found, await connection.get("/dead-letters/summary") if len(found) == limit else None


def _describe(letter: Any) -> str:
    """Return why a letter is dead, and the start of a body that holds no events."""
    return _cell(letter["message"]) + (f": {_cell(letter['body'])}" if letter["body"] else "")


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
