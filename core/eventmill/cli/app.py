"""The commands and their options. What they do is imported only when they run."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from eventmill.errors import ConfigurationError, EventmillError

app = typer.Typer(
    name="eventmill",
    help="Event ingestion and analytics. Settings are environment variables EVENTMILL_…, or lines of .env.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Listen = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where the API listens.", show_default=False)]


@app.command()
def run(
    memory: Annotated[bool, typer.Option("--memory", help="Keep everything in memory; all is lost on exit.")] = False,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Where embedded backends keep data.")] = None,
    listen: Listen = None,
) -> None:
    """Run everything in one process: the API and the consumer, on embedded backends."""
    from eventmill.cli import run as command

    command.run(memory=memory, data=data, listen=listen)


@app.command()
def serve(
    listen: Listen = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that share the address.")] = 1,
) -> None:
    """Serve the API alone: events go to the queue, questions to the store."""
    from eventmill.cli import serve as command

    command.serve(listen=listen, workers=workers)


@app.command()
def consume() -> None:
    """Move events from the queue into the store, until stopped. Start as many as you like."""
    from eventmill.cli import consume as command

    command.consume()


@app.command()
def migrate(
    show: Annotated[bool, typer.Option("--print", help="Print the statements instead of running them.")] = False,
) -> None:
    """Create or upgrade what the chosen queue and store need on their servers."""
    from eventmill.cli import migrate as command

    command.migrate(show=show)


@app.command()
def check() -> None:
    """Ask the chosen queue and store whether they can be used; exit 1 when one cannot."""
    from eventmill.cli import check as command

    command.check()


Data = Annotated[Path | None, typer.Option(metavar="DIR", help="Where `eventmill run` keeps its data.")]


@app.command()
def status(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    seconds: Annotated[float, typer.Option(min=0.1, max=60, help="Between two looks, for the rate.")] = 2,
    data: Data = None,
) -> None:
    """Show what waits in the queue, for how long, and when it will be empty; exit 1 when the queue is away."""
    from eventmill.cli import status as command

    command.show(data, as_json=json, seconds=seconds)


@app.command()
def crashtest(
    seconds: Annotated[float, typer.Option(min=1, help="How long events are posted.")] = 30,
    rate: Annotated[float, typer.Option(min=1, help="Events per second.")] = 200,
    kill9: Annotated[bool, typer.Option("--kill9", help="Crash the programs instead of stopping them.")] = False,
    queue: Annotated[
        str | None, typer.Option(help="The queue; default: EVENTMILL_QUEUE, else SQLite in a temporary folder.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="The store; default: EVENTMILL_STORE, else chDB in a temporary folder.")
    ] = None,
    outage_command: Annotated[
        str | None,
        typer.Option(
            metavar="CMD",
            help="Call `CMD stop` and `CMD start` at random moments: your program that stops and starts the servers."
            " `CMD start` is called first and last, and must do no harm while they run.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prove that nothing is lost or doubled while the programs crash; exit 1 when anything is."""
    from eventmill.cli import crashtest as command

    command.crashtest(
        seconds=seconds,
        rate=rate,
        kill9=kill9,
        queue=queue,
        store=store,
        outage_command=outage_command,
        as_json=json,
    )


dead = typer.Typer(help="Look at dead letters, send them again, or remove them.", no_args_is_help=True)
app.add_typer(dead, name="dead")
Reason = Annotated[str | None, typer.Option(help="Only these: rejected, undecodable, killer or moved.")]
EventName = Annotated[str | None, typer.Option(help="Only those that hold such an event.")]
Since = Annotated[str | None, typer.Option(help="Only those that died from then on: unix seconds or RFC 3339.")]
Until = Annotated[str | None, typer.Option(help="Only those that died until then.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count them.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Only these; the first characters suffice.")]


@dead.command("list")
def list_dead(
    reason: Reason = None,
    event_name: EventName = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, help="So many at most.")] = 100,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, one letter per line.")] = False,
    data: Data = None,
) -> None:
    """List the dead letters, the oldest first."""
    from eventmill.cli import dead as command

    wanted = command.Filter((), reason, event_name, since, until)
    command.show_list(wanted, data, as_json=json, limit=limit)


@dead.command("show")
def show_dead(id: Annotated[str, typer.Argument(metavar="ID")], data: Data = None) -> None:
    """Print a dead letter whole, as JSON."""
    from eventmill.cli import dead as command

    command.show_one(id, data)


@dead.command("replay")
def replay_dead(
    ids: Ids = None,
    reason: Reason = None,
    event_name: EventName = None,
    since: Since = None,
    until: Until = None,
    dry_run: DryRun = False,
    data: Data = None,
) -> None:
    """Put dead letters back into the queue; nothing can be counted twice."""
    from eventmill.cli import dead as command

    command.replay(command.Filter(tuple(ids or ()), reason, event_name, since, until), data, dry_run=dry_run)


@dead.command("purge")
def purge_dead(
    ids: Ids = None,
    reason: Reason = None,
    event_name: EventName = None,
    since: Since = None,
    until: Until = None,
    dry_run: DryRun = False,
    everything: Annotated[bool, typer.Option("--all", help="Remove all of them.")] = False,
    data: Data = None,
) -> None:
    """Remove dead letters for good."""
    from eventmill.cli import dead as command

    wanted = command.Filter(tuple(ids or ()), reason, event_name, since, until)
    if wanted == command.Filter() and not (everything or dry_run):
        raise ConfigurationError("say which dead letters to purge, or --all")
    command.purge(wanted, data, dry_run=dry_run)


@app.command()
def send(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="NDJSON, plain, .gz or .zst; - is standard input.")],
    url: Annotated[str, typer.Option(help="The API's address.")] = "http://127.0.0.1:8080",
    patience: Annotated[float, typer.Option(min=0, help="Seconds without any success before giving up.")] = 60,
) -> None:
    """Send events from a file. Exit 0 only when every event was accepted; sending again changes no number."""
    from eventmill.cli import send as command

    raise typer.Exit(command.send(file, url, patience))


@app.command()
def plugins(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the backends and pages that are installed, and what is wrong with them."""
    from eventmill.cli import plugins as command

    command.show(as_json=json)


def main() -> None:
    """Run a command. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted."""
    try:
        app()
    except ConfigurationError as error:
        _leave(2, error)
    except EventmillError as error:
        _leave(1, error)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)


def _leave(code: int, error: EventmillError) -> None:
    sys.stderr.write(f"eventmill: {error}\n")
    sys.exit(code)
