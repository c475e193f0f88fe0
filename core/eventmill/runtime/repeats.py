"""Repeats: a log handler that writes a message once in ten seconds, and then how often it was repeated."""

import logging
import re
import threading
from dataclasses import dataclass

WINDOW_SECONDS = 10.0
MAX_VARIANTS = 20  # of one message with different texts in it; clients choose some of them
_Key = tuple[str, int, str]


@dataclass(slots=True)
class _Repeated:
    """A message that was written, without the objects in its record, and how often it came again."""

    name: str
    level: int
    message: str
    count: int = 0


class Repeats(logging.Handler):
    """Passes records on to another handler. Messages that differ only in numbers are the same.

    Debug records, and those with the field `operator`, which name who did something, are not limited.
    """

    def __init__(self, inner: logging.Handler, window_seconds: float = WINDOW_SECONDS) -> None:
        super().__init__()
        self._inner = inner
        self._window_seconds = window_seconds
        self._repeated: dict[_Key, _Repeated] = {}
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or count it if it repeats one of this window."""
        if record.levelno > logging.DEBUG and not hasattr(record, "operator"):
            key = self._find_key(record)
            if (repeated := self._repeated.get(key)) is not None:
                repeated.count += 1
                return
            self._repeated[key] = _Repeated(record.name, record.levelno, record.getMessage())
            self._start_window()
        self._inner.handle(record)

    def close(self) -> None:
        """Write what is counted, and close the other handler."""
        self._end_window()
        self._inner.close()
        super().close()

    def _find_key(self, record: logging.LogRecord) -> _Key:
        """Return what makes this message the same as another one: its text without numbers, or only its template."""
        template = (record.name, record.levelno, str(record.msg))
        variants = sum(key[:2] == template[:2] for key in self._repeated)
        if variants >= MAX_VARIANTS:
            return template
        return record.name, record.levelno, re.sub(r"\d+", "#", record.getMessage())

    def _start_window(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(self._window_seconds, self._end_window)
            self._timer.daemon = True
            self._timer.start()

    def _end_window(self) -> None:
        with self.lock:  # type: ignore[union-attr]  # every handler has one after its creation
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            repeated, self._repeated = self._repeated, {}
        for each in repeated.values():
            if each.count:
                self._inner.handle(self._describe(each))

    def _describe(self, repeated: _Repeated) -> logging.LogRecord:
        """Return a record that says how often the message was repeated."""
        message = f"{repeated.message} (repeated {repeated.count} times within {self._window_seconds:g} s)"
        return logging.LogRecord(repeated.name, repeated.level, "", 0, message, None, None)
