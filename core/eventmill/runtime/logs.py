"""The log: for people on a terminal, one JSON object per record elsewhere."""

import logging
import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import msgspec

from eventmill.runtime.repeats import Repeats
from eventmill.text import escape

_Error = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class _TextFormatter(logging.Formatter):
    """Escapes what clients and servers can put into messages and errors, and appends the fields of a record."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        record.message = escape(record.message)
        fields = "".join(f"  {name}={escape(str(value))}" for name, value in _fields(record).items())
        return super().formatMessage(record) + fields

    def formatException(self, ei: _Error) -> str:  # noqa: N802 (logging's name)
        # Indented, so that no text of an error looks like a line of the log.
        return "\n".join(f"  {escape(line)}" for line in super().formatException(ei).split("\n"))


class _JsonFormatter(logging.Formatter):
    """One JSON object per record: time, level, logger, message, the record's own fields, and a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {name: _plain(value) for name, value in _fields(record).items()}
        entry |= {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": escape(record.getMessage()),
        }
        if record.exc_info:
            lines = self.formatException(record.exc_info).split("\n")
            entry["traceback"] = "\n".join(map(escape, lines))
        return msgspec.json.encode(entry).decode()


def _plain(value: object) -> object:
    """Return a value that JSON can hold, with its texts escaped."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else escape(str(value))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields that `extra` gave to a record."""
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


def start_log(level: str) -> None:
    """Log to stderr from this level on. A message that repeats is logged once in ten seconds, with its count."""
    handler: logging.Handler = logging.StreamHandler()
    if sys.stderr.isatty():
        from rich.console import Console  # only here, since a server without a terminal starts faster without it
        from rich.logging import RichHandler

        handler = RichHandler(console=Console(stderr=True), show_path=False)
        handler.setFormatter(_TextFormatter("%(message)s"))
    else:
        handler.setFormatter(_JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[Repeats(handler)])
    for noisy in ("uvicorn", "httpx", "httpcore", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
