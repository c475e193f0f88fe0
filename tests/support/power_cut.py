"""Power cuts: a disk in a file that stops between two writes, and what eventmill has lost when it is back.

    PYTHONPATH=tests python tests/support/power_cut.py [SECONDS]

The disk is an ext4 file system on a loop device. A cut is the ioctl by which file systems are tested for the same: from
one moment on nothing reaches the device any more, and the page cache is dropped, so that only synced data survives.
"""

import fcntl
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from support.mill import Program, eventmill, running, wait_until

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
_WITHOUT_FLUSHING_THE_LOG = struct.pack("I", 2)
EVENTS = 10  # in a request
START = 1_766_707_200  # of the events' times
SETTINGS = {
    "EVENTMILL_LISTEN": "127.0.0.1:0",
    "EVENTMILL_QUEUE_SQLITE_LEASE_SECONDS": "2",
}


# Merged parts lie around for 30 to 40 seconds, which would hide what was lost with the merged one.
_HASTY = "cleanup_delay_period = 1, cleanup_delay_period_random_add = 0, max_cleanup_delay_period = 1"
_ALTER = f"""
import chdb, sys
connection = chdb.connect(sys.argv[1])
connection.query("ALTER TABLE events MODIFY SETTING {_HASTY}")
connection.close()
"""


class NoDisk(Exception):
    """This machine cannot create a disk; the message says why."""


@dataclass
class Disk:
    """A file system in a file, mounted at `folder`."""

    image: Path
    folder: Path

    def make(self, megabytes: int) -> None:
        """Make it and mount it. Raises NoDisk."""
        if os.geteuid() != 0:
            raise NoDisk("only root may mount a disk")
        with self.image.open("wb") as file:
            file.truncate(megabytes * 1024 * 1024)
        self.folder.mkdir(exist_ok=True)
        _run("mkfs.ext4", "-q", "-F", str(self.image))
        self.mount()

    def mount(self) -> None:
        """Mount it; the file system repairs itself from its journal. Raises NoDisk."""
        _run("mount", "-o", "loop", str(self.image), str(self.folder))

    def commit(self) -> None:
        """Write the journal, as the file system does every five seconds: names are on the disk then, data is not."""
        with (self.folder / "synced").open("wb") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())

    def cut(self) -> None:
        """Cut the power: nothing reaches the disk from now on. End the programs on it, then `unmount`."""
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _SHUTDOWN, _WITHOUT_FLUSHING_THE_LOG)
        finally:
            os.close(handle)

    def unmount(self) -> None:
        wait_until(lambda: subprocess.run(["umount", self.folder], capture_output=True, check=False).returncode == 0)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NoDisk(f"there is no {command[0]} here") from error
    if done.returncode:
        raise NoDisk(f"{command[0]}: {done.stderr.strip()}")


@contextmanager
def disk(folder: Path, megabytes: int = 1024) -> Iterator[Disk]:
    """Yield a disk, and remove it at the end."""
    made = Disk(folder / "disk.img", folder / "disk")
    made.make(megabytes)
    try:
        yield made
    finally:
        made.unmount()
        made.image.unlink()


@dataclass
class Sender:
    """Posts events until the power is cut, and records which were acknowledged, by a channel per request."""

    name: str
    acknowledged: set[str] = field(default_factory=set)
    ending: threading.Event = field(default_factory=threading.Event)

    def send(self, url: str) -> None:
        """Post one request after the other, until told to stop or until there is no response."""
        with httpx.Client(base_url=url, timeout=5) as client:
            for number in range(9_000):  # a question answers 10,000 groups
                try:
                    answer = client.post("/events/bulk", json=[self._event(number, i) for i in range(EVENTS)])
                except httpx.TransportError:
                    return
                if answer.status_code == 202:
                    self.acknowledged.add(str(number))
                if self.ending.wait(0.005):
                    return

    def _event(self, number: int, index: int) -> dict[str, object]:
        user = f"{number}-{index}"
        return {"event_name": self.name, "channel": str(number), "user_id": user, "timestamp": START + number}

    def lost(self, url: str) -> int:
        """How many acknowledged events are not stored."""
        span: dict[str, str | int] = {
            "event_name": self.name,
            "from": START,
            "to": START + 100_000,
            "group_by": "channel",
        }
        groups = httpx.get(f"{url}/metrics", params=span, timeout=30).raise_for_status().json()["groups"]
        stored = Counter({group["group_value"]: group["total_count"] for group in groups})
        return sum(EVENTS - stored[channel] for channel in self.acknowledged)


