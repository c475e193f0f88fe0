"""eventmill dead: list, show, replay and purge dead letters."""

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from eventmill.api.dead_letters import LettersResponse, ProgressResponse
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
        """Return what is given, for a request. Raise ConfigurationError for an empty text, which would match all."""
        texts = {
            "reason": self.reason,
            "event_name": self.event_name,
            "since": self.since,
            "until": self.until,
        }
        for name, text in texts.items():
            if text == "":
                raise ConfigurationError(f"--{name.replace('_', '-')} must not be empty")
        given = {name: text for name, text in texts.items() if text is not None}
        return given | ({"ids": list(self.ids)} if self.ids else {})


def show_list(wanted: Selection, target: Target, *, as_json: bool, is_full: bool, limit: int) -> None:
    answer = asyncio.run(_find(wanted, target, full=is_full or None, limit=limit))
    if as_json or is_full:
        for letter in answer["letters"]:
            sys.stdout.write(json.dumps(letter) + "\n")
    else:
        print_table(_COLUMNS, [_row(letter) for letter in answer["letters"]])
    shown = len(answer["letters"])
    if shown < answer["total"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in answer["reasons"].items())
        sys.stderr.write(f"these are the oldest {shown} of {answer['total']} dead letters ({reasons})\n")
    _note_missed(answer["missed"])
    if is_full and (shown < answer["total"] or answer["missed"]):
        raise RequestFailed("not all dead letters are printed: choose fewer, for example by --since and --until")


def show_one(wanted: Selection, target: Target) -> None:
    answer = asyncio.run(_find(wanted, target, full=True))
    if not answer["letters"]:
        _note_missed(answer["missed"])
        raise ConfigurationError(f"there is no dead letter {wanted.ids[0]}: `eventmill dead list` shows them")
    for letter in answer["letters"]:
        sys.stdout.write(json.dumps(letter, indent=2) + "\n")


def settle(wanted: Selection, target: Target, *, replay: bool, dry_run: bool, everything: bool) -> None:
    body = wanted.parameters() | {"dry_run": dry_run, "all": everything}
    last = asyncio.run(_settle(target, f"/dead-letters/{'replay' if replay else 'purge'}", body))
    done = ("would be " if dry_run else "") + ("replayed" if replay else "purged")
    sys.stdout.write(f"{last.matched} dead letters {done}, {last.others} others left\n")
    _note_missed(last.missed)
    if not last.done:
        raise RequestFailed(f"not all is done: {last.error or 'some dead letters were missed'}")


def _note_missed(missed: int) -> None:
    if missed:
        sys.stderr.write(
            f"{missed} dead letters are held by another process, or by one that was killed: try again later\n"
        )


async def _settle(target: Target, path: str, body: dict[str, Any]) -> ProgressResponse:
    with Console(stderr=True, quiet=not sys.stderr.isatty()).status("dead letters"):
        async with connect(target) as connection:
            lines = await connection.post(path, ProgressResponse, body)
    return ProgressResponse.model_validate(lines[-1])


async def _find(wanted: Selection, target: Target, **options: Any) -> Any:
    parameters = wanted.parameters()
    async with connect(target) as connection:
        return await connection.get(
            "/dead-letters", LettersResponse, id=parameters.pop("ids", None), **parameters, **options
        )


def _row(letter: Any) -> list[str]:
    """Return a row; its last cell says why the letter is dead, and how a body begins that holds no events."""
    *cells, message = (_cell(letter[column]) for column in _COLUMNS)
    return [*cells, message + (f": {_cell(letter['body'])}" if letter["body"] else "")]


def _cell(value: object) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list) else " ".join(str(value).split())
