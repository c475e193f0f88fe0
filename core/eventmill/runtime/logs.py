"""The log: for people on a terminal, one plain line per record elsewhere."""

import logging
import sys
from types import TracebackType

from eventmill.text import escape

_Error = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class _Formatter(logging.Formatter):
    """Escapes what clients and servers can put into messages and errors."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        record.message = escape(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: _Error) -> str:  # noqa: N802 (logging's name)
        # Indented, so that no text of an error looks like a line of the log.
        return "\n".join(f"  {escape(line)}" for line in super().formatException(ei).split("\n"))


def start_log(level: str) -> None:
    """Log to stderr from this level on."""
    handler: logging.Handler = logging.StreamHandler()
    if sys.stderr.isatty():
        from rich.console import Console  # only here, since a server without a terminal starts faster without it
        from rich.logging import RichHandler

        handler = RichHandler(console=Console(stderr=True), show_path=False)
        handler.setFormatter(_Formatter("%(message)s"))
    else:
        handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for noisy in ("uvicorn", "httpx", "httpcore", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
