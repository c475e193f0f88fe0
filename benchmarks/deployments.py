"""Three deployments for the soak, with servers that can be broken and repaired."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from support import services

LEASE_SECONDS = "5"
DISK_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Outage:
    """A fault: how to break something, and how to repair it."""

    begin: Callable[[], object]
    end: Callable[[], object]

    @contextmanager
    def lasting(self) -> Iterator[None]:
        """It lasts as long as the block."""
        self.begin()
        try:
            yield
        finally:
            self.end()


@dataclass(frozen=True)
class Deployment:
    """A queue and a store.

    Attributes:
        store, queue: how each is taken away as a whole; None where it lives in the programs themselves.
        faults: what else goes wrong now and then.
        usage: what the queue's service has billed so far, if it counts that.
        environment: further variables for the programs.
    """

    settings: Mapping[str, str]
    store: Outage | None = None
    queue: Outage | None = None
    faults: list[Outage] = field(default_factory=list)
    usage: Callable[[], Mapping[str, int]] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def outages(self) -> list[Outage]:
        return [outage for outage in (self.store, self.queue, *self.faults) if outage]


@contextmanager
def embedded(folder: Path) -> Iterator[Deployment]:
    """SQLite and chDB, on a small disk of their own if one can be mounted, which another program fills."""
    disk = folder / "disk"
    disk.mkdir()
    with small_disk(disk) as is_small:
        filling = Outage(partial(fill, disk), (disk / "filler").unlink)
        yield Deployment({}, faults=[filling] if is_small else [], environment={"TMPDIR": str(disk)})


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small file system there; yield whether that was allowed."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    is_mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no byte free."""
    block = bytes(1024 * 1024)
    with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(block) == len(block):
            pass


@contextmanager
def redis(folder: Path) -> Iterator[Deployment]:
    """Redis and ClickHouse's HTTP interface."""
    with ExitStack() as stack:
        # Everything that was confirmed is on the disk: a killed server loses nothing.
        options = ("--appendonly", "yes", "--appendfsync", "always")
        server = stack.enter_context(services.running_redis(folder / "redis", *options))
        clickhouse = stack.enter_context(services.running_clickhouse(folder / "clickhouse"))
        settings = {
            "EVENTMILL_QUEUE": "redis",
            "EVENTMILL_QUEUE_REDIS_URL": server.url,
            "EVENTMILL_QUEUE_REDIS_LEASE_SECONDS": LEASE_SECONDS,
        }
        store, queue = Outage(clickhouse.kill, clickhouse.start), Outage(server.kill, server.start)
        yield Deployment(settings | _clickhouse(clickhouse), store, queue, [_partly(clickhouse)])


@contextmanager
def sqs(folder: Path) -> Iterator[Deployment]:
    """The SQS server of the tests, which fails in every way it knows, and ClickHouse's HTTP interface."""
    with ExitStack() as stack:
        server = stack.enter_context(services.running_sqs())
        clickhouse = stack.enter_context(services.running_clickhouse(folder / "clickhouse"))
        settings = services.AWS | {
            "EVENTMILL_QUEUE": "sqs",
            "EVENTMILL_QUEUE_SQS_URL": f"{server.endpoint}/000000000000/events",
            "EVENTMILL_QUEUE_SQS_LEASE_SECONDS": LEASE_SECONDS,
        }
        mend, receives = partial(server.fail, "", 0), "ReceiveMessage"
        faults = [Outage(partial(server.fail, kind, -1), mend) for kind in ("throttle", "lost", "partial", "cut")]
        faults += [
            Outage(partial(server.fail, kind, -1, receives), partial(server.fail, "", 0, receives))
            for kind in ("duplicate", "short")
        ]
        faults.append(_partly(clickhouse))
        store, queue = Outage(clickhouse.kill, clickhouse.start), Outage(partial(server.fail, "error", -1), mend)
        yield Deployment(settings | _clickhouse(clickhouse), store, queue, faults, partial(server.usage, "units"))


def _partly(server: services.ClickHouse) -> Outage:
    """Some rows always fail, as if a shard were unavailable."""
    return Outage(partial(server.fail, "part", 1_000_000), partial(server.fail, "", 0))


def _clickhouse(server: services.ClickHouse) -> dict[str, str]:
    return {"EVENTMILL_STORE": "clickhouse", "EVENTMILL_STORE_CLICKHOUSE_URL": server.url}


ALL = (embedded, redis, sqs)
