"""Files of events for `eventmill copy`: NDJSON, also compressed with gzip or zstd, and Parquet.

A line is the JSON of an event with all its fields. A compressed file has one frame per page, so that a copy that was
interrupted goes on after the last whole page.
"""

import gzip
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from eventmill.errors import ConfigurationError, EventmillError
from eventmill.event import EVENT_FIELDS, Event, decode_line, encode_line
from eventmill.runtime.sending import UNPACK_ERRORS, unpack

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PAGE_EVENTS = 5_000
PARQUET = ".parquet"
_PACK: dict[str, Callable[[bytes], bytes]] = {".ndjson": bytes, ".gz": gzip.compress, ".zst": zstd.compress}
SUFFIXES = (*_PACK, PARQUET)


class CopyFailed(EventmillError):
    """A copy cannot continue. The message says where, and what to do."""


def read_events(path: Path, skip: int) -> Iterator[list[Event]]:
    """Yield the events of a file in pages, without the first `skip`. Raise CopyFailed."""
    events = _read_parquet(path) if path.suffix == PARQUET else _read_lines(path)
    rest = islice(events, skip, None)
    while page := list(islice(rest, PAGE_EVENTS)):
        for event in page:
            _check(event, path)
        yield page


def _check(event: Event, path: Path) -> None:
    """Raise CopyFailed for an event that no API has accepted."""
    try:
        is_object = bytes(event.metadata)[:1] == b"{" and isinstance(msgspec.json.decode(event.metadata), dict)
    except msgspec.DecodeError:
        is_object = False
    if not (is_object and event.user_id and event.event_name and event.event_id and event.project):
        raise CopyFailed(f"{path}: the event {event.event_id[:64]!r} lacks a field, or its metadata is no JSON object")


def _read_lines(path: Path) -> Iterator[Event]:
    number = 0
    try:
        with path.open("rb") as file:
            for line in unpack(file):
                number += 1
                if line.strip():
                    yield decode_line(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CopyFailed(
            f"{path}, line {number}: not an event of a copy ({error}). `eventmill send` sends files of other events"
        ) from None
    except (OSError, *UNPACK_ERRORS) as error:
        raise CopyFailed(f"{path}, after line {number}: {error or type(error).__name__}") from None


def _read_parquet(path: Path) -> Iterator[Event]:
    parquet = _import_parquet()
    names = [field.name for field in EVENT_FIELDS]
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(PAGE_EVENTS, columns=names):
                for row in batch.to_pylist():
                    raw = {name: msgspec.Raw(row[name].encode()) for name in _RAW_FIELDS}
                    yield msgspec.convert(row | raw, Event)
    except (msgspec.ValidationError, AttributeError, KeyError, ValueError, OSError) as error:
        raise CopyFailed(f"{path} is not a file of a copy: {error}") from None


def is_written(path: Path, partial: Path, size: int) -> bool:
    """Return whether the partial file still has what a progress says."""
    if path.suffix == PARQUET:
        return all((partial / f"{number:06}").exists() for number in range(size))
    return size == 0 or (partial.exists() and partial.stat().st_size >= size)


class EventFile:
    """A file that is being written: pages go to `partial`, for Parquet a folder, which `finish` gives its name.

    Attributes:
        size: what is written: bytes, or for Parquet pages.
    """

    def __init__(self, path: Path, partial: Path, size: int) -> None:
        if path.exists():
            raise ConfigurationError(f"{path} exists: remove it, or choose another name")
        self.size = size
        self._path = path
        self._partial = partial
        try:
            if path.suffix == PARQUET:
                _import_parquet()
                self._partial.mkdir(exist_ok=True)
            else:
                with self._partial.open("ab") as file:
                    file.truncate(size)
        except OSError as error:
            raise ConfigurationError(f"cannot write {path}: {error.strerror}") from None

    def write(self, events: Sequence[Event]) -> None:
        """Append a page, and sync it to the disk."""
        if self._path.suffix == PARQUET:
            _import_parquet().write_table(_to_table(events), self._part(self.size), compression="zstd")
            _sync(self._part(self.size))
            self.size += 1
            return
        lines = b"".join(encode_line(event) + b"\n" for event in events)
        with self._partial.open("ab") as file:
            file.write(_PACK[self._path.suffix](lines))
            file.flush()
            os.fsync(file.fileno())
            self.size = file.tell()

    def finish(self) -> None:
        """Give the file its name."""
        if self._path.suffix == PARQUET:
            whole = self._partial / "whole"
            self._join(whole)
            _sync(whole)
            whole.rename(self._path)
            shutil.rmtree(self._partial)
        else:
            self._partial.rename(self._path)
        _sync(self._path.parent)

    def discard(self) -> None:
        """Remove what was written."""
        if self._path.suffix == PARQUET:
            shutil.rmtree(self._partial, ignore_errors=True)
        else:
            self._partial.unlink(missing_ok=True)

    def _join(self, whole: Path) -> None:
        """Write the pages into one file."""
        parquet = _import_parquet()
        with parquet.ParquetWriter(whole, _to_table(()).schema, compression="zstd") as writer:
            for number in range(self.size):
                writer.write_table(parquet.read_table(self._part(number)))

    def _part(self, number: int) -> Path:
        return self._partial / f"{number:06}"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _import_parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ConfigurationError("Parquet files need pyarrow: pip install 'eventmill[parquet]'") from None
    return parquet


def _to_table(events: Sequence[Event]) -> Any:
    """Return a table whose columns are the attributes of `Event`; metadata is JSON."""
    import pyarrow

    types = {"timestamp_ms": pyarrow.int64(), "received_at_ms": pyarrow.int64(), "version": pyarrow.uint64()}
    texts = pyarrow.list_(pyarrow.string())
    schema = pyarrow.schema(
        [
            (field.name, types.get(field.name, texts if isinstance(field.default, tuple) else pyarrow.string()))
            for field in EVENT_FIELDS
        ]
    )
    columns = {field.name: [_to_column(getattr(event, field.name)) for event in events] for field in EVENT_FIELDS}
    return pyarrow.table(columns, schema=schema)


def _to_column(value: Any) -> Any:
    return bytes(value).decode() if isinstance(value, msgspec.Raw) else value


_RAW_FIELDS = {field.name for field in EVENT_FIELDS if isinstance(field.default, msgspec.Raw)}
