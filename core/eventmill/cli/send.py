"""eventmill send: post the events of a file to the API."""

import io
import signal
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from eventmill.runtime.sending import (
    UNPACK_ERRORS,
    SendFailed,
    Tally,
    Target,
    check_url,
    open_source,
    post,
    read_bulks,
    unpack,
)
from eventmill.text import escape


def send(file: str, url: str, key: str | None, patience_seconds: float) -> int:
    """Send all events of `file`; return the exit code."""
    check_url(url)
    source = open_source(file)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tally = Tally()
    started = time.monotonic()
    failure = ""
    target = Target(url, key)
    with source, _Progress(source, file) as advance:
        try:
            for bulk in read_bulks(unpack(source), tally):
                post(target, bulk, tally, patience_seconds)
                advance(tally)
        except (SendFailed, OSError, *UNPACK_ERRORS) as error:
            failure = f"gave up: {error}"
        except KeyboardInterrupt:
            failure = "interrupted"
    seconds = time.monotonic() - started
    summary = f"accepted {tally.accepted} of {tally.read} events in {seconds:.1f} s"
    sys.stdout.write(summary + (f", rejected {tally.rejected}" if tally.rejected else "") + "\n")
    if failure:
        sys.stderr.write(f"eventmill: {escape(failure)}\n")
    return 0 if tally.accepted == tally.read and not failure else 1


class _Progress:
    """Shows the progress of sending on a terminal, and nothing elsewhere."""

    def __init__(self, source: io.BufferedReader, file: str) -> None:
        self._source = source
        size = Path(file).stat().st_size if file != "-" and Path(file).is_file() else None
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("sending", total=size)

    def __call__(self, tally: Tally) -> None:
        position = self._source.tell() if self._source.seekable() else None
        self._progress.update(self._task, completed=position, description=f"{tally.accepted} accepted")

    def __enter__(self) -> "_Progress":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()
