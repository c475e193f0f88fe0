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
