"""Repeats: a log handler that writes a message once in ten seconds, and then how often it was repeated."""

import logging
import re
import threading
from collections import Counter
from dataclasses import dataclass, field

WINDOW_SECONDS = 10.0
MAX_VARIANTS = 20  # of one message with different texts in it; clients choose some of them
MAX_MESSAGES = 500  # different ones in a window
MAX_IDS = 10  # of requests, with each message
_Key = tuple[str, int, str]


@dataclass(slots=True)
class _Repeated:
    """A message that was written, without the objects in its record, and how often it came again."""

    name: str
    level: int
    message: str
    count: int = 0
    request_ids: list[str] = field(default_factory=list)


class Repeats(logging.Handler):
    """Passes records on to another handler. Messages that differ only in numbers are the same.

    Not limited are debug records, those with the field `operator`, which name who did something, and those with the
    field `count`, which sum up by themselves.
    """

    def __init__(self, inner: logging.Handler, window_seconds: float = WINDOW_SECONDS) -> None:
        super().__init__()
        self._inner = inner
        self._window_seconds = window_seconds
        self._repeated: dict[_Key, _Repeated] = {}
        self._variants: Counter[_Key] = Counter()
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or count it if it repeats one of this window."""
        try:
            self._emit(record)
        except Exception:  # a malformed message must not fail the code that logs it
            self.handleError(record)

    def _emit(self, record: logging.LogRecord) -> None:
        if record.levelno <= logging.DEBUG or hasattr(record, "operator") or hasattr(record, "count"):
            self._inner.handle(record)
            return
        template = (record.name, record.levelno, str(record.msg))
        key, text = self._find_key(record, template)
        repeated = self._repeated.get(key)
        if repeated is None:
            self._variants[template] += 1
            self._repeated[key] = _Repeated(record.name, record.levelno, text)
            self._start_window()
            self._inner.handle(record)
            return
        repeated.count += 1
        if (request_id := getattr(record, "request_id", None)) and len(repeated.request_ids) < MAX_IDS:
            repeated.request_ids.append(request_id)

    def close(self) -> None:
        """Write what is counted, and close the other handler."""
        self._end_window()
        self._inner.close()
        super().close()

    def _find_key(self, record: logging.LogRecord, template: _Key) -> tuple[_Key, str]:
        """Return what makes this message the same as another one, and what to say of those that repeat it."""
        if self._variants[template] >= MAX_VARIANTS:
            return template, f"more messages such as {record.getMessage()}"
        if len(self._repeated) >= MAX_MESSAGES:
            return (record.name, record.levelno, ""), "more messages"
        error = record.exc_info[1] if record.exc_info else None
        text = record.getMessage() + (f" ({type(error).__name__}: {error})" if error else "")
        return (record.name, record.levelno, re.sub(r"\d+", "#", text)), text

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
            self._variants.clear()
        for each in repeated.values():
            if each.count:
                self._inner.handle(self._describe(each))

    def _describe(self, repeated: _Repeated) -> logging.LogRecord:
        """Return a record that says how often the message was repeated, and for which requests."""
        message = f"{repeated.message} (repeated {repeated.count} times within {self._window_seconds:g} s)"
        record = logging.LogRecord(repeated.name, repeated.level, "", 0, message, None, None)
        if repeated.request_ids:
            record.request_ids = repeated.request_ids
        return record
