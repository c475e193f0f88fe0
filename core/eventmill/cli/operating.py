"""The operator's commands and their options: status, check, query, lookup, refused, pause, resume and dead.

They work against an API (--url), against `eventmill run` of this folder, or directly on the backends of the settings.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eventmill.errors import ConfigurationError

if TYPE_CHECKING:
    from eventmill.cli.connection import Target

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Url = Annotated[
    str | None,
    typer.Option(
        envvar="EVENTMILL_URL",
        help="URL of an API. Default: `eventmill run` of this folder, or the backends of the settings.",
    ),
]
Key = Annotated[
    str | None, typer.Option(envvar="EVENTMILL_KEY", help="Admin key of the API; of project * for the queue.")
]
ReadKey = Annotated[str | None, typer.Option(envvar="EVENTMILL_KEY", help="Read or admin key of the API.")]
Data = Annotated[Path | None, typer.Option(metavar="DIR", help="Data folder of `eventmill run`.")]
Project = Annotated[str | None, typer.Option(help="The project. Default: that of the key, or EVENTMILL_PROJECT.")]
Reason = Annotated[
    str | None,
    typer.Option(
        help="Only dead letters with this reason: rejected (by the store), undecodable, poison (it crashes consumers),"
        " moved (by the queue), or newer (written by a newer version of eventmill)."
    ),
]
EventName = Annotated[str | None, typer.Option(help="Only dead letters that contain an event with this name.")]
Since = Annotated[
    str | None, typer.Option(help="Only letters that died at or after this time: unix seconds or RFC 3339.")
]
Until = Annotated[str | None, typer.Option(help="Only letters that died at or before this time.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count the letters, but change nothing.")]
Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Only dead letters with these ids or id prefixes.")
]
From = Annotated[str | None, typer.Option("--from", help="Only events at or after this time.")]
To = Annotated[str | None, typer.Option("--to", help="Only events at or before this time.")]


def add_operator_commands(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (check, status, lookup, refused, pause, resume):
        app.command()(command)
    app.add_typer(dead, name="dead")


def target_of(url: str | None, key: str | None, data: Path | None, project: str | None = None) -> "Target":
    """Return the deployment that the options of a command name."""
    from eventmill.cli.connection import Target

    return Target(url, key, data, project)


def check(
    json: Json = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 for warnings, too.")] = False,
    url: Url = None,
    key: Key = None,
    data: Data = None,
) -> None:
    """Show what is wrong with the queue, the store and the process, and the command that ends each trouble.

    Exit with 1 if a part failed.
    """
    from eventmill.cli import check as command

    command.check(target_of(url, key, data), as_json=json, is_strict=strict)


def status(
    json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every two seconds, until Ctrl-C.")] = False,
    seconds: Annotated[
        float,
        typer.Option(min=0.1, max=50, help="Seconds, at least, over which to measure the drain rate."),
    ] = 2,
    url: Url = None,
    key: Key = None,
    data: Data = None,
) -> None:
    """Show the backlog, its age, when it will have drained, the dead letters, and whether queue and store work.

    It takes as long as --seconds. Exit with 1 if the queue or the store does not work.
    """
    from eventmill.cli import status as command

    command.show(target_of(url, key, data), as_json=json, seconds=seconds, watch=watch)


def lookup(
    event_id: Annotated[str | None, typer.Argument(metavar="[EVENT_ID]", help="The id of the event.")] = None,
    user: Annotated[str | None, typer.Option(help="Or the user of the events.")] = None,
    start: From = None,
    end: To = None,
    json: Json = False,
    url: Url = None,
    key: ReadKey = None,
    project: Project = None,
    data: Data = None,
) -> None:
    """Find out where an event is: stored, waiting in the queue, refused, dead-lettered, or unknown.

    Exit with 1 if it is unknown.
    """
    from eventmill.cli import lookup as command

    command.lookup(target_of(url, key, data, project), event_id, user, start, end, as_json=json)


def refused(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Print at most this many events.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, one event per line.")] = False,
    url: Url = None,
    key: ReadKey = None,
    project: Project = None,
    data: Data = None,
) -> None:
    """Show the latest events that the running API refused, newest first, and why."""
    from eventmill.cli import refused as command

    command.show(target_of(url, key, data, project), limit, as_json=json)


def pause(
    reason: Annotated[str | None, typer.Option(help="Why, for the other operators.")] = None,
    url: Url = None,
    key: Key = None,
    data: Data = None,
) -> None:
    """Let all consumers receive nothing, also after a restart. Events are accepted and wait in the queue."""
    from eventmill.cli import pause as command

    command.pause(target_of(url, key, data), reason)


def resume(url: Url = None, key: Key = None, data: Data = None) -> None:
    """Let the consumers receive again."""
    from eventmill.cli import pause as command

    command.resume(target_of(url, key, data))


dead = typer.Typer(help="List, show, replay and purge dead letters.", no_args_is_help=True)


@dead.command("list")
def list_dead(
    reason: Reason = None,
    event_name: EventName = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Print at most this many letters.")] = 100,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, one letter per line.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Print each with its events, as JSON; at most 100.")] = False,
    url: Url = None,
    key: Key = None,
    data: Data = None,
) -> None:
    """List dead letters, oldest first."""
    from eventmill.cli import dead as command

    wanted = command.Selection((), reason, event_name, since, until)
    command.show_list(wanted, target_of(url, key, data), as_json=json, is_full=full, limit=limit)


@dead.command("show")
def show_dead(
    id: Annotated[str, typer.Argument(metavar="ID", help="The id of the dead letter, or a prefix of it.")],
    url: Url = None,
    key: Key = None,
    data: Data = None,
) -> None:
    """Print one dead letter with its events as JSON."""
    from eventmill.cli import dead as command

    command.show_one(command.Selection((id,)), target_of(url, key, data))


@dead.command("replay")
def replay_dead(
    ids: Ids = None,
    reason: Reason = None,
    event_name: EventName = None,
    since: Since = None,
    until: Until = None,
    dry_run: DryRun = False,
    url: Url = None,
    key: Key = None,
    data: Data = None,
) -> None:
    """Move dead letters back to the queue. A replay never counts an event twice."""
    from eventmill.cli import dead as command

    wanted = command.Selection(tuple(ids or ()), reason, event_name, since, until)
    command.settle(wanted, target_of(url, key, data), replay=True, dry_run=dry_run, everything=False)


@dead.command("purge")
def purge_dead(
    ids: Ids = None,
    reason: Reason = None,
    event_name: EventName = None,
    since: Since = None,
    until: Until = None,
    dry_run: DryRun = False,
    everything: Annotated[bool, typer.Option("--all", help="Delete all dead letters.")] = False,
    url: Url = None,
    key: Key = None,
    data: Data = None,
) -> None:
    """Delete dead letters permanently."""
    from eventmill.cli import dead as command

    if not (ids or reason or event_name or since or until or everything or dry_run):
        raise ConfigurationError("say which dead letters to delete, or use --all")
    wanted = command.Selection(tuple(ids or ()), reason, event_name, since, until)
    command.settle(wanted, target_of(url, key, data), replay=False, dry_run=dry_run, everything=everything)
