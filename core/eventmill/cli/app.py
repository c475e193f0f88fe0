"""The commands and their options. Each command imports its code only when it runs."""

import gc
import sys
from pathlib import Path
from typing import Annotated

import typer

from eventmill.cli.operating import Json, add_operator_commands
from eventmill.cli.questions import add_question_commands
from eventmill.errors import ConfigurationError, EventmillError
from eventmill.text import escape

_START_OBJECTS = 1_000_000  # imports create many objects and hardly any garbage, and a server sets its own threshold

app = typer.Typer(
    name="eventmill",
    help="Event ingestion and analytics. Configure it with environment variables named EVENTMILL_…, or in a .env file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

add_operator_commands(app)
add_question_commands(app)

Listen = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Address on which the API listens.", show_default=False)
]


@app.command()
def run(
    memory: Annotated[bool, typer.Option("--memory", help="Keep all data in memory. It is lost on exit.")] = False,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Data folder of the embedded backends. Default: eventmill-data.")
    ] = None,
    listen: Listen = None,
) -> None:
    """Run the API and the consumer in one process, by default on embedded backends."""
    from eventmill.cli import run as command

    command.run(memory=memory, data=data, listen=listen)


@app.command()
def serve(
    listen: Listen = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Number of API processes that share the address.", show_default="1"),
    ] = None,
) -> None:
    """Run the API only. It publishes events to the queue, and answers queries by reading the store."""
    from eventmill.cli import serve as command

    command.serve(listen=listen, workers=workers)


@app.command()
def explore(listen: Listen = None) -> None:
    """Show the events of a deployment in a browser, at 127.0.0.1:8090 by default.

    It needs the settings of the deployment. It is a further API process, with the explorer at /.
    """
    from eventmill.cli import serve as command

    command.explore(listen=listen)


@app.command()
def consume() -> None:
    """Run a consumer, which moves events from the queue to the store. Any number can run at the same time."""
    from eventmill.cli import consume as command

    command.consume()


@app.command()
def migrate(
    show: Annotated[bool, typer.Option("--print", help="Print the statements instead of executing them.")] = False,
) -> None:
    """Create or upgrade the queues and the schema of the chosen backends."""
    from eventmill.cli import migrate as command

    command.migrate(show=show)


@app.command()
def crashtest(
    seconds: Annotated[float, typer.Option(min=1, help="How long to post events, in seconds.")] = 30,
    rate: Annotated[float, typer.Option(min=1, help="Events per second.")] = 200,
    kill9: Annotated[bool, typer.Option("--kill9", help="Kill the programs with SIGKILL instead of SIGTERM.")] = False,
    queue: Annotated[
        str | None, typer.Option(help="The queue. Default: EVENTMILL_QUEUE, or SQLite in a temporary folder.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="The store. Default: EVENTMILL_STORE, or chDB in a temporary folder.")
    ] = None,
    outage_command: Annotated[
        str | None,
        typer.Option(
            metavar="CMD",
            help="A program that stops and starts the servers: `CMD stop` and `CMD start` are called at random times."
            " `CMD start` also runs at the beginning and at the end. It must succeed if the servers already run.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Crash the programs under load, and verify that no event is lost, counted twice or altered.

    Exit with 1 on failure.
    """
    from eventmill.cli import crashtest as command
    from eventmill.crashtest.runner import Plan

    command.crashtest(
        plan=Plan(seconds, rate, kill9), queue=queue, store=store, outage_command=outage_command, as_json=json
    )


keys = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)
app.add_typer(keys, name="keys")


@keys.command("new")
def new_key(
    scope: Annotated[str, typer.Option(help="What the key may do: write, read, or admin (everything).")],
    project: Annotated[
        str | None,
        typer.Option(help="The only project of the key; * for an admin key of all. Default: EVENTMILL_PROJECT."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the key, for people.")] = "",
    expires: Annotated[
        str | None, typer.Option(help="When it expires: a time, or a span such as 90d or 12h. Default: never.")
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(help="Web origin whose pages may use the key, such as https://app.example. Repeat for more."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the secret and the record for EVENTMILL_KEYS; change no file.")
    ] = False,
) -> None:
    """Create a key, add its digest to EVENTMILL_KEYS_FILE, and print the secret once."""
    from eventmill.cli import keys as command

    command.new(scope=scope, project=project, name=name, expires=expires, origins=origin or (), as_json=json)


@keys.command("list")
def list_keys(json: Json = False) -> None:
    """List the keys of EVENTMILL_KEYS_FILE, without their secrets."""
    from eventmill.cli import keys as command

    command.show(as_json=json)


@keys.command("revoke")
def revoke_keys(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids, id prefixes or names of keys.")],
) -> None:
    """Revoke keys. Running processes reject them within 2 s."""
    from eventmill.cli import keys as command

    command.revoke(ids)


@app.command()
def send(
    file: Annotated[
        str, typer.Argument(metavar="FILE|-", help="NDJSON file, also gzip or zstd compressed; - reads standard input.")
    ],
    url: Annotated[str, typer.Option(help="URL of the API.")] = "http://127.0.0.1:8080",
    key: Annotated[
        str | None, typer.Option(envvar="EVENTMILL_KEY", help="Write key of the API.", show_envvar=True)
    ] = None,
    patience: Annotated[float, typer.Option(min=0, help="Give up on a failing request after this many seconds.")] = 60,
) -> None:
    """Send the events of a file to the API. Sending it again changes no count.

    Exit with 0 only if all events were accepted.
    """
    from eventmill.cli import send as command

    raise typer.Exit(command.send(file, url, key, patience))


@app.command()
def copy(
    source: Annotated[
        str,
        typer.Argument(help="A file, a data folder of `eventmill run`, store (of the settings), or a URL of an API."),
    ],
    target: Annotated[
        str,
        typer.Argument(
            help="A file (.ndjson, .ndjson.gz, .ndjson.zst, .parquet), a data folder, or store (of the settings)."
        ),
    ],
    key: Annotated[
        str | None, typer.Option(envvar="EVENTMILL_KEY", help="Read or admin key of an API; of project * for all.")
    ] = None,
    project: Annotated[
        list[str] | None, typer.Option(help="Only this project of a store or an API. Repeat for more. Default: all.")
    ] = None,
) -> None:
    """Copy events between stores and files, also as a backup. Run it again to go on after an interruption.

    Copying an event again changes nothing. Exit with 1 if the target holds fewer events than were copied.
    """
    from eventmill.cli import copy as command

    command.copy(source, target, key, project or ())


@app.command()
def plugins(json: Json = False) -> None:
    """List the installed queues, stores and HTTP pages, and whether they work."""
    from eventmill.cli import plugins as command

    command.show(as_json=json)


@app.command()
def settings(
    json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/settings.md.")] = False,
) -> None:
    """List all settings with their defaults, and the values that are set, without secrets."""
    from eventmill.cli import settings as command

    command.show(as_json=json, as_markdown=markdown)


def main() -> None:
    """Run a command. Exit codes: 0 success, 1 failure, 2 wrong usage or configuration, 130 interrupted."""
    gc.set_threshold(_START_OBJECTS)
    try:
        _check_arguments()
        app()
    except ConfigurationError as error:
        _exit(2, error)
    except EventmillError as error:
        _exit(1, error)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)


def _check_arguments() -> None:
    for argument in sys.argv:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise ConfigurationError(f"the argument {argument!r} is not UTF-8")


def _exit(code: int, error: EventmillError) -> None:
    sys.stderr.write(f"eventmill: {escape(str(error))}\n")
    sys.exit(code)
