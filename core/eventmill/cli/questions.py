"""The commands of questions, and their options. docs/queries.md has the meanings."""

from pathlib import Path
from typing import Annotated

import typer

from eventmill.cli.operating import Data, Json, Key, Project, ReadKey, Url, target_of

Names = Annotated[list[str] | None, typer.Argument(metavar="[EVENT_NAME]...", help="Names of events. Default: all.")]
From = Annotated[
    str | None,
    typer.Option("--from", help="Start: unix seconds, RFC 3339, a date, or a time before now such as -24h or -7d."),
]
To = Annotated[str | None, typer.Option("--to", help="End, inclusive, in the same forms. Default: now.")]
Tz = Annotated[str | None, typer.Option(help="IANA time zone of dates and groups. Default: UTC.")]
Where = Annotated[
    list[str] | None,
    typer.Option(metavar="FILTER", help="Only events such as channel=web or 'metadata.price>=10'. Repeat for more."),
]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]


def add_question_commands(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (query, names, properties, materialize, events, funnel, retention, erase, sql):
        app.command()(command)


def query(
    event_names: Names = None,
    start: From = None,
    end: To = None,
    tz: Tz = None,
    where: Where = None,
    group_by: Annotated[
        list[str] | None,
        typer.Option(help="A property, minute, hour, day, week or month. Repeat for two."),
    ] = None,
    measure: Annotated[
        str | None, typer.Option(help="count, users, or sum, avg, min, max, p50, p90, p95, p99 as sum:metadata.price.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the largest groups; the others are summed up.")] = None,
    fill: Annotated[bool, typer.Option("--fill", help="Also times without events.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Also the span of the same length before.")] = False,
    approximate: Annotated[bool, typer.Option("--approximate", help="Estimate users, which is faster.")] = False,
    json: Json = False,
    as_csv: Csv = False,
    url: Url = None,
    key: ReadKey = None,
    project: Project = None,
    data: Data = None,
) -> None:
    """Count events and unique users, or measure a property, in total and by group; by default of the last 24 hours."""
    from eventmill.cli import query as command

    wanted = {"from": start, "to": end, "tz": tz, "group_by": group_by, "measure": measure, "limit": limit}
    wanted |= {"fill": "true" if fill else None, "compare": "previous" if compare else None}
    wanted |= {"precision": "approximate" if approximate else None}
    parameters = command.parameters(event_names, where, wanted)
    command.query(target_of(url, key, data, project), parameters, as_json=json, as_csv=as_csv)


def names(
    start: From = None,
    end: To = None,
    where: Where = None,
    json: Json = False,
    as_csv: Csv = False,
    url: Url = None,
    key: ReadKey = None,
    project: Project = None,
    data: Data = None,
) -> None:
    """List the names of events with their counts, by default of the last 30 days."""
    from eventmill.cli import discover, query

    parameters = query.parameters(None, where, {"from": start, "to": end})
    discover.names(target_of(url, key, data, project), parameters, as_json=json, as_csv=as_csv)


def properties(
    event_names: Names = None,
    start: From = None,
    end: To = None,
    where: Where = None,
    json: Json = False,
    as_csv: Csv = False,
    url: Url = None,
    key: ReadKey = None,
    project: Project = None,
    data: Data = None,
) -> None:
    """List the tags and the metadata of the newest events, with types and frequent values."""
    from eventmill.cli import discover, query

    parameters = query.parameters(event_names, where, {"from": start, "to": end})
    discover.properties(target_of(url, key, data, project), parameters, as_json=json, as_csv=as_csv)


def materialize(
    name: Annotated[str, typer.Argument(metavar="PROPERTY", help="A property of the metadata, as metadata.price.")],
    url: Url = None,
    key: Key = None,
    data: Data = None,
) -> None:
    """Make questions about a property of the metadata faster, in a store that can. No answer changes."""
    from eventmill.cli import discover

    discover.materialize(target_of(url, key, data), name)


def events(
    event_names: Names = None,
    start: From = None,
    end: To = None,
    where: Where = None,
    user: Annotated[str | None, typer.Option(help="All events of this user, of all times.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Print at most this many. Default: 20, and all with --json or --csv.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Print events as they are stored, until Ctrl-C.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, one event per line.")] = False,
    as_csv: Csv = False,
    url: Url = None,
    key: ReadKey = None,
    project: Project = None,
    data: Data = None,
) -> None:
    """Print events, newest first, by default of the last 24 hours."""
    from eventmill.cli import events as command
    from eventmill.cli import query

    parameters = query.parameters(event_names, where, {"from": start, "to": end, "limit": limit})
    target = target_of(url, key, data, project)
    if follow:
        command.follow(target, parameters, as_json=json)
    else:
        command.show(target, parameters, user, as_json=json, as_csv=as_csv)


def funnel(
    steps: Annotated[
        list[str],
        typer.Argument(metavar="STEP STEP...", help="Names of events; with filters: 'purchase&metadata.price>=10'."),
    ],
    start: From = None,
    end: To = None,
    tz: Tz = None,
    where: Where = None,
    window: Annotated[str, typer.Option(help="All steps lie within this time, such as 30m, 12h, 7d or 4w.")] = "7d",
    group_by: Annotated[str | None, typer.Option(help="A property of the first step's event.")] = None,
    json: Json = False,
    as_csv: Csv = False,
    url: Url = None,
    key: ReadKey = None,
    project: Project = None,
    data: Data = None,
) -> None:
    """Count the users that go from step to step, by default in the last 30 days."""
    from eventmill.cli import journeys

    body = {"from": start, "to": end, "tz": tz, "where": where, "window": window, "group_by": group_by}
    journeys.funnel(target_of(url, key, data, project), steps, body, as_json=json, as_csv=as_csv)


def retention(
    started: Annotated[
        str | None, typer.Option("--start", metavar="STEP", help="The event that starts. Default: any.")
    ] = None,
    returned: Annotated[
        str | None, typer.Option("--return", metavar="STEP", help="The event that is a return. Default: any.")
    ] = None,
    unit: Annotated[str, typer.Option(help="day, week or month.")] = "day",
    start: From = None,
    end: To = None,
    tz: Tz = None,
    where: Where = None,
    json: Json = False,
    as_csv: Csv = False,
    url: Url = None,
    key: ReadKey = None,
    project: Project = None,
    data: Data = None,
) -> None:
    """Count the users that come back, by the time of their first event; by default in the last 30 days."""
    from eventmill.cli import journeys

    body = {"from": start, "to": end, "tz": tz, "where": where, "unit": unit}
    journeys.retention(target_of(url, key, data, project), started, returned, body, as_json=json, as_csv=as_csv)


def erase(
    user: Annotated[str, typer.Argument(metavar="USER_ID", help="The user.")],
    yes: Annotated[bool, typer.Option("--yes", help="Really erase: it cannot be undone.")] = False,
    json: Json = False,
    url: Url = None,
    key: Key = None,
    project: Project = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Data folder of `eventmill run`.")] = None,
) -> None:
    """Erase the events of a user: those in the store, in dead letters, and those that still wait."""
    from eventmill.cli import erase as command

    command.erase(target_of(url, key, data, project), user, is_sure=yes, as_json=json)


def sql(
    statement: Annotated[str, typer.Argument(metavar="SELECT|-", help="One SELECT; - reads it from standard input.")],
    json: Json = False,
    as_csv: Csv = False,
    url: Url = None,
    key: Key = None,
    data: Data = None,
) -> None:
    """Run a SELECT statement in a ClickHouse store; also while `eventmill run` uses its folder."""
    from eventmill.cli import sql as command

    command.sql(target_of(url, key, data), statement, as_json=json, as_csv=as_csv)