@dataclass
class Mill:
    """`eventmill run` with all its data on a disk, through power cuts."""

    disk: Disk
    batch_seconds: float = 0.05  # many small inserts make many merges
    senders: list[Sender] = field(default_factory=list)

    def start(self) -> AbstractContextManager[Program]:
        settings = SETTINGS | {"EVENTMILL_BATCH_SECONDS": str(self.batch_seconds)}
        return running("run", "--data", str(self._data), cwd=self.disk.image.parent, settings=settings)

    def make(self) -> None:
        """Make the tables, and let the engine remove at once what it has merged."""
        settings = {"EVENTMILL_STORE": "clickhouse", "EVENTMILL_STORE_CLICKHOUSE_URL": self.store_url}
        settings |= {"EVENTMILL_QUEUE": "sqlite", "EVENTMILL_QUEUE_SQLITE_PATH": str(self._data / "queue.db")}
        done = eventmill("migrate", cwd=self.disk.image.parent, settings=settings)
        assert done.returncode == 0, done.stderr
        subprocess.run([sys.executable, "-c", _ALTER, self._data / "chdb"], check=True)

    def post_and_cut(self, seconds: float) -> None:
        """Post for that long after the first acknowledgement, and cut the power in the midst of it."""
        sender = Sender(f"cut_{len(self.senders)}")
        self.senders.append(sender)
        with self.start() as program:
            sending = threading.Thread(target=sender.send, args=(program.url(),))
            sending.start()
            wait_until(lambda: bool(sender.acknowledged))
            time.sleep(seconds)
            before = set(sender.acknowledged)
            self.disk.cut()
            sender.ending.set()
            sending.join()
        sender.acknowledged &= before  # Linux lets an fsync succeed that meets this ioctl, without writing anything
        self.disk.unmount()
        self.disk.mount()

    def lost(self, seconds: float = 30) -> int:
        """Start again and wait until the queue is empty: how many acknowledged events are not stored then?"""
        with self.start() as program:
            url = program.url()
            wait_until(lambda: _is_drained(url), seconds)
            lost = sum(sender.lost(url) for sender in self.senders)
            assert program.stop() == 0
        return lost

    def parts(self) -> list[Path]:
        """The folders that hold events."""
        return list(self._data.glob("chdb/store/*/*/20????_*"))

    @property
    def store_url(self) -> str:
        return f"chdb://{self._data}/chdb"

    @property
    def acknowledged(self) -> int:
        return sum(len(sender.acknowledged) for sender in self.senders) * EVENTS

    @property
    def _data(self) -> Path:
        return self.disk.folder / "data"


def _is_drained(url: str) -> bool:
    depth = httpx.get(f"{url}/status", timeout=10).json()
    return bool(depth["ready"] == depth["in_flight"] == 0)


def cut_for(folder: Path, seconds: float) -> tuple[int, int, int]:
    """Cut the power again and again; return the cuts, the events acknowledged, and how many of them were lost."""
    until, lost = time.monotonic() + seconds, 0
    with disk(folder) as made:
        mill = Mill(made)
        mill.make()
        while time.monotonic() < until and not lost:
            mill.post_and_cut(min(15.0, seconds / 2))
            lost = mill.lost()
    return len(mill.senders), mill.acknowledged, lost


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 120.0
    with tempfile.TemporaryDirectory() as folder:
        cuts, acknowledged, lost = cut_for(Path(folder), seconds)
    sys.stdout.write(f"{cuts} cuts, {acknowledged} events acknowledged, {lost} of them lost\n")
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
