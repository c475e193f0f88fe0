"""Each message is a file. An index, which a lock protects, says when each one can be received."""

import asyncio
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar
from uuid import uuid4

import msgspec

from eventmill import Delivery, Depth, PartialFailure, Queue, QueueUnavailable, Refused

T = TypeVar("T")

_MAX_BODY_BYTES = 1024 * 1024
_POLL_SECONDS = 0.02


class Entry(msgspec.Struct):
    """The state of one message. Times are on the clock of time.monotonic(), which all processes share."""

    enqueued_at_ms: int
    visible_at: float
    attempts: int = 0
    lease: str = ""


class Index(msgspec.Struct):
    """All messages. `boot` names the run of the machine whose clock the entries use."""

    boot: str
    entries: dict[str, Entry] = {}


class Lease(NamedTuple):
    name: str
    token: str


class FolderQueue(Queue):
    """One queue in one folder."""

    def __init__(self, path: Path, lease_seconds: float, max_messages: int, dead: Queue | None = None) -> None:
        self._path = path
        self._lease_seconds = lease_seconds
        self._max_messages = max_messages
        self._dead = dead

    @property
    def max_body_bytes(self) -> int:
        return _MAX_BODY_BYTES

    @property
    def lease_seconds(self) -> float:
        return self._lease_seconds

    @property
    def dead(self) -> Queue:
        return self._dead or self

    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        large = {i: Refused(f"{len(body)} bytes") for i, body in enumerate(bodies) if len(body) > _MAX_BODY_BYTES}
        files = {uuid4().hex: body for i, body in enumerate(bodies) if i not in large}
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await asyncio.to_thread(self._add, files)
        except TimeoutError:  # the thread goes on, and may still succeed
            raise QueueUnavailable("the disk is slow, or another process holds the lock of the folder") from None
        if large:
            raise PartialFailure(large)

    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        until = time.monotonic() + wait_seconds
        while not (deliveries := await self._change(lambda entries: self._lease(entries, max_messages))):
            if time.monotonic() >= until:
                break
            await asyncio.sleep(_POLL_SECONDS)
        return deliveries

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        def remove(entries: dict[str, Entry]) -> None:
            for name, _ in self._held(entries, deliveries):
                del entries[name]
                (self._path / name).unlink(missing_ok=True)

        await self._change(remove)

    async def release(self, deliveries: Sequence[Delivery], delay_seconds: float = 0) -> None:
        def reset(entries: dict[str, Entry]) -> None:
            for _, entry in self._held(entries, deliveries):
                entry.lease, entry.visible_at = "", time.monotonic() + delay_seconds

        await self._change(reset)

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        def restart(entries: dict[str, Entry]) -> set[str]:
            held = list(self._held(entries, deliveries))
            for _, entry in held:
                entry.visible_at = time.monotonic() + self._lease_seconds
            return {name for name, _ in held}

        held = await self._change(restart)
        return [delivery for delivery in deliveries if delivery.lease.name not in held]

    async def depth(self) -> Depth:
        entries = await self._change(lambda entries: dict(entries))
        in_flight = sum(entry.visible_at > time.monotonic() for entry in entries.values())
        oldest_ms = min((entry.enqueued_at_ms for entry in entries.values()), default=None)
        age_seconds = 0.0 if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000)
        return Depth(len(entries) - in_flight, in_flight, age_seconds)

    async def check(self) -> list[str]:
        count = await self._change(len)
        if count >= self._max_messages:
            raise QueueUnavailable(f"the folder is full ({self._max_messages} messages)")
        return []

    def _add(self, files: dict[str, bytes]) -> None:
        """Write the bodies without the lock, so that several publishers do it at once; then add them to the index."""

        def add(entries: dict[str, Entry]) -> None:
            if len(entries) + len(files) > self._max_messages:
                self._delete(files)
                raise QueueUnavailable(f"the folder is full ({self._max_messages} messages)")
            for name in files:
                entries[name] = Entry(time.time_ns() // 1_000_000, time.monotonic())

        try:
            with self._failures_named():
                self._path.mkdir(parents=True, exist_ok=True)
                for name, body in files.items():
                    _write(self._path / name, body)
        except QueueUnavailable:
            self._delete(files)
            raise
        self._change_now(add)

    def _delete(self, names: Iterable[str]) -> None:
        for name in names:
            (self._path / name).unlink(missing_ok=True)

    def _lease(self, entries: dict[str, Entry], max_messages: int) -> list[Delivery]:
        """Lease the messages that have been visible longest, so that new and old ones take turns."""
        now = time.monotonic()
        visible = sorted((entry.visible_at, name) for name, entry in entries.items() if entry.visible_at <= now)
        deliveries = []
        for _, name in visible[:max_messages]:
            entry = entries[name]
            entry.attempts, entry.lease, entry.visible_at = entry.attempts + 1, uuid4().hex, now + self._lease_seconds
            body = (self._path / name).read_bytes()
            deliveries.append(Delivery(body, entry.attempts, entry.enqueued_at_ms, Lease(name, entry.lease)))
        return deliveries

    @staticmethod
    def _held(entries: dict[str, Entry], deliveries: Sequence[Delivery]) -> Iterator[tuple[str, Entry]]:
        """Yield the messages whose lease these deliveries still hold."""
        for delivery in deliveries:
            entry = entries.get(delivery.lease.name)
            if entry is not None and entry.lease == delivery.lease.token:
                yield delivery.lease.name, entry

    async def _change(self, work: Callable[[dict[str, Entry]], T]) -> T:
        """Run the work on the index in a thread, and store the index durably."""
        return await asyncio.to_thread(self._change_now, work)

    def _change_now(self, work: Callable[[dict[str, Entry]], T]) -> T:
        with self._failures_named(), self._locked():
            index = self._path / "index"
            stored = index.read_bytes() if index.exists() else msgspec.json.encode(Index(_boot()))
            present = msgspec.json.decode(stored, type=Index)
            if present.boot != _boot():  # the clock has started again: all leases and delays have ended
                present = Index(_boot(), {name: _freed(entry) for name, entry in present.entries.items()})
            result = work(present.entries)
            if (changed := msgspec.json.encode(present)) != stored:
                _write(self._path / "index.new", changed)
                (self._path / "index.new").replace(index)
                _sync_folder(self._path)
            return result

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise QueueUnavailable(f"cannot use the folder {self._path.name}: {error.strerror}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._path.mkdir(parents=True, exist_ok=True)
        with (self._path / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _boot() -> str:
    """Return a name for this run of the machine."""
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    return boot_id.read_text().strip() if boot_id.exists() else "unknown"


def _freed(entry: Entry) -> Entry:
    return Entry(entry.enqueued_at_ms, 0.0, entry.attempts)


def _sync_folder(path: Path) -> None:
    """Make new and renamed files of the folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
