"""eventmill status: the backlog, the dead letters, the newest event, and whether the parts work."""

import asyncio
import json
import sys
import time
from typing import Any

from rich.console import Console
from rich.live import Live

from eventmill.api.operator import StatusResponse
from eventmill.cli.connection import Connection, RequestFailed, Target, connect
from eventmill.cli.output import create_table, print_table
from eventmill.text import escape
from eventmill.times import describe

WATCH_SECONDS = 2.0
_COLUMNS = ("figure", "value")


def show(target: Target, *, as_json: bool, seconds: float, watch: bool) -> None:
    """Print the status, with the rate at which the backlog changed within `seconds`; repeatedly with `watch`."""
    status = asyncio.run(_watch(target, as_json) if watch else _show(target, seconds, as_json))
    if any(part is not None and part["status"] != "ok" for part in (status["queue"], status["store"])):
        sys.exit(1)


async def _show(target: Target, seconds: float, as_json: bool) -> Any:
    async with connect(target) as connection:
        await connection.get("/status", StatusResponse)
        await asyncio.sleep(seconds)
        status = await connection.get("/status", StatusResponse)
    _print(status, as_json)
    return status


async def _watch(target: Target, as_json: bool) -> Any:
    console = Console()
    async with connect(target) as connection:
        if as_json or not console.is_terminal:
            while True:
                try:
                    _print(await connection.get("/status", StatusResponse), as_json)
                    sys.stdout.flush()
                except RequestFailed as error:  # perhaps it starts again at this moment
                    sys.stderr.write(f"{escape(str(error))}\n")
                await asyncio.sleep(WATCH_SECONDS)
        await _watch_live(connection, console)


async def _watch_live(connection: Connection, console: Console) -> None:
    """Show the status until Ctrl-C, with the rate of accepted events since the last look."""
    before, looked_at = None, 0.0
    with Live(console=console, auto_refresh=False) as live:
        while True:
            try:
                status, now = await connection.get("/status", StatusResponse), time.monotonic()
            except RequestFailed as error:  # perhaps it starts again at this moment
                live.update(
                    create_table((connection.name, time.strftime("%H:%M:%S")), [("", str(error))]), refresh=True
                )
                await asyncio.sleep(WATCH_SECONDS)
                continue
            accepted = status["since_start"]["events_accepted"]
            rows = rows_of(status)
            if before is not None and accepted >= before:
                rows.append(("accepted by this process", f"{(accepted - before) / (now - looked_at):.0f} events/s"))
            before, looked_at = accepted, now
            live.update(create_table((connection.name, time.strftime("%H:%M:%S")), rows), refresh=True)
            await asyncio.sleep(WATCH_SECONDS)


def _print(status: Any, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(status) + "\n")
    else:
        print_table(_COLUMNS, rows_of(status))


def rows_of(status: Any) -> list[tuple[str, str]]:
    """Return the status as rows for people."""
    rate, left, age, newest = (
        status[name] for name in ("drained_per_second", "drained_in_seconds", "oldest_age_seconds", "newest_event_at")
    )
    return [
        ("messages ready", _known(status["ready"])),
        ("messages in flight", _known(status["in_flight"])),
        ("age of the oldest", "unknown" if age is None else f"{age:.0f} s"),
        ("backlog drained", "unknown" if rate is None else f"{rate:.1f} messages/s"),
        ("empty in", "unknown: it does not shrink" if left is None else f"{left:.0f} s"),
        ("dead letters", _known(status["dead"])),
        ("newest event stored", "unknown" if newest is None else describe(round(newest * 1000))),
        ("consumers", _describe_pause(status)),
        ("queue", _describe_part(status, "queue")),
        ("store", "none" if status["store"] is None else _describe_part(status, "store")),
    ]


def _known(figure: int | None) -> str:
    return "unknown" if figure is None else str(figure)


def _describe_pause(status: Any) -> str:
    if status["store"] is None:
        return "unknown: there is no store, which knows whether they are paused"
    if status["paused"] is None:
        return "unknown: the store, which knows whether they are paused, does not answer"
    if not status["paused"]:
        return "not paused"
    since = describe(round(status["paused_at"] * 1000))
    by, why = status["paused_by"] or "a client without a key", status["paused_because"]
    return f"PAUSED since {since} by {by}{f' ({why})' if why else ''}: run `eventmill resume`"


def _describe_part(status: Any, kind: str) -> str:
    part, backend = status[kind], status["backends"].get(kind, "")
    if part["status"] != "ok":
        return f"{part['status']} ({part['trouble']}): run `eventmill check`; {backend}"
    return "; ".join(["ok", *filter(None, [backend]), *part["warnings"]])
